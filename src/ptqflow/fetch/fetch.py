"""Read a data set, split it and store it."""

import shutil
from pathlib import Path

from ptqflow.core.artifacts import new_directory
from ptqflow.data.dataset import DatasetCard
from ptqflow.fetch.params import DataParams
from ptqflow.fetch.sources import load_source
from ptqflow.fetch.splitting import Pool, Source, stratified_split, stratified_subset
from ptqflow.fetch.writing import save_dataset


def fetch(params: DataParams, given: Path | None, directory: Path) -> DatasetCard:
    """Store train, val and test in `directory`, which appears complete or not at all.

    Args:
        params: the `data` section.
        given: what `data.path` points to, or None.
        directory: to write; an existing one is replaced.

    Raises:
        DataError: the source cannot be read, or has too few images for the splits.
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
    """Draw train, val and test, stratified by class, each in the order of the source."""

    def split(pool: Pool, key: str, fraction: float) -> tuple[Pool, Pool]:
        first, second = stratified_split(pool.labels, fraction, params.seed, f"{key}={fraction}", source.classes)
        return pool.take(first), pool.take(second)

    def limited(pool: Pool, least: int) -> Pool:
        return pool.take(stratified_subset(pool.labels, params.limit, params.seed, source.classes, least))

    train, test = source.train, source.test
    if test is None:
        train, test = split(train, "data.test_fraction", params.test_fraction)
    train, test = limited(train, 2), limited(test, 0)
    train, val = split(train, "data.val_fraction", params.val_fraction)
    return {"train": train, "val": val, "test": test}
