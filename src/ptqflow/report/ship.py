"""The top of the page: whether INT8 may replace FP32, what to run, and what to put into it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ptqflow.core.figures import BenchmarkRow, EvaluationFigures, UnlabelledFigures
from ptqflow.evaluate.cause import Quantization, find_cause
from ptqflow.evaluate.significance import ALPHA, FEWEST_SIGNIFICANT
from ptqflow.evaluate.verdict import describe_agreement, format_points, verdict
from ptqflow.report.results import Results
from ptqflow.runtime.manifest import FP32_ONNX, INT8_ONNX, INT8_TORCHSCRIPT, Manifest
from ptqflow.runtime.runtimes import BY_DEFAULT

_ROUNDING = 1e-9


@dataclass(frozen=True)
class Answer:
    """Whether INT8 may replace FP32, in a word or two, and why."""

    word: str
    reason: str


def top(results: Results, benchmark: Sequence[BenchmarkRow]) -> dict[str, Any]:
    """Return the answer, the cause of a loss, and what a user of the model needs to know."""
    quantization = Quantization(results.observed, results.quantized, results.tried, results.sensitivity)
    return {
        "answer": answer(results),
        "cause": find_cause(results.evaluate, quantization),
        "facts": _shipped(results, benchmark) | _interface(results.manifest),
        "classes_count": len(results.manifest.classes),
        "runtime": "" if INT8_ONNX in results.manifest.files else "torchscript",
    }


def answer(results: Results) -> Answer:
    """Return whether INT8 loses at most `convert.max_drop` on the test images, or what there is without a limit."""
    figures = results.evaluate
    if isinstance(figures, UnlabelledFigures):
        reason = "without labels, no prediction is known to be right, so what INT8 loses cannot be measured."
        return Answer("Not known", f"{reason} {describe_agreement(figures)}")
    max_drop = results.manifest.params.get("convert", {}).get("max_drop")
    if max_drop is None:
        word = "A significant loss" if _loses(figures) else "No significant loss"
        return Answer(word, f"{verdict(figures)} No limit is set: convert.max_drop is null.")
    return _answer_to_limit(results, figures, max_drop)


def _loses(figures: EvaluationFigures) -> bool:
    return figures.drop.top1 > 0 and figures.paired.p < ALPHA


def _answer_to_limit(results: Results, figures: EvaluationFigures, max_drop: float) -> Answer:
    what, lost = _worst(results, figures)
    images = figures.paired.images
    is_within = 100 * lost <= max_drop * images + _ROUNDING
    is_sure = _is_within_for_sure(figures, max_drop) if is_within else 100 * figures.drop.low > max_drop
    word = ("" if is_sure else "Probably ") + ("yes" if is_within else "no" if is_sure else "not")
    loss = f"{format_points(lost / images)} points of top-1" if lost > 0 else "no top-1"
    doubt = "" if is_sure else f" {images:,} test images are too few to be sure of that limit."
    return Answer(
        word.capitalize(),
        f"{what} loses {loss} on test, and convert.max_drop allows {max_drop:g}.{doubt} {verdict(figures)}",
    )


def _worst(results: Results, figures: EvaluationFigures) -> tuple[str, int]:
    """Return which of torch's INT8 network and the exported files loses most images against FP32, and how many."""
    paired = figures.paired
    in_torch = paired.only_fp32_right - paired.only_int8_right
    in_files = [
        (f"{check.file} in {check.runtime}", in_torch + check.lost - check.gained)
        for check in results.checks
        if check.file != FP32_ONNX
        and check.images == paired.images
        and check.lost is not None
        and check.gained is not None
    ]
    return max([("INT8", in_torch), *in_files], key=lambda form: form[1])


def _is_within_for_sure(figures: EvaluationFigures, max_drop: float) -> bool:
    paired = figures.paired
    if not paired.only_fp32_right and not paired.only_int8_right:  # which has no interval
        return max_drop * paired.images >= 100 * FEWEST_SIGNIFICANT
    return 100 * figures.drop.high <= max_drop


def fastest(benchmark: Sequence[BenchmarkRow], runtimes: Sequence[str] = BY_DEFAULT) -> BenchmarkRow | None:
    """Return the timing of INT8 with most images a second, in one of these runtimes if one of them was timed."""
    rows = [row for row in benchmark if row.runtime in runtimes] or benchmark
    return max(rows, key=lambda row: row.int8_images_per_s, default=None)


def _shipped(results: Results, benchmark: Sequence[BenchmarkRow]) -> dict[str, str]:
    figures, files = results.evaluate, results.manifest.files
    name, runtimes = (INT8_ONNX, BY_DEFAULT) if INT8_ONNX in files else (INT8_TORCHSCRIPT, ("torchscript",))
    fp32_mb = figures.fp32_mb if isinstance(figures, UnlabelledFigures) else figures.fp32.size_mb
    megabytes = files[name].bytes / 1e6
    size = f"{name}, {megabytes:.2f} MB: {fp32_mb / megabytes:.1f} times smaller than FP32"
    best = fastest(benchmark, runtimes)
    needs = "; on x86, openvino and torchscript need a CPU with VNNI" if results.manifest.needs.vnni else ""
    if best is None:
        first, *others = runtimes
        choice = f"{first}{', if it is installed, else ' if others else ''}{' or '.join(others)}{needs}"
        return {"File": size, "Runtime": choice}
    return {"File": size, "Runtime": f"{best.runtime}{needs}", "Speed": _speed(best, benchmark)}


def _speed(best: BenchmarkRow, benchmark: Sequence[BenchmarkRow]) -> str:
    one = next((row for row in benchmark if row.runtime == best.runtime and row.batch == 1 and row != best), None)
    single = "" if one is None else f"; one image takes {one.int8_median_ms:.2f} ms, {one.speedup:.1f} times as fast"
    return (
        f"{best.int8_images_per_s:,.0f} images/s with batches of {best.batch}, {best.speedup:.1f} times as fast as FP32"
        f"{single}, on {best.cpu} with {best.threads} threads"
    )


def _interface(manifest: Manifest) -> dict[str, str]:
    given, (channels, height, width) = manifest.input, manifest.input_shape
    ends = [
        (pixel / given.divisor - mean) / std
        for pixel in (0, 255)
        for mean, std in zip(given.mean, given.std, strict=True)
    ]
    numbers = {"mean": given.mean, "std": given.std}
    constants = ", ".join(f"{name} {' '.join(f'{value:.6g}' for value in values)}" for name, values in numbers.items())
    return {
        "Input": f"{given.name}: {given.dtype} (N, {channels}, {height}, {width}), {given.layout}, "
        f"{min(ends):.3f} to {max(ends):.3f}: {given.formula}, {constants}, of pixels 0 to 255",
        "Pixels": str(manifest.preprocessing),
        "Output": f"{manifest.output.name}: float32 (N, {len(manifest.classes)}), a column for each class",
    }
