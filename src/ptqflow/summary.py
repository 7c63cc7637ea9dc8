"""The result on the terminal: `ptqflow summary`."""

from collections.abc import Sequence

from ptqflow.core.figures import (
    FILE_CHECKS,
    OBSERVED_RANGES,
    QUANTIZED_RANGES,
    SEARCH,
    SENSITIVITY,
    BenchmarkRow,
    EvaluationFigures,
    Figures,
    FileCheck,
    UnlabelledFigures,
    read_evaluation_figures,
)
from ptqflow.core.outputs import is_current
from ptqflow.core.paths import EXPORT
from ptqflow.core.text_table import format_text_table
from ptqflow.evaluate.cause import Quantization, find_cause
from ptqflow.evaluate.verdict import describe
from ptqflow.report.results import read_benchmark
from ptqflow.report.ship import fastest
from ptqflow.runtime.manifest import INT8_ONNX, read_manifest

_ROWS = {"fp32": "FP32", "int8_uncalibrated": "INT8, not calibrated", "int8": "INT8, calibrated"}


def format_summary(
    figures: Figures,
    checks: Sequence[FileCheck] = (),
    cause: str | None = None,
    timed: Sequence[BenchmarkRow] = (),
) -> str:
    """Return a table of the networks, the verdict, the cause of a loss, the exported INT8 files, and what INT8 gains.

    Top-1, top-5 and agreement are in percent, sizes in MB (10^6 bytes).
    """
    table = _table_without_labels(figures) if isinstance(figures, UnlabelledFigures) else _table(figures)
    lines = [table, ""]
    if isinstance(figures, EvaluationFigures) and figures.agreement < 1:  # else the verdict says so
        lines.append(f"INT8 predicts the same class as FP32 for {100 * figures.agreement:.2f} % of the images.")
    files = (check for check in checks if check.file == INT8_ONNX)
    return "\n".join(
        [*lines, describe(figures), *filter(None, [cause]), *map(_describe_file, files), _describe_gain(figures, timed)]
    )


def _describe_gain(figures: Figures, timed: Sequence[BenchmarkRow]) -> str:
    """Return how much smaller INT8 is, and how much faster where it classifies most images a second."""
    if isinstance(figures, EvaluationFigures):
        fp32_mb, int8_mb = figures.fp32.size_mb, figures.int8.size_mb
    else:
        fp32_mb, int8_mb = figures.fp32_mb, figures.int8_mb
    smaller = f"INT8 is {fp32_mb / int8_mb:.1f} times smaller"
    best = fastest(timed)
    if best is None:
        return f"{smaller} than FP32."
    return f"{smaller} than FP32 and {best.speedup:.1f} times as fast, in {best.runtime} with batches of {best.batch}."


def _table(figures: EvaluationFigures) -> str:
    rows = [("", "top-1 %", "top-5 %", "loss", "MB")]
    for key, title in _ROWS.items():
        row = getattr(figures, key)
        top5 = "-" if row.top5 is None else f"{100 * row.top5:.2f}"
        rows.append((title, f"{100 * row.top1:.2f}", top5, f"{row.loss:.4f}", f"{row.size_mb:.2f}"))
    return format_text_table(rows, "<>>>>")


def _table_without_labels(figures: UnlabelledFigures) -> str:
    ratio = "-" if figures.median_sqnr_db is None else f"{figures.median_sqnr_db:.1f}"
    rows = [
        ("", "agreement with FP32 %", "SQNR dB", "MB"),
        (_ROWS["fp32"], "", "", f"{figures.fp32_mb:.2f}"),
        (_ROWS["int8"], f"{100 * figures.agreement:.2f}", ratio, f"{figures.int8_mb:.2f}"),
    ]
    if figures.uncalibrated_agreement is not None:
        control = (
            _ROWS["int8_uncalibrated"],
            f"{100 * figures.uncalibrated_agreement:.2f}",
            "",
            f"{figures.int8_mb:.2f}",
        )
        rows.insert(2, control)
    return format_text_table(rows, "<>>>")


def _describe_file(check: FileCheck) -> str:
    ratio = "" if check.median_sqnr_db is None else f", SQNR {check.median_sqnr_db:.1f} dB"
    top1 = "" if check.top1 is None else f"top-1 {100 * check.top1:.2f} %, "
    return (
        f"{check.file} in {check.runtime}: {top1}predicts the same class as FP32 for {100 * check.fp32_agreement:.2f} %"
        f"{ratio}."
    )


def summarize() -> str:
    """Return the summary of what lies below the working directory; files and layers of another network are left out.

    Raises:
        ArtifactError: a file is missing or broken.
    """
    figures = read_evaluation_figures()
    layers = SENSITIVITY.read() if is_current("sensitivity") else []
    cause = find_cause(figures, Quantization(OBSERVED_RANGES.read(), QUANTIZED_RANGES.read(), SEARCH.read(), layers))
    if not is_current("export"):
        return format_summary(figures, cause=cause)
    return format_summary(figures, FILE_CHECKS.read(), cause, read_benchmark(read_manifest(EXPORT)))
