"""Archives of images with changed bytes."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from mutation import mutate
from samples import ARCHIVE_WRITERS, data_params, fetch, image_files

from ptqflow.core.errors import DataError
from ptqflow.data.dataset import open_dataset

pytestmark = pytest.mark.faults


def test_mutated_archives(
    random_: random.Random,
    record_property: Callable[[str, object], None],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    kind = random_.choice(sorted(ARCHIVE_WRITERS))
    archive = ARCHIVE_WRITERS[kind](tmp_path / f"images.{kind}", image_files(4, 2))
    archive.write_bytes(mutate(archive.read_bytes(), random_))
    params = data_params(on_bad_image=random_.choice(["error", "skip"]), val_fraction=0.5)
    refusal = None
    try:
        fetch(params, archive, tmp_path / "dataset")
    except DataError as error:
        refusal = str(error)
    if refusal is None:
        assert len(open_dataset(tmp_path / "dataset").test) > 0
    else:
        assert "\n" not in refusal
        assert list(tmp_path.iterdir()) == [archive]
    record_property("outcome", "read" if refusal is None else "one line")
    assert capfd.readouterr().err == ""
