"""Collect the statistics of one draw of calibration images, at every size: `spread_draw.py SEED`."""

import sys
from pathlib import Path

from ptqflow.stage import run

DATASET_DIR = Path("data/dataset")
FP32_DIR = Path("models/fp32")
SPREAD_DIR = Path("models/spread")


def main() -> None:
    """Write models/spread/SEED/SIZE for every size in batches."""
    from ptqflow.artifacts import new_directory
    from ptqflow.data.dataset import open_dataset
    from ptqflow.models.fp32 import load_fp32
    from ptqflow.params import read_params
    from ptqflow.quantization.calibration import CalibParams
    from ptqflow.quantization.spread import CalibSpreadParams, collect_sizes
    from ptqflow.quantization.statistics import StatisticsCard, save_statistics

    batch_size = read_params("calib", CalibParams).batch_size
    sizes = read_params("calib_spread", CalibSpreadParams).batches
    model, card = load_fp32(FP32_DIR)
    seed = int(sys.argv[1])
    collected = collect_sizes(model, card, open_dataset(DATASET_DIR), seed, sizes, batch_size)
    with new_directory(SPREAD_DIR / str(seed)) as directory:
        for size, statistics in collected.items():
            statistics_card = StatisticsCard(model=card, images=statistics.rows.size)
            save_statistics(directory / str(size), statistics, statistics_card)


if __name__ == "__main__":
    run("spread_draw", main)
