"""What was run and what it came to."""

from collections.abc import Mapping
from typing import Any

from ptqflow.evaluate.verdict import count_images, format_p
from ptqflow.report.components import Table, signed
from ptqflow.report.machine import cpu_model, versions
from ptqflow.report.results import Results

NETWORKS = {"fp32": "FP32", "int8_uncalibrated": "INT8, not calibrated", "int8": "INT8, calibrated"}
_HEADS = {
    "top1": "top-1 %",
    "top5": "top-5 %",
    "loss": "loss",
    "ece": "ECE",
    "confidence": "confidence",
    "size_mb": "MB",
}
_PERCENT = {"top1", "top5"}


def networks(evaluate: Mapping[str, Any]) -> dict[str, Any]:
    """Return the three networks side by side and what INT8 costs, image by image."""
    keys = [key for key in _HEADS if any(key in evaluate[name] for name in NETWORKS)]
    rows = [[title, *(_cell(evaluate[name], key) for key in keys)] for name, title in NETWORKS.items()]
    drop, paired = evaluate["drop"], evaluate["paired"]
    sentence = (
        f"The drop of top-1 is {signed(100 * drop['top1'], 2)} points (95 % interval {100 * drop['low']:z.2f} to "
        f"{100 * drop['high']:z.2f}). INT8 predicts what FP32 predicts for {100 * evaluate['agreement']:.2f} % of the "
        f"images; the mean divergence KL(FP32 ‖ INT8) is {evaluate['kl']:.3g} nats"
    )
    ratio = (
        f", the signal of its logits is {evaluate['sqnr_db']:.1f} dB above their noise" if "sqnr_db" in evaluate else ""
    )
    return {
        "networks": Table(["", *(_HEADS[key] for key in keys)], rows),
        "drop": f"{sentence}{ratio}.",
        "paired": Table(
            [f"{count_images(evaluate):,} test images", "INT8 right", "INT8 wrong"],
            [
                ["FP32 right", f"{paired['both_right']:,}", f"{paired['only_fp32_right']:,}"],
                ["FP32 wrong", f"{paired['only_int8_right']:,}", f"{paired['both_wrong']:,}"],
            ],
            note=f"Exact McNemar test of the two counts off the diagonal: {format_p(paired['p'])}.",
        ),
    }


def _cell(figures: Mapping[str, Any], key: str) -> str:
    if key not in figures:
        return "-"
    return f"{100 * figures[key]:.2f}" if key in _PERCENT else f"{figures[key]:.{2 if key == 'size_mb' else 4}f}"


def run(results: Results) -> dict[str, Any]:
    """Return what was run: data, model, versions, params and hashes."""
    dataset, manifest, int8 = results.dataset, results.manifest, results.int8
    sizes = ", ".join(f"{count:,} {split}" for split, count in dataset.sizes.items())
    skipped = f", {dataset.skipped:,} unreadable files left out" if dataset.skipped else ""
    side = dataset.image_size
    run = {
        "Data": f"{dataset.name}: {dataset.source}",
        "Images": f"{sizes}; {len(dataset.classes)} classes, {side} by {side} pixels{skipped}",
        "Model": f"{manifest.architecture}, stem {manifest.stem}",
        "Calibration": f"{manifest.calibration.images:,} training images",
        "Engine": manifest.engine,
        "Versions": ", ".join(f"{name} {version}" for name, version in versions().items()),
        "CPU": cpu_model(),
    }
    params = [[key, str(value)] for section, keys in manifest.params.items() for key, value in _flat(section, keys)]
    hashes = [
        *(["data, " + split, sha256] for split, sha256 in manifest.dataset_sha256.items()),
        ["calibration images, their order", manifest.calibration.indices_sha256],
        ["FP32 weights", int8["model"]["weights_sha256"]],
        ["INT8 state", int8["state_sha256"]],
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


def size_and_speed(results: Results) -> dict[str, Any]:
    """Return the exported files, and the timings where there are any."""
    rows = [
        [name, f"{file.bytes / 1e6:.2f}", _describe(results.export.get(name, {}))]
        for name, file in results.manifest.files.items()
    ]
    files = Table(["file", "MB", "checked against torch"], rows, words=True)
    if results.benchmark is None:
        return {"files": files, "speed": None, "machine": "", "speed_notes": []}
    machine, cells = results.benchmark["machine"], results.benchmark["cells"]
    speed = [
        [
            f"{runtime}, {batch.replace('_', ' ')}",
            f"{cell['fp32']['median_ms']:.2f}",
            f"{cell['int8']['median_ms']:.2f}",
            f"{cell['speedup']['median']:.2f} ({cell['speedup']['low']:.2f} to {cell['speedup']['high']:.2f})",
            f"{cell['int8']['images_per_s']:,.0f}",
        ]
        for runtime, batches in cells.items()
        for batch, cell in batches.items()
        if {"fp32", "int8", "speedup"} <= cell.keys()
    ]
    notes = [
        f"{runtime}, {batch.replace('_', ' ')}: {cell['note']}"
        for runtime, batches in cells.items()
        for batch, cell in batches.items()
        if "note" in cell
    ]
    return {
        "files": files,
        "speed": Table(["runtime", "FP32, ms", "INT8, ms", "INT8 is faster by", "INT8 images/s"], speed),
        "machine": f"Measured on {machine['cpu']} with {machine['threads']} threads; medians.",
        "speed_notes": notes,
    }


def _describe(figures: Mapping[str, Any]) -> str:
    """Return what a file's check found, in words."""
    parts = []
    if "bit_exact" in figures:
        parts.append("the same bits" if figures["bit_exact"] else "not the same bits")
    if "agreement" in figures:
        parts.append(f"{100 * figures['agreement']:.2f} % of predictions equal")
    if "top1" in figures:
        parts.append(f"top-1 {100 * figures['top1']:.2f} %")
    if "p" in figures:
        parts.append(format_p(figures["p"]))
    return ", ".join(parts) or "-"
