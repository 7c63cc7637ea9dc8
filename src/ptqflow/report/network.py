"""Training, sensitivity of the modules and ranges of the tensors."""

from collections.abc import Sequence
from typing import Any

from ptqflow.core.figures import EPOCHS, QUANTIZED_RANGES, SENSITIVITY, EpochRow, SensitivityRow
from ptqflow.report import charts
from ptqflow.report.components import BARS, Chart, Table, cut, decimals, limited_table, listed, percent, signed_points
from ptqflow.report.results import Results

_WORST = 3  # layers at the top of the page


def training(epochs: Sequence[EpochRow]) -> dict[str, Any]:
    """Return the curves and the figures of every epoch, or a sentence where there was no training."""
    last = epochs[-1]
    if last.epoch == 0:
        return {
            "training": [],
            "epochs": None,
            "untrained": "None: the weights given are unchanged."
            + ("" if last.val_top1 is None else f" Their top-1 on val is {percent(last.val_top1)} %."),
        }
    columns = {
        "train_loss": "loss, train",
        "val_loss": "loss, val",
        "train_top1": "top-1, train",
        "val_top1": "top-1, val",
    }
    loss, top1 = ({f"train_{figure}": "train", f"val_{figure}": "val"} for figure in ("loss", "top1"))
    rows = [[f"{row.epoch}", *(decimals(getattr(row, key), 4) for key in columns)] for row in epochs]
    drawn = [row.model_dump(exclude_none=True) for row in epochs]
    best = max(epochs, key=lambda row: row.val_top1 or 0)
    return {
        "training": [
            Chart(
                "Loss",
                f"Cross-entropy in nats over {len(epochs)} epochs; on val it ends at {decimals(last.val_loss, 3)}.",
                charts.draw(charts.curves(drawn, loss, 1, "cross-entropy")),
            ),
            Chart(
                "Top-1",
                f"Top-1 on val ends at {percent(last.val_top1)} %; its best, {percent(best.val_top1)} %, "
                f"is after epoch {best.epoch}.",
                charts.draw(charts.curves(drawn, top1, 100, "top-1 %")),
            ),
        ],
        "epochs": limited_table(["epoch", *columns.values()], rows, str(EPOCHS.path)),
        "untrained": "",
    }


def layers(results: Results) -> dict[str, Any]:
    """Return the sensitivity of the modules and the ranges of the tensors."""
    labelled = results.dataset.labelled
    precisions = [layer.precision for layer in results.manifest.layers]
    charts_drawn = [
        chart for chart in (_sensitivity_chart(results.sensitivity, labelled=labelled), _ranges_chart(results)) if chart
    ]
    return {
        "layers": f"{precisions.count('int8')} layers run on INT8, {precisions.count('fp32')} on FP32.",
        **_budget(results),
        "layer_charts": charts_drawn,
        "sensitivity": _sensitivity_table(results.sensitivity, _lost(labelled)),
        "ranges": _ranges_table(results),
    }


def worst_layers(results: Results) -> dict[str, Any]:
    """Return the modules whose quantization costs most, and what keeping each FP32 would recover."""
    worst = results.sensitivity[:_WORST]
    if not worst:
        return {"worst": None}
    kept = results.manifest.params.get("convert", {}).get("keep_fp32", [])
    rows = [
        [row.module, signed_points(max(row.drop, 0)), decimals(row.sqnr_db, 1), decimals(row.network_sqnr_db, 1)]
        for row in worst
    ]
    labelled = results.dataset.labelled
    if any(row.drop > 0 for row in worst):
        cost = "top-1 on val that it costs" if labelled else "predictions on val that it changes"
        gain = f"Kept FP32, a layer recovers about the {cost} alone; several need not add up."
    else:
        none = "costs top-1 on val" if labelled else "changes a prediction on val"
        gain = f"Alone, none of them {none}, so keeping one FP32 recovers nothing that val can show."
    first = f"`dvc exp run -S 'convert.keep_fp32=[{', '.join([*kept, worst[0].module])}]'` keeps the first."
    heads = ["layer", "FP32 recovers, points", "SQNR alone, dB", "SQNR in the network, dB"]
    return {"worst": Table(heads, rows, note=f"{gain} {first}")}


