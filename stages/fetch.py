"""Read the images, split them into train, val and test, and store them as arrays."""

from ptqflow.core.paths import DATASET
from ptqflow.core.stage import run


def main() -> str:
    """Write data/dataset."""
    from ptqflow.core.params import read_params
    from ptqflow.fetch.params import DataParams

    params = read_params("data", DataParams)

    from ptqflow.core.artifacts import read_card
    from ptqflow.core.inputs import DATA, PREPROCESSING, given
    from ptqflow.core.preprocessing import Preprocessing
    from ptqflow.data.dataset import count_trained_on, open_dataset
    from ptqflow.fetch.fetch import fetch

    card = fetch(params, read_card(PREPROCESSING, Preprocessing), given(DATA), DATASET)
    for split, count in count_trained_on(open_dataset(DATASET)).items():
        if count:
            print(f"{count:,} of {card.sizes[split]:,} images of {split} are in train, too: they do not calibrate")
    sizes = ", ".join(f"{count:,} {split}" for split, count in card.sizes.items())
    height, width = card.preprocessing.size
    return f"{sizes} images of {height} by {width} pixels" + (
        f" in {len(card.classes)} classes" if card.labelled else ", without labels"
    )


if __name__ == "__main__":
    run("fetch", main)
