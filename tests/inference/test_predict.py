import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from samples import bomb, encode, fitted, png, random_pixels, write_folder

import ptqflow
from ptqflow.core.errors import DataError
from ptqflow.fetch.decoding import decode_image
from ptqflow.inference.classifier import Classifier
from ptqflow.inference.predict import find_images, predict


@pytest.fixture
def classifier(pristine: Path) -> Classifier:
    return ptqflow.load(pristine, "onnxruntime")


def test_images_are_found_in_folders_in_folders_by_their_suffix_sorted_without_hidden_ones(tmp_path: Path) -> None:
    names = ["b.PNG", "a/z.jpeg", "a/b/c.webp", "notes.txt", ".hidden.png", ".thumbs/x.png", "empty/", "no_suffix"]
    systems = ["@eaDir/b.PNG/SYNOPHOTO_THUMB_M.png", "a/#recycle/x.png", "__MACOSX/._b.PNG", "Thumbs.db"]
    folder = write_folder(tmp_path / "photos", dict.fromkeys(names + systems, b""))
    (folder / "loop").symlink_to(folder, target_is_directory=True)

    notes: list[str] = []
    found = find_images(folder, pytest.fail, notes.append)
    assert notes == [f"{folder}: skipped 2 without the suffix of an image format, the first is {folder}/no_suffix"]
    assert [str(file.relative_to(folder)) for file in found] == ["a/b/c.webp", "a/z.jpeg", "b.PNG"]


@pytest.mark.parametrize(("files", "words"), [({}, "holds no images;"), ({"a.txt": b""}, "among its 1 files")])
def test_a_folder_without_images_is_an_error(tmp_path: Path, files: dict[str, bytes], words: str) -> None:
    with pytest.raises(DataError, match=words):
        find_images(write_folder(tmp_path / "photos", files), pytest.fail, pytest.fail)


def test_every_kind_of_image_is_answered_in_order_and_every_other_file_reported(
    classifier: Classifier, tmp_path: Path
) -> None:
    images = {
        "rgb.png": png(0),
        "grey.png": encode(Image.fromarray(random_pixels(9, 9))),
        "rgba.png": encode(Image.fromarray(random_pixels(9, 9, 4))),
        "16 bit.png": encode(Image.fromarray(random_pixels(9, 9).astype(np.uint16) * 257)),
        "photo.jpg": encode(Image.fromarray(random_pixels(50, 40, 3)), "JPEG"),
    }
    others = {
        "text.png": b"no image",
        "cut.png": png(0)[:100],
        "empty.png": b"",
        "bomb.png": bomb(),
    }
    folder = write_folder(tmp_path / "photos", images | others)
    os.mkfifo(folder / "pipe.png")
    reported: list[str] = []

    paths = [folder, tmp_path / "absent.png", folder / "grey.png", folder / "empty"]
    (folder / "empty").mkdir()
    predictions = list(predict(classifier, paths, 2, reported.append, pytest.fail))

    answered = [*sorted(images), "grey.png"]
    assert [prediction.image.name for prediction in predictions] == answered
    expected = classifier(np.stack([decode_image(images[name], fitted(8)) for name in answered]))
    for prediction, row in zip(predictions, expected, strict=True):
        best = np.argsort(row)[::-1][:2]
        assert prediction.classes == tuple(classifier.classes[i] for i in best)
        assert prediction.probabilities == tuple(row[best])
    assert [line.split(": ")[0].removeprefix(f"{folder}/") for line in reported] == [
        *sorted([*others, "pipe.png"]),
        "No such file or directory",
        f"{folder}/empty holds no images; name a file itself if it has another suffix".removeprefix(f"{folder}/"),
    ]
    assert "exceeds limit" in next(line for line in reported if "bomb" in line)


def test_more_images_than_a_batch_holds_are_answered(classifier: Classifier, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "photos", {f"{i:03}.png": png(i, (8, 8)) for i in range(150)})

    rows = [p.probabilities for p in predict(classifier, [folder], 1, pytest.fail, pytest.fail)]
    expected = classifier(np.stack([random_pixels(8, 8, 3, seed=i) for i in range(150)])).max(axis=1)
    assert [row[0] for row in rows] == expected.tolist()


def test_an_output_that_is_not_finite_is_reported_and_the_others_are_answered(
    classifier: Classifier, tmp_path: Path
) -> None:
    folder = write_folder(tmp_path / "photos", {"a.png": png(0), "b.png": png(1)})
    broken = Classifier(classifier.manifest, "onnxruntime", lambda x: classifier.network(x) / np.array([[0], [1]]))
    reported: list[str] = []

    with np.errstate(divide="ignore"):
        predictions = list(predict(broken, [folder], 1, reported.append, pytest.fail))
    assert [prediction.image.name for prediction in predictions] == ["b.png"]
    assert reported == [f"{folder}/a.png: the model's output is not finite"]
