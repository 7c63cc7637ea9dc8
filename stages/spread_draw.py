"""Collect the statistics of one draw of calibration images, at every size: `spread_draw.py SEED`."""

import sys

from ptqflow.core.paths import DATASET, FP32, SPREAD
from ptqflow.core.stage import run


def main() -> None:
    """Write models/spread/SEED/SIZE for every size in batches."""
    from ptqflow.calib.params import CalibParams
    from ptqflow.calib.statistics import StatisticsCard, save_statistics
    from ptqflow.core.artifacts import new_directory
    from ptqflow.core.params import read_params
    from ptqflow.data.dataset import open_dataset
    from ptqflow.models.fp32 import load_fp32
    from ptqflow.spread.params import CalibSpreadParams
    from ptqflow.spread.spread import collect_sizes

    batch_size = read_params("calib", CalibParams).batch_size
    sizes = read_params("calib_spread", CalibSpreadParams).batches
    fp32 = load_fp32(FP32)
    seed = int(sys.argv[1])
    collected = collect_sizes(fp32.module, fp32.card, open_dataset(DATASET), seed, sizes, batch_size)
    with new_directory(SPREAD / str(seed)) as directory:
        for size, statistics in collected.items():
            statistics_card = StatisticsCard(model=fp32.card, images=statistics.rows.size)
            save_statistics(directory / str(size), statistics, statistics_card)


if __name__ == "__main__":
    run("spread_draw", main)
