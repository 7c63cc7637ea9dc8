"""Read the images, split them into train, val and test, and store them as arrays."""

from pathlib import Path

from ptqflow.stage import run

DATASET_DIR = Path("data/dataset")


def main() -> None:
    """Write data/dataset and metrics/fetch.json."""
    from ptqflow.data.params import DataParams
    from ptqflow.params import read_params

    params = read_params("data", DataParams)

    from ptqflow.artifacts import write_metrics
    from ptqflow.data.fetch import fetch
    from ptqflow.inputs import DATA, given

    card = fetch(params, given(DATA), DATASET_DIR)
    write_metrics("fetch", {**card.sizes, "classes": len(card.classes), "skipped": card.skipped})


if __name__ == "__main__":
    run("fetch", main)
