from pathlib import Path

import numpy as np
import pytest
from exported import change_manifest, manifest

from ptqflow.core.errors import ArtifactError
from ptqflow.runtime.manifest import REFERENCE, read_manifest
from ptqflow.runtime.reference import Reference, generate_images, read_reference, write_reference


def arrays() -> Reference:
    draw = np.random.default_rng(0)
    return Reference(
        int8=draw.normal(size=(64, 6)).astype(np.float32),
        fp32=draw.normal(size=(64, 6)).astype(np.float32),
        predicted=draw.integers(0, 6, 50),
        fp32_predicted=draw.integers(0, 6, 50),
    )


def test_what_is_written_is_read_back_with_equal_bytes_each_time(export: Path, tmp_path: Path) -> None:
    write_reference(export, arrays())
    write_reference(tmp_path, arrays())
    assert (export / REFERENCE).read_bytes() == (tmp_path / REFERENCE).read_bytes()
    change_manifest(export, files=manifest(export, [REFERENCE]).model_dump(mode="json")["files"])
    found, expected = read_reference(export, read_manifest(export)), arrays()
    for name in ("int8", "fp32", "predicted", "fp32_predicted"):
        assert np.array_equal(getattr(found, name), getattr(expected, name))


def test_a_changed_file_is_refused(export: Path) -> None:
    write_reference(export, arrays())
    with pytest.raises(ArtifactError, match=r"reference\.npz has changed"):
        read_reference(export, read_manifest(export))


def test_another_file_in_its_place_is_one_line(export: Path) -> None:
    (export / REFERENCE).write_bytes(b"no archive")
    with pytest.raises(ArtifactError, match=r"reference\.npz is not what the stage `export` writes") as caught:
        read_reference(export, manifest(export, [REFERENCE]))
    assert "\n" not in str(caught.value)


def test_objects_are_not_unpickled(export: Path) -> None:
    np.savez(export / REFERENCE, int8=np.array([print], dtype=object), fp32=np.zeros(1), predicted=np.zeros(1))
    with pytest.raises(ArtifactError, match="is not what the stage `export` writes"):
        read_reference(export, manifest(export, [REFERENCE]))


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("size", [8, 32, 33])
def test_generated_images_are_the_same_each_time_and_all_different(size: int, channels: int) -> None:
    images = generate_images(20, (channels, size, size))
    assert (images.shape, images.dtype) == ((20, size, size, channels), np.uint8)
    assert np.array_equal(images, generate_images(20, (channels, size, size)))
    assert len({image.tobytes() for image in images}) == 20
