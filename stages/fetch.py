"""Read the images, split them into train, val and test, and store them as arrays."""

from ptqflow.core.paths import DATASET
from ptqflow.core.stage import run


def main() -> None:
    """Write data/dataset and metrics/fetch.json."""
    from ptqflow.core.params import read_params
    from ptqflow.fetch.params import DataParams

    params = read_params("data", DataParams)

    from ptqflow.core.artifacts import write_metrics
    from ptqflow.core.inputs import DATA, given
    from ptqflow.fetch.fetch import fetch

    card = fetch(params, given(DATA), DATASET)
    write_metrics(
        "fetch", {**card.sizes, "classes": len(card.classes), "skipped": card.skipped, "ignored": card.ignored}
    )


if __name__ == "__main__":
    run("fetch", main)
