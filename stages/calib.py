"""Collect activation statistics on training images."""

from ptqflow.core.launch import run_in_ranks
from ptqflow.core.paths import DATASET, FP32, STATISTICS
from ptqflow.core.stage import run


def main() -> str | None:
    """Write models/statistics and, in metrics/plots, the figures of each class and tensor."""
    from ptqflow.calib.params import CalibParams
    from ptqflow.core.params import read_params
    from ptqflow.core.run_params import RunParams

    params, run_params = read_params("calib", CalibParams), read_params("run", RunParams)
    if run_in_ranks(run_params.processes):
        return None

    import numpy as np

    from ptqflow.calib.collection import observe
    from ptqflow.calib.sampling import draw_images
    from ptqflow.calib.sharding import collect_in_parts
    from ptqflow.calib.statistics import StatisticsCard, save_statistics
    from ptqflow.core.figures import CALIB_CLASSES, OBSERVED_RANGES, ClassImages
    from ptqflow.core.ranks import joined
    from ptqflow.data.dataset import open_dataset
    from ptqflow.models.fp32 import load_fp32

    dataset, fp32 = open_dataset(DATASET), load_fp32(FP32)
    draw = draw_images(dataset, params.batches, params.batch_size, params.seed)
    with joined(run_params.threads) as ranks:
        observed = observe(fp32.module, fp32.card.input_shape)
        statistics = collect_in_parts(observed, dataset.train, draw.rows, fp32.card.normalization, ranks)
    if ranks.rank:
        return None
    save_statistics(STATISTICS, statistics, StatisticsCard(model=fp32.card, images=draw.rows.size))
    labels = dataset.train.labels
    drawn = [] if labels is None else np.bincount(labels[draw.rows.ravel()], minlength=len(fp32.card.classes)).tolist()
    CALIB_CLASSES.write(ClassImages(name=name, images=n) for name, n in zip(fp32.card.classes, drawn, strict=False))
    OBSERVED_RANGES.write(statistics.ranges())
    left_out = f", {draw.dropped:,} left out because val or test has their pixels" if draw.dropped else ""
    return f"{draw.rows.size:,} images, {len(statistics.tensors)} tensors{left_out}"


if __name__ == "__main__":
    run("calib", main)
