"""Collect activation statistics on training images."""

from pathlib import Path

from ptqflow.stage import run

DATASET_DIR = Path("data/dataset")
FP32_DIR = Path("models/fp32")
STATISTICS_DIR = Path("models/statistics")


def main() -> None:
    """Write models/statistics and metrics/calib.json."""
    import numpy as np

    from ptqflow.artifacts import write_metrics
    from ptqflow.data.dataset import open_dataset
    from ptqflow.models.fp32 import load_fp32
    from ptqflow.params import read_params
    from ptqflow.quantization.calibration import CalibParams, draw_images, input_batches
    from ptqflow.quantization.statistics import StatisticsCard, collect_statistics, observe, save_statistics

    params = read_params("calib", CalibParams)
    dataset = open_dataset(DATASET_DIR)
    model, card = load_fp32(FP32_DIR)
    draw = draw_images(dataset, params)
    batches = input_batches(dataset.train, draw.rows, card.mean, card.std)
    statistics = collect_statistics(observe(model, card.image_size), batches, draw.rows)
    save_statistics(STATISTICS_DIR, statistics, StatisticsCard(model=card, images=draw.rows.size))
    counts = np.bincount(dataset.train.labels[draw.rows.ravel()], minlength=len(card.classes))
    write_metrics(
        "calib",
        {
            "images": draw.rows.size,
            "dropped": draw.dropped,
            "indices_sha256": draw.sha256,
            "classes": dict(zip(card.classes, counts.tolist(), strict=True)),
            "tensors": statistics.as_metrics(),
        },
    )


if __name__ == "__main__":
    run("calib", main)