def _sensitivity_chart(rows: Sequence[SensitivityRow], *, labelled: bool) -> Chart | None:
    measured = sorted((row.sqnr_db, row.module, row.drop) for row in rows if row.sqnr_db is not None)
    if not measured:
        return None
    bars = [
        {"module": module, "sqnr_db": sqnr_db, "drop": signed_points(drop)} for sqnr_db, module, drop in measured[:BARS]
    ]
    ranked = " convert.max_drop ranks modules by the loss, and by SQNR where it is equal." if labelled else ""
    return Chart(
        "Sensitivity",
        f"SQNR at the output of each module when it alone is quantized, the lowest first, and {_lost(labelled)}. "
        f"{measured[0][1]} has the lowest SQNR of {len(measured)} modules{cut(len(measured))}.{ranked}",
        charts.draw(charts.sensitivities(bars, "drop" if labelled else "changed")),
    )


def _ranges_chart(results: Results) -> Chart | None:
    observed = {row.tensor: {"min": row.min, "max": row.max} for row in results.observed}
    bars = [
        {"tensor": row.tensor, "low": row.low, "high": row.high, **observed.get(row.tensor, {})}
        for row in results.quantized
    ]
    if not bars:
        return None
    return Chart(
        "Activation ranges",
        "Bar: the range that the quantized levels cover. Line: from the smallest to the largest value that calibration "
        f"observed; values outside the bar are clipped. {len(bars)} tensors in execution order{cut(len(bars))}.",
        charts.draw(charts.ranges(bars[:BARS])),
    )


def _budget(results: Results) -> dict[str, Any]:
    """Return the modules that convert.max_drop keeps FP32 and all trials; nothing without it."""
    if not results.trials:
        return {"budget": "", "trail": None}
    max_drop = results.manifest.params["convert"]["max_drop"]
    kept = next(trial.kept for trial in results.trials if trial.chosen)
    choice = f"these modules stay FP32: {kept}." if kept else "no module has to stay FP32."
    rows = [
        [f"{trial.modules}", signed_points(trial.drop), listed(trial.kept.split(", ")) or "-"]
        for trial in results.trials
    ]
    return {
        "budget": f"To lose at most {max_drop:g} points of top-1 on val (convert.max_drop), {choice}",
        "trail": Table(
            ["kept FP32", "drop on val, points", "modules"], rows, note="In the order of the trials.", words=True
        ),
    }


def _lost(labelled: bool) -> str:
    """Return what `SensitivityRow.drop` is."""
    return "the loss of top-1 on val" if labelled else "the val images with another prediction"


def _sensitivity_table(rows: Sequence[SensitivityRow], lost: str) -> Table:
    heads = ["module", "alone: SQNR, dB", "cosine", f"{lost}, points", "in the network: SQNR, dB", "cosine"]
    cells = [
        [
            row.module,
            decimals(row.sqnr_db, 1),
            decimals(row.cosine, 5),
            signed_points(row.drop),
            decimals(row.network_sqnr_db, 1),
            decimals(row.network_cosine, 5),
        ]
        for row in rows
    ]
    return limited_table(heads, cells, str(SENSITIVITY.path))


def _ranges_table(results: Results) -> Table:
    observed = {row.tensor: row for row in results.observed}
    heads = ["tensor", "smallest", "largest", "low", "high", "clipped %"]
    cells = []
    for row in results.quantized:
        seen = observed.get(row.tensor)
        figures = (seen.min if seen else None, seen.max if seen else None, row.low, row.high)
        cells.append([row.tensor, *(decimals(value, 4) for value in figures), f"{100 * row.clipped:.4f}"])
    return limited_table(heads, cells, str(QUANTIZED_RANGES.path))
