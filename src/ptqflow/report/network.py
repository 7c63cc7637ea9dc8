"""The network from within: its training, what each module costs, and the ranges of its tensors."""

from collections.abc import Mapping
from typing import Any

from ptqflow.report import charts
from ptqflow.report.components import BARS, Chart, Table, cut, decimals, limited_table, listed, signed
from ptqflow.report.results import Results


def training(epochs: list[dict[str, float]]) -> dict[str, Any]:
    """Return the curves and the figures of every epoch, or a sentence where there was no training."""
    last = epochs[-1]
    if last["epoch"] == 0:
        return {
            "training": [],
            "epochs": None,
            "untrained": f"None: the given weights as they are. Their top-1 on val is {100 * last['val_top1']:.2f} %.",
        }
    columns = {
        "train_loss": "loss, train",
        "val_loss": "loss, val",
        "train_top1": "top-1, train",
        "val_top1": "top-1, val",
    }
    loss, top1 = ({f"train_{figure}": "train", f"val_{figure}": "val"} for figure in ("loss", "top1"))
    rows = [[f"{row['epoch']:.0f}", *(f"{row[key]:.4f}" if key in row else "-" for key in columns)] for row in epochs]
    best = max(epochs, key=lambda row: row["val_top1"])
    return {
        "training": [
            Chart(
                "Loss",
                f"Cross-entropy in nats over {len(epochs)} epochs; on val it ends at {last['val_loss']:.3f}.",
                charts.draw(charts.curves(epochs, loss, 1, "cross-entropy")),
            ),
            Chart(
                "Top-1",
                f"Top-1 on val ends at {100 * last['val_top1']:.2f} %; its best, {100 * best['val_top1']:.2f} %, "
                f"is after epoch {best['epoch']:.0f}.",
                charts.draw(charts.curves(epochs, top1, 100, "top-1 %")),
            ),
        ],
        "epochs": limited_table(["epoch", *columns.values()], rows, "metrics/plots/train.csv"),
        "untrained": "",
    }


def layers(results: Results) -> dict[str, Any]:
    """Return the sensitivity of the modules and the ranges of the tensors."""
    count = results.convert["layers"]
    alone = {name: figures["alone"] for name, figures in results.sensitivity.items()}
    measured = sorted(
        (name for name in alone if alone[name].get("sqnr_db") is not None), key=lambda name: alone[name]["sqnr_db"]
    )
    ranges = [
        {"tensor": name, "low": chosen["low"], "high": chosen["high"], **results.calib["tensors"].get(name, {})}
        for name, chosen in results.convert["tensors"].items()
    ]
    drawn = []
    if measured:
        bars = [
            {"module": name, "sqnr_db": alone[name]["sqnr_db"], "drop": signed(100 * alone[name]["drop"], 2)}
            for name in measured[:BARS]
        ]
        drawn.append(
            Chart(
                "Sensitivity",
                "Signal above noise (SQNR) at the output of each module when it alone is quantized, the lowest first, "
                f"and the loss of top-1 on val. {measured[0]} has the lowest SQNR of {len(measured)} modules"
                f"{cut(len(measured))}. A budget goes by the loss, and by SQNR where it is equal.",
                charts.draw(charts.sensitivities(bars)),
            )
        )
    if ranges:
        drawn.append(
            Chart(
                "Activation ranges",
                "Bar: the range that the INT8 codes cover. Line: from the least to the largest value that calibration "
                f"saw; what of it is outside the bar is clipped. {len(ranges)} tensors in execution order"
                f"{cut(len(ranges))}.",
                charts.draw(charts.ranges(ranges[:BARS])),
            )
        )
    return {
        "layers": f"{count['int8']} layers run on INT8, {count['fp32']} on FP32.",
        **_budget(results),
        "layer_charts": drawn,
        "sensitivity": _sensitivity_table(results.sensitivity),
        "ranges": _ranges_table(results),
    }


def _budget(results: Results) -> dict[str, Any]:
    """Return what a budget keeps FP32 and what was tried for it; nothing without one."""
    if (budget := results.convert.get("budget")) is None:
        return {"budget": "", "trail": None}
    most = results.manifest.params["convert"]["max_drop"]
    kept = f"these modules stay FP32: {budget['kept']}." if budget["kept"] else "no module has to stay FP32."
    rows = [
        [name, signed(100 * trial["drop"], 2), listed(trial["kept"].split(", ")) or "-"]
        for name, trial in budget["trail"].items()
    ]
    return {
        "budget": f"To lose at most {most:g} points of top-1 on val (convert.max_drop), {kept}",
        "trail": Table(
            ["tried", "drop on val, points", "modules kept FP32"],
            rows,
            note="In the order of the trials; how long each took is in metrics/convert_seconds.json.",
            words=True,
        ),
    }


def _sensitivity_table(sensitivity: Mapping[str, Any]) -> Table:
    rows = [
        [
            name,
            decimals(figures["alone"].get("sqnr_db"), 1),
            decimals(figures["alone"].get("cosine"), 5),
            signed(100 * figures["alone"]["drop"], 2),
            decimals(figures["network"].get("sqnr_db"), 1),
            decimals(figures["network"].get("cosine"), 5),
        ]
        for name, figures in sensitivity.items()
    ]
    heads = ["module", "alone: SQNR, dB", "cosine", "drop on val, points", "in the network: SQNR, dB", "cosine"]
    return limited_table(heads, rows, "metrics/sensitivity.json")


def _ranges_table(results: Results) -> Table:
    rows = []
    for name, chosen in results.convert["tensors"].items():
        seen = results.calib["tensors"].get(name, {})
        figures = (seen.get("min"), seen.get("max"), chosen["low"], chosen["high"])
        rows.append([name, *(decimals(value, 4) for value in figures), f"{100 * chosen['clipped']:.4f}"])
    return limited_table(["tensor", "least", "largest", "low", "high", "clipped %"], rows, "metrics/convert.json")
