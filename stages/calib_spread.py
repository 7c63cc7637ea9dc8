"""Summarize the accuracy of all draws of calibration images, by size."""

import json

from ptqflow.core.paths import PLOTS, SPREAD_SCORES
from ptqflow.core.stage import run


def main() -> None:
    """Write metrics/plots/calib_spread.csv."""
    from ptqflow.calib.params import CalibParams
    from ptqflow.core.artifacts import write_csv
    from ptqflow.core.params import read_params
    from ptqflow.core.text_table import format_text_table
    from ptqflow.spread.params import CalibSpreadParams
    from ptqflow.spread.spread import summarize

    params = read_params("calib_spread", CalibSpreadParams)
    batch_size = read_params("calib", CalibParams).batch_size
    found = {
        size: [json.loads((SPREAD_SCORES / f"{seed}-{size}.json").read_text()) for seed in params.seeds]
        for size in params.batches
    }
    of_labels = all("top1" in score for scores in found.values() for score in scores)
    figure = "top1" if of_labels else "agreement"
    rows = summarize({size: [score[figure] for score in scores] for size, scores in found.items()}, batch_size)
    name = "INT8 top-1 on val" if of_labels else "agreement with FP32 on val"
    header = ("images", f"{name}, mean %", "std, points")
    figures = [(str(row["images"]), f"{100 * row['mean']:.2f}", f"{100 * row['std']:.2f}") for row in rows]
    print(format_text_table([header, *figures], ">>>"))
    write_csv(PLOTS / "calib_spread.csv", rows)


if __name__ == "__main__":
    run("calib_spread", main)
