"""Small networks of every kind, each through disk, INT8, ONNX and sensitivity, beside ONNX Runtime's own quantizer."""

import math
from pathlib import Path

import pytest
from fresh_process import decibels
from zoo.measure import PARAMS, Measured, measure
from zoo.networks import GROUPS, NETWORKS
from zoo.table import read_table

from ptqflow.core.engines import available_engines
from ptqflow.core.errors import ModelError

TABLE = read_table()
REFUSED = [name for name, row in TABLE.items() if row.torch_db is None]
DEFICIT_DB = 1.0
"""That INT8 may be farther from FP32 than what ONNX Runtime's quantizer makes."""
RETRAINED_DB = 4.0
"""The same where it is trained again, on another CPU: the table has what counts, one training each."""
BETWEEN_RUNTIMES_DB = 1.0
"""That torch and ONNX Runtime may differ by."""
BETWEEN_MACHINES_DB = 10.0
"""That a network may be worse than its row: sums are rounded differently on another CPU, so training ends elsewhere."""
AHEAD = 0.95

CI_MEASURES = 8
"""Of so many networks one is measured in CI, all of them by `make test-zoo`."""
LARGE = ("maxvit",)
"""A tenth of the time of all."""
MEASURED = [
    pytest.param(name, marks=[pytest.mark.zoo] if index % CI_MEASURES or name in LARGE else [])
    for index, name in enumerate(name for name in NETWORKS if name not in REFUSED)
]

pytestmark = pytest.mark.skipif(PARAMS.engine not in available_engines(), reason=f"torch has no {PARAMS.engine} here")


def test_the_zoo_has_at_least_120_networks_and_no_name_twice() -> None:
    assert len(NETWORKS) >= 120
    assert len(NETWORKS) == sum(map(len, GROUPS.values()))


def test_the_table_has_every_network_in_the_order_of_the_zoo() -> None:
    assert list(TABLE) == list(NETWORKS), "run `make networks`"


def test_the_table_trails_onnx_runtime_by_1_db_at_most_and_leads_on_95_percent() -> None:
    leads = {name: row.lead_db for name, row in TABLE.items() if row.lead_db is not None}
    assert {name: lead for name, lead in leads.items() if lead < -DEFICIT_DB} == {}
    assert sum(lead > 0 for lead in leads.values()) >= AHEAD * len(leads)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of torch, torchvision and ONNX Runtime about the networks
@pytest.mark.parametrize("name", MEASURED)
def test_int8_is_as_near_to_fp32_as_the_table_says(name: str, tmp_path: Path) -> None:
    found, row = measure(name, tmp_path), TABLE[name]
    assert found.reloaded_equally
    assert row.torch_db is not None
    assert found.torch_db >= decibels(row.torch_db - BETWEEN_MACHINES_DB, PARAMS.engine)
    assert (found.onnx_db is None) == (row.onnx_db is None), found.note
    if found.onnx_db is not None:
        # It may be better: pixels midway between two levels, as with a mean of 0.5, are rounded to either.
        assert found.onnx_db >= found.torch_db - BETWEEN_RUNTIMES_DB
    _require_no_loss_to_onnx_runtime(found)
    assert all(
        value is None or math.isfinite(value)
        for module in found.sensitivities.values()
        for value in (module.alone.sqnr_db, module.network.sqnr_db)
    )


def _require_no_loss_to_onnx_runtime(found: Measured) -> None:
    if found.onnx_db is not None and found.onnxruntime_db is not None:
        least = decibels(found.onnxruntime_db - RETRAINED_DB, PARAMS.engine)
        assert min(found.torch_db, found.onnx_db) >= least


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of torch about the networks
@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_quantized_is_refused_in_one_line_with_a_remedy(name: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError) as refusal:
        measure(name, tmp_path)
    message = str(refusal.value)
    assert "\n" not in message
    assert "; " in message  # what is to be done
