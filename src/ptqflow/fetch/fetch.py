"""Read a data set, split it and store it."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from ptqflow.core.artifacts import new_directory
from ptqflow.core.preprocessing import Preprocessing
from ptqflow.data.dataset import SPLITS, DatasetCard
from ptqflow.fetch.params import DataParams
from ptqflow.fetch.sources import load_source
from ptqflow.fetch.splitting import Pool, Source, stratified_split, stratified_subset
from ptqflow.fetch.writing import read_written, save_card, write_images


def fetch(params: DataParams, preprocessing: Preprocessing, given: Path | None, directory: Path) -> DatasetCard:
    """Store train, val and test in `directory`, which appears complete or not at all.

    Args:
        params: the `data` section.
        preprocessing: of the images.
        given: what `data.path` points to, or None.
        directory: to write; an existing one is replaced.

    Raises:
        DataError: the source cannot be read, or has too few images for the splits.
        OSError: the disk is full.
    """
    with new_directory(directory) as made, _scratch(made) as scratch:
        return _store(made, scratch, load_source(params, preprocessing, given, scratch), params, preprocessing)


def store(source: Source, params: DataParams, preprocessing: Preprocessing, directory: Path) -> DatasetCard:
    """Do as `fetch`, of a source that is loaded."""
    with new_directory(directory) as made, _scratch(made) as scratch:
        return _store(made, scratch, source, params, preprocessing)


@contextmanager
def _scratch(made: Path) -> Iterator[Path]:
    scratch = made / "scratch"
    scratch.mkdir()
    yield scratch
    shutil.rmtree(scratch)


def _store(made: Path, scratch: Path, source: Source, params: DataParams, preprocessing: Preprocessing) -> DatasetCard:
    shape = preprocessing.input_shape
    splits = split_source(source, params)
    written = write_images(made, source, splits, shape)
    if len(written.unreadable):  # splits are drawn from readable images, so others may go elsewhere
        for split in SPLITS:
            (made / f"{split}_images.npy").rename(scratch / f"{split}_images.npy")
        read = partial(read_written, scratch, splits, shape)
        source = replace(source.without(written.unreadable), read=read)
        splits = split_source(source, params)
        written = write_images(made, source, splits, shape)
    return save_card(made, params.name, source, splits, written, preprocessing)


def split_source(source: Source, params: DataParams) -> dict[str, Pool]:
    """Return train, val and test, each in the order of the source.

    What the source lacks is drawn, stratified by class: test from val, if the source has that alone, else both from
    train. Images of val were not trained on, whatever the user's weights are; those of train may have been.
    """

    def split(pool: Pool, key: str, fraction: float) -> tuple[Pool, Pool]:
        first, second = stratified_split(pool.labels, fraction, params.seed, f"{key}={fraction}", source.classes)
        return pool.take(first), pool.take(second)

    def limited(pool: Pool, least: int) -> Pool:
        return pool.take(stratified_subset(pool.labels, params.limit, params.seed, source.classes, least))

    train, val, test = source.train, source.val, source.test
    if test is None and val is None:
        train, test = split(train, "data.test_fraction", params.test_fraction)
    elif test is None:
        assert val is not None
        share = params.test_fraction / (params.val_fraction + params.test_fraction)
        val, test = split(val, "the share of data.test_fraction in it and data.val_fraction", share)
    assert test is not None
    train, test = limited(train, 2), limited(test, 0)
    if val is None:
        train, val = split(train, "data.val_fraction", params.val_fraction)
    else:
        val = limited(val, 0)
    return {"train": train, "val": val, "test": test}
