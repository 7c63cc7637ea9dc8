from pathlib import Path

import pytest
from ruamel.yaml import YAML

from ptqflow.benchmark.params import BenchmarkParams
from ptqflow.core.errors import ParamsError
from ptqflow.core.params import read_params

ROOT = Path(__file__).parents[2]
PARAMS = {"batch_sizes": [1, 2], "threads": 1, "rounds": 3, "seconds": 0.01}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"treads": 2}, r"unknown key benchmark\.treads; did you mean threads\?"),
        ({"batch_sizes": []}, r"benchmark\.batch_sizes is \[\]"),
        ({"batch_sizes": [1, 1]}, r"benchmark\.batch_sizes is \[1, 1\]: holds a number twice"),
        ({"batch_sizes": [0]}, r"benchmark\.batch_sizes\.0 is 0"),
        ({"threads": 0}, r"benchmark\.threads is 0"),
        ({"rounds": 2}, r"benchmark\.rounds is 2: input should be greater than or equal to 3"),
        ({"seconds": 0.0}, r"benchmark\.seconds is 0\.0"),
    ],
)
def test_a_bad_param_is_one_line_that_names_it(changes: dict[str, object], message: str) -> None:
    YAML().dump({"benchmark": PARAMS | changes}, Path("params.yaml"))
    with pytest.raises(ParamsError, match=message) as caught:
        read_params("benchmark", BenchmarkParams)
    assert "\n" not in str(caught.value)


def test_the_defaults_are_valid() -> None:
    assert read_params("benchmark", BenchmarkParams, ROOT / "params.yaml").batch_sizes == (1, 32, 256)
