"""The INT8 network within its budget: what the stage writes."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import Tensor

from ptqflow.calib.sampling import input_batches
from ptqflow.calib.statistics import Statistics
from ptqflow.convert.accuracy_budget import Budget, describe_trial, meet_budget
from ptqflow.convert.bias_correction import correction_rows, describe_correction
from ptqflow.convert.clipping import warn_of_clipping
from ptqflow.convert.method_search import Search, search_methods
from ptqflow.convert.params import ConvertParams
from ptqflow.convert.quantize import Quantized, quantize, require_int8_layers
from ptqflow.convert.smoothing import require_equal
from ptqflow.core.stage import free_memory
from ptqflow.data.batching import images_together
from ptqflow.data.dataset import Dataset
from ptqflow.fx.fidelity import measure_fidelity, require_fidelity
from ptqflow.models.fp32 import Fp32Model

_PIXELS = 1 << 19  # of the images that go through whole networks at once: 10 of 224x224


@dataclass(frozen=True)
class Conversion:
    """An INT8 network, and how it came about."""

    quantized: Quantized
    search: Search
    budget: Budget
    images: Tensor
    """Of the first calibration batch, on which what is written is compared with what is read back."""


def convert_network(
    fp32: Fp32Model, params: ConvertParams, statistics: Statistics, dataset: Dataset, report: Callable[[str], None]
) -> Conversion:
    """Choose methods and what stays FP32, and convert.

    Args:
        fp32: the network.
        params: the `convert` section.
        statistics: what `calib` collected.
        dataset: that it was collected on.
        report: called with one line for each trial.

    Warns:
        PtqflowWarning: the method of the params cuts off signal.

    Raises:
        ParamsError: as `quantize` and `meet_budget`, or nothing is left to quantize.
        ModelError: as `quantize`, or INT8 is too far from FP32 for `convert.min_sqnr_db`.
    """
    search = search_methods(fp32, params, statistics, dataset.train, report)
    free_memory()
    smoothed = search.smoothed
    budget = Budget((), ())
    if params.max_drop is not None:
        budget = meet_budget(
            smoothed.fp32.module,
            fp32.card,
            search.params,
            smoothed.statistics,
            dataset.train,
            dataset.val,
            lambda trial: report(describe_trial(trial)),
        )
    network, seen = smoothed.fp32, smoothed.statistics
    quantized = quantize(network.module, fp32.card, search.params, seen, dataset.train, budget.kept)
    require_int8_layers(quantized, params, budget.kept)
    warn_of_clipping(network, quantized.prepared, quantized.scheme, params, seen, dataset.train)
    free_memory()
    if quantized.correction:
        report(describe_correction(quantized.correction))
        search = replace(search, rows=(*search.rows, *correction_rows(quantized.correction)))
    card = quantized.card.model_copy(update={"smooth_quant": search.params.smooth_quant, "scales": smoothed.scales})
    quantized = replace(quantized, card=card)
    few = images_together(fp32.card.preprocessing.size, _PIXELS)
    images = next(input_batches(dataset.train, statistics.rows[:1, :few], fp32.card.normalization))
    require_equal(fp32, smoothed, images)
    fidelity = measure_fidelity(fp32.module, quantized.converted, images)
    require_fidelity(fidelity, params.min_sqnr_db, network.module, quantized.converted, images)
    return Conversion(quantized, search, budget, images)
