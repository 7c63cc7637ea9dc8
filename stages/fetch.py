"""Read the images, split them into train, val and test, and store them as arrays."""

from ptqflow.core.paths import DATASET
from ptqflow.core.stage import run


def main() -> None:
    """Write data/dataset."""
    from ptqflow.core.params import read_params
    from ptqflow.fetch.params import DataParams

    params = read_params("data", DataParams)

    from ptqflow.core.inputs import DATA, given
    from ptqflow.fetch.fetch import fetch

    fetch(params, given(DATA), DATASET)


if __name__ == "__main__":
    run("fetch", main)
