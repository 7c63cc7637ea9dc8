"""The run and its headline figures."""

from collections.abc import Mapping, Sequence
from typing import Any

from ptqflow.core.figures import BenchmarkRow, Figures, FileCheck, UnlabelledFigures
from ptqflow.evaluate.confidence import expected_calibration_error, mean_confidence
from ptqflow.evaluate.verdict import format_p
from ptqflow.report.components import Table, decimals, percent
from ptqflow.report.results import Results
from ptqflow.runtime.manifest import FP32_ONNX

NETWORKS = {"fp32": "FP32", "int8_uncalibrated": "Control: INT8, not calibrated", "int8": "INT8, calibrated"}
_COLUMNS = ("top-1 %", "top-5 %", "loss", "ECE", "confidence", "MB")


def networks(results: Results) -> dict[str, Any]:
    """Return the three networks side by side, and INT8 against FP32 image by image."""
    figures = results.evaluate
    if isinstance(figures, UnlabelledFigures):
        return {"networks": _networks_without_labels(figures), "fidelity": _fidelity(figures), "paired": None}
    paired = figures.paired
    return {
        "networks": Table(["", *_COLUMNS], [_network_row(results, name, title) for name, title in NETWORKS.items()]),
        "fidelity": _fidelity(figures),
        "paired": Table(
            [f"{paired.images:,} test images", "INT8 right", "INT8 wrong"],
            [
                ["FP32 right", f"{paired.both_right:,}", f"{paired.only_fp32_right:,}"],
                ["FP32 wrong", f"{paired.only_int8_right:,}", f"{paired.both_wrong:,}"],
            ],
            note=f"Exact McNemar test of the two counts off the diagonal: {format_p(paired.p)}.",
        ),
    }


def _fidelity(figures: Figures) -> str:
    """Return how near INT8 is to FP32 in a sentence."""
    ratio = ""
    if figures.median_sqnr_db is not None and figures.p5_sqnr_db is not None:
        ratio = (
            f"; the SQNR of the logits is {figures.median_sqnr_db:.1f} dB, the median of the images' own, and at most "
            f"{figures.p5_sqnr_db:.1f} dB for 5 % of them"
        )
    return (
        f"INT8 predicts the same class as FP32 for {percent(figures.agreement)} % of the images; the mean divergence "
        f"KL(FP32 ‖ INT8) is {figures.kl:.3g} nats{ratio}."
    )


def _networks_without_labels(figures: UnlabelledFigures) -> Table:
    rows = [
        [NETWORKS["fp32"], "", decimals(figures.fp32_mb, 2)],
        [NETWORKS["int8"], percent(figures.agreement), decimals(figures.int8_mb, 2)],
    ]
    if figures.uncalibrated_agreement is not None:
        control = percent(figures.uncalibrated_agreement)
        rows.insert(1, [NETWORKS["int8_uncalibrated"], control, decimals(figures.int8_mb, 2)])
    return Table(["", "agreement with FP32 %", "MB"], rows)


def _network_row(results: Results, name: str, title: str) -> list[str]:
    figures = getattr(results.evaluate, name)
    bins = [row for row in results.reliability if row.network == name]
    return [
        title,
        percent(figures.top1),
        percent(figures.top5),
        decimals(figures.loss, 4),
        decimals(expected_calibration_error(bins), 4),
        decimals(mean_confidence(bins), 4),
        decimals(figures.size_mb, 2),
    ]


def run(results: Results) -> dict[str, Any]:
    """Return data, model, versions, params and hashes of the run, as its files record them."""
    dataset, manifest = results.dataset, results.manifest
    sizes = ", ".join(f"{count:,} {split}" for split, count in dataset.sizes.items())
    skipped = f", {dataset.skipped:,} unreadable files left out" if dataset.skipped else ""
    height, width = dataset.preprocessing.size
    run = {
        "Data": f"{dataset.name}: {dataset.source}",
        "Images": f"{sizes}; {len(manifest.classes)} classes, {height} by {width} pixels{skipped}",
        "Model": f"{manifest.architecture}, stem {manifest.stem}",
        "Calibration": f"{manifest.calibration.images:,} training images",
        "Engine": manifest.engine,
        "Versions": f"ptqflow {manifest.ptqflow_version}, torch {manifest.torch_version}",
    }
    params = [[key, str(value)] for section, keys in manifest.params.items() for key, value in _flat(section, keys)]
    hashes = [
        *(["data, " + split, sha256] for split, sha256 in manifest.dataset_sha256.items()),
        ["calibration images, their order", manifest.calibration.indices_sha256],
        ["FP32 weights", manifest.weights_sha256],
        *([f"export, {name}", file.sha256] for name, file in manifest.files.items()),
        ["code that made the export", manifest.code_sha256],
    ]
    return {
        "run": run,
        "params": Table(["key", "value"], params, words=True),
        "hashes": Table(["of", "SHA-256"], hashes, words=True),
    }


def _flat(prefix: str, value: Any) -> list[tuple[str, Any]]:
    if not isinstance(value, Mapping) or not value:
        return [(prefix, value)]
    return [leaf for key, inner in value.items() for leaf in _flat(f"{prefix}.{key}", inner)]


def size_and_speed(results: Results, benchmark: Sequence[BenchmarkRow]) -> dict[str, Any]:
    """Return the exported files, and the timings if there are any."""
    rows = [
        [name, f"{file.bytes / 1e6:.2f}", "; ".join(_describe(check) for check in results.checks if check.file == name)]
        for name, file in results.manifest.files.items()
    ]
    files = Table(["file", "MB", "compared with torch"], rows, words=True)
    if not benchmark:
        return {"files": files, "speed": None, "machine": "", "speed_notes": []}
    speed = [
        [
            f"{row.runtime}, batch {row.batch}",
            f"{row.fp32_median_ms:.2f}",
            f"{row.int8_median_ms:.2f}",
            f"{row.speedup:.2f} ({row.speedup_low:.2f} to {row.speedup_high:.2f})",
            f"{row.int8_images_per_s:,.0f}",
        ]
        for row in benchmark
    ]
    measured = benchmark[0]
    versions = dict.fromkeys(row.versions for row in benchmark)
    return {
        "files": files,
        "speed": Table(["runtime", "FP32, ms", "INT8, ms", "speed-up of INT8", "INT8 images/s"], speed),
        "machine": f"Medians, measured on {measured.cpu} with {measured.threads} threads; {'; '.join(versions)}.",
        "speed_notes": [f"{row.runtime}, batch {row.batch}: {row.note}" for row in benchmark if row.note],
    }


def _describe(check: FileCheck) -> str:
    """Return the result of a file's check in words."""
    images = f"{check.images:,} test images"
    if check.bit_exact:
        return f"{check.runtime}: equal logits for {images}"
    if check.file == FP32_ONNX:
        return f"{check.runtime}: {100 * check.agreement:.2f} % of predictions equal for {images}"
    ratio = "" if check.median_sqnr_db is None else f", SQNR {check.median_sqnr_db:.1f} dB"
    same = f"predicts what FP32 predicts for {100 * check.fp32_agreement:.2f} %"
    if check.top1 is None:
        return f"{check.runtime}: {same} of {images}{ratio}"
    return (
        f"{check.runtime}: top-1 {100 * check.top1:.2f} %, {same}{ratio}; against torch's INT8 network {check.lost:,} "
        f"of {images} lost, {check.gained:,} gained"
    )
