"""What an INT8 network that loses accuracy loses it by, in a sentence."""

from collections.abc import Sequence
from dataclasses import dataclass

from ptqflow.core.figures import EvaluationFigures, Figures, ObservedRange, QuantizedRange, SearchRow, SensitivityRow
from ptqflow.evaluate.significance import ALPHA

LOW_DB = 20.0
"""A median SQNR below which the cause is named whatever the drop is: noise of a tenth of the signal."""


@dataclass(frozen=True)
class Quantization:
    """What the stages `calib`, `convert` and `sensitivity` wrote about a network."""

    observed: Sequence[ObservedRange]
    quantized: Sequence[QuantizedRange]
    tried: Sequence[SearchRow]
    sensitivity: Sequence[SensitivityRow]
    """The modules that cost most first."""


def find_cause(figures: Figures, quantization: Quantization) -> str | None:
    """Return which module loses most, why, what was tried and what to try next; None where nothing is lost.

    Something is lost where the drop of top-1 is significant, or the median SQNR is below 20 dB.
    """
    labelled = figures if isinstance(figures, EvaluationFigures) else None
    loses = labelled is not None and labelled.drop.top1 > 0 and labelled.paired.p < ALPHA
    is_far = figures.median_sqnr_db is not None and figures.median_sqnr_db < LOW_DB
    worst = next((row for row in quantization.sensitivity if row.sqnr_db is not None), None)
    if not (loses or is_far) or worst is None:
        return None
    methods = list(dict.fromkeys(row.method for row in quantization.tried if not row.tensor))
    budget = ", or `-S convert.max_drop=0.3`, which keeps as many modules FP32 as that takes" if labelled else ""
    tried = f" Tried for all tensors: {', '.join(methods)}." if methods else ""
    return (
        f"Most is lost in {worst.module}, whose output has an SQNR of {worst.sqnr_db:.1f} dB with that module alone "
        f"quantized{_outliers(worst.module, quantization)}.{tried} Next: `dvc exp run -S "
        f"'convert.keep_fp32=[{worst.module}]'`{budget}."
    )


def _outliers(module: str, quantization: Quantization) -> str:
    """Return by how much the observed values of the module's output exceed its range, if they do."""
    chosen = {row.tensor: max(abs(row.low), abs(row.high)) for row in quantization.quantized}
    seen = {row.tensor: max(abs(row.min), abs(row.max)) for row in quantization.observed}
    if not chosen.get(module) or module not in seen:
        return ""
    ratio = seen[module] / chosen[module]
    return f": calibration saw values of {ratio:.1f} times its range" if ratio > 1.5 else ""
