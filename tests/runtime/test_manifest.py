import json
from pathlib import Path

import pytest
from exported import change_manifest

from ptqflow.core.errors import ArtifactError
from ptqflow.core.normalization import Normalization
from ptqflow.runtime.manifest import INT8_ONNX, InputCard, check_file, read_manifest, write_manifest


def test_what_is_written_is_read_back(export: Path, tmp_path: Path) -> None:
    manifest = read_manifest(export)
    write_manifest(tmp_path, manifest)
    assert read_manifest(tmp_path) == manifest
    assert (tmp_path / "model.json").read_bytes() == (export / "model.json").read_bytes()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"format_version": 3}, "is of format 3, and this ptqflow reads format 2: install a newer ptqflow$"),
        ({"format_version": 1}, "is of format 1, and this ptqflow reads format 2: run `dvc repro`, or copy the whole"),
        ({"format_version": "2"}, "format_version"),
        ({"surprise": 1}, "surprise"),
        ({"preprocessing": {}}, "preprocessing.height"),
        ({"margin": 1.5}, "margin"),
        ({"needs": {}}, "needs"),
    ],
)
def test_what_this_version_does_not_write_is_refused(export: Path, changes: dict[str, object], words: str) -> None:
    change_manifest(export, **changes)
    with pytest.raises(ArtifactError, match=words):
        read_manifest(export)


def test_every_key_is_required_but_the_constant_one(export: Path) -> None:
    path = export / "model.json"
    complete = json.loads(path.read_text())
    for key in complete:
        path.write_text(json.dumps({name: value for name, value in complete.items() if name != key}))
        if key == "output":
            read_manifest(export)
        else:
            with pytest.raises(ArtifactError, match=key):
                read_manifest(export)


def test_mean_and_std_have_a_value_for_each_channel(export: Path) -> None:
    grey = Normalization(mean=(0.5,), std=(0.2,))
    change_manifest(export, input=InputCard.of(grey).model_dump(mode="json"))
    with pytest.raises(ArtifactError, match=r"input\.mean has 1 values, and preprocessing\.color is RGB"):
        read_manifest(export)


def test_a_file_is_checked_by_its_hash(export: Path) -> None:
    manifest = read_manifest(export)
    assert check_file(export, manifest, INT8_ONNX) == export / INT8_ONNX
    with pytest.raises(ArtifactError, match=r"has no other\.onnx, only fp32\.onnx"):
        check_file(export, manifest, "other.onnx")
    (export / INT8_ONNX).write_bytes(b"another")
    with pytest.raises(
        ArtifactError, match=r"int8\.onnx has changed: .*; run `dvc repro`, or copy the whole directory"
    ):
        check_file(export, manifest, INT8_ONNX)
    (export / INT8_ONNX).unlink()
    with pytest.raises(ArtifactError, match=r"int8\.onnx is missing"):
        check_file(export, manifest, INT8_ONNX)
