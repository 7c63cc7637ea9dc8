"""Read a data set, split it and store it."""

import shutil
from pathlib import Path

from ptqflow.artifacts import new_directory
from ptqflow.data.dataset import DatasetCard
from ptqflow.data.params import DataParams
from ptqflow.data.pool import Pool, Source, stratified_split, stratified_subset
from ptqflow.data.sources import load_source
from ptqflow.data.writing import save_dataset


def fetch(params: DataParams, given: Path | None, directory: Path) -> DatasetCard:
    """Store train, val and test in `directory`, which appears whole or not at all.

    `given` is what `data.path` points to, or None.

    Raises:
        DataError: the source cannot be read, or has too few images to be split.
        OSError: the disk is full.
    """
    with new_directory(directory) as partial:
        scratch = partial / "scratch"
        scratch.mkdir()
        source = load_source(params, given, scratch)
        card = save_dataset(partial, params.name, source, split_source(source, params))
        shutil.rmtree(scratch)
    return card


def split_source(source: Source, params: DataParams) -> dict[str, Pool]:
    """Draw train, val and test, each with the classes in proportion and in the order of the source."""
    train, test = source.train, source.test
    if test is None:
        train_rows, test_rows = stratified_split(train.labels, params.test_fraction, params.seed, "data.test_fraction")
        train, test = train.take(train_rows), train.take(test_rows)
    train = train.take(stratified_subset(train.labels, params.limit, params.seed))
    test = test.take(stratified_subset(test.labels, params.limit, params.seed))
    train_rows, val_rows = stratified_split(train.labels, params.val_fraction, params.seed, "data.val_fraction")
    return {"train": train.take(train_rows), "val": train.take(val_rows), "test": test}
