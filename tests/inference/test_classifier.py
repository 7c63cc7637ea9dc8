import io
import os
import subprocess
import sys
from pathlib import Path

import miniature
import numpy as np
import pytest
import torch
from exported import reference_probabilities
from manifests import make_manifest
from numpy.typing import NDArray
from PIL import Image
from samples import encode, fitted, png, random_pixels

import ptqflow
from ptqflow.core.errors import ArtifactError, DataError
from ptqflow.core.normalization import Normalization
from ptqflow.core.preprocessing import Preprocessing
from ptqflow.fetch.decoding import decode_image
from ptqflow.inference.classifier import batch_size, softmax, to_pixels
from ptqflow.runtime.manifest import InputCard, read_manifest

PIXELS = miniature.images(100, seed=5)


@pytest.mark.parametrize(("runtime", "away"), [("torchscript", 0), ("onnxruntime", 0.02)])
def test_probabilities_are_those_of_torch(pristine: Path, runtime: str, away: float) -> None:
    classifier = ptqflow.load(pristine, runtime)  # type: ignore[arg-type]

    probabilities = classifier(PIXELS)

    assert (probabilities.shape, probabilities.dtype) == ((100, 6), np.float32)
    assert classifier.classes == miniature.CLASSES
    assert classifier.runtime == runtime
    assert np.abs(probabilities - reference_probabilities(PIXELS, pristine)).max() <= away
    assert np.abs(probabilities.sum(axis=1) - 1).max() < 1e-6


def test_results_do_not_depend_on_how_many_images_are_given_at_once(pristine: Path) -> None:
    classifier = ptqflow.load(pristine, "onnxruntime")
    assert np.array_equal(classifier(PIXELS), np.concatenate([classifier(image) for image in PIXELS]))


@pytest.mark.parametrize(("size", "most"), [(8, 64), (180, 32), (224, 20), (700, 2), (4096, 1)])
def test_large_images_go_through_in_smaller_batches(size: int, most: int) -> None:
    manifest = make_manifest({}, preprocessing=fitted(size))
    assert batch_size(manifest) == most


def test_images_may_be_arrays_pil_images_or_lists_of_both_of_any_size(pristine: Path) -> None:
    classifier = ptqflow.load(str(pristine), "onnxruntime")
    large = random_pixels(20, 30, 3)
    grey = Image.fromarray(random_pixels(9, 7))
    decoded = np.stack([decode_image(encode(image), fitted(8)) for image in (Image.fromarray(large), grey)])
    expected = classifier(decoded)

    assert np.array_equal(classifier([large, grey]), expected)
    assert np.array_equal(classifier((Image.fromarray(large), grey)), expected)
    assert np.array_equal(classifier(large), expected[:1])
    assert np.array_equal(classifier(np.stack([large, large])), expected[[0, 0]])
    assert np.array_equal(classifier(grey), expected[1:])


def test_a_rotated_photo_is_turned_as_one_in_a_file_is(pristine: Path, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(random_pixels(8, 8, 3)).save(tmp_path / "rotated.png", exif=exif)
    classifier = ptqflow.load(pristine, "onnxruntime")

    turned = decode_image((tmp_path / "rotated.png").read_bytes(), fitted(8))
    assert np.array_equal(classifier(Image.open(tmp_path / "rotated.png")), classifier(turned))


@pytest.mark.parametrize(
    ("images", "words"),
    [
        pytest.param([], "a batch of 0 images", id="empty list"),
        pytest.param(np.zeros((0, 8, 8, 3), np.uint8), "a batch of 0 images", id="empty batch"),
        pytest.param(np.zeros((2, 0, 8, 3), np.uint8), r"uint8 \(2, 0, 8, 3\)", id="no pixels"),
        pytest.param(np.zeros((8, 8, 3), np.float32), r"image 0 is float32 \(8, 8, 3\)", id="floats"),
        pytest.param(np.zeros((2, 3, 8, 8), np.uint8), r"the array is uint8 \(2, 3, 8, 8\)", id="channels first"),
        pytest.param(np.zeros((8, 8), np.uint8), r"image 0 is uint8 \(8, 8\)", id="grey array"),
        pytest.param(None, "image 0 is a NoneType", id="None"),
        pytest.param(5, "image 0 is a int", id="a number"),
        pytest.param(PIXELS[None], r"image 0 is uint8 \(1, 100, 8, 8, 3\)", id="a dimension too many"),
        pytest.param([PIXELS[0], PIXELS], r"image 1 is uint8 \(100, 8, 8, 3\)", id="a batch in a list"),
        pytest.param([PIXELS[0], "cat.png"], "image 1 is a str", id="a name"),
        pytest.param(Image.open(io.BytesIO(png(0)[:100])), "image 0: .*truncated", id="a truncated file"),
        pytest.param(
            [Image.new("F", (8, 8))],
            "image 0: mode F, values 0 to 0: its format does not say which value is white",
            id="PIL image of floats",
        ),
    ],
)
def test_what_is_no_image_is_one_line_that_says_which_and_what_to_pass(pristine: Path, images, words: str) -> None:  # type: ignore[no-untyped-def]
    classifier = ptqflow.load(pristine, "onnxruntime")
    with pytest.raises(DataError, match=words) as caught:
        classifier(images)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (4, "RGBA")])
def test_images_become_those_of_the_models_channels_as_files_do(pristine: Path, channels: int, mode: str) -> None:
    normalization = Normalization(mean=(0.5,) * channels, std=(0.2,) * channels)
    manifest = read_manifest(pristine).model_copy(
        update={"preprocessing": fitted(8, channels), "input": InputCard.of(normalization)}
    )
    pictures = [Image.fromarray(random_pixels(20, 30, 4)).convert(other) for other in ("L", "LA", "RGB", "RGBA", "P")]
    arrays = [random_pixels(20, 30, channels, seed=seed) for seed in (1, 2)]
    expected = np.stack([decode_image(encode(picture), fitted(8, channels)) for picture in pictures])
    same = [Image.fromarray(array.squeeze()) for array in arrays]

    assert np.array_equal(to_pixels(pictures, manifest), expected)
    assert np.array_equal(to_pixels(arrays, manifest), to_pixels(same, manifest))
    assert np.array_equal(to_pixels(np.stack(arrays), manifest), to_pixels(same, manifest))
    with pytest.raises(DataError, match=rf"uint8 {mode} arrays \(N, H, W, {channels}\) or \(H, W, {channels}\)"):
        to_pixels(PIXELS, manifest)


@pytest.mark.parametrize("color", ["RGB", "BGR"])
@pytest.mark.parametrize("resize", ["fit", "short_side", "squash", "letterbox"])
def test_files_pil_images_and_arrays_become_the_pixels_of_fetch_whatever_the_preprocessing(
    pristine: Path, color: str, resize: str
) -> None:
    changes = {"color": color, "resize": resize, "resized": (12, 10), "interpolation": "bicubic"}
    how = Preprocessing.model_validate(miniature.PREPROCESSING.model_dump() | changes)
    manifest = read_manifest(pristine).model_copy(update={"preprocessing": how})
    for shape in ((20, 30), (30, 20), (8, 8), (12, 10)):
        array = random_pixels(*shape, 3)
        image = Image.fromarray(array)
        expected = decode_image(encode(image), how)[np.newaxis]
        for given in (image, array, array[np.newaxis], [array], [image]):
            assert np.array_equal(to_pixels(given, manifest), expected)


def test_an_array_that_cannot_be_resized_is_one_line(pristine: Path) -> None:
    how = fitted(8).model_copy(update={"resize": "short_side", "resized": (256, 256)})
    manifest = read_manifest(pristine).model_copy(update={"preprocessing": how})
    with pytest.raises(DataError, match=r"^image 0: 1 x 5000 pixels"):
        to_pixels(np.zeros((5000, 1, 3), np.uint8), manifest)


def test_a_changed_file_is_refused_before_it_is_used(export: Path) -> None:
    file = export / "int8.onnx"
    file.write_bytes(file.read_bytes()[:-1] + b"!")
    with pytest.raises(ArtifactError, match=r"int8\.onnx has changed"):
        ptqflow.load(export, "onnxruntime")
    ptqflow.load(export, "torchscript")


def test_softmax_equals_that_of_torch_and_shows_what_is_not_finite() -> None:
    logits: NDArray[np.float32] = np.random.default_rng(0).normal(0, 30, (50, 7)).astype(np.float32)
    assert np.allclose(softmax(logits), torch.from_numpy(logits).softmax(dim=1).numpy(), rtol=1e-5, atol=1e-12)
    logits[3, 2] = np.inf
    assert np.isnan(softmax(logits)).any(axis=1).nonzero()[0].tolist() == [3]


def run_fresh(program: str, *arguments: object) -> str:
    """Run a program in a process of its own; return what it printed."""
    source = str(Path(ptqflow.__file__).parents[1])
    return subprocess.check_output(
        [sys.executable, "-c", program, *map(str, arguments)], env=os.environ | {"PYTHONPATH": source}, text=True
    )


def test_importing_the_package_imports_none_of_what_it_needs_later() -> None:
    program = "import sys, ptqflow; ptqflow.load; print({'numpy', 'torch', 'pydantic', 'PIL'} & set(sys.modules))"
    assert run_fresh(program) == "set()\n"


def test_onnx_runtime_needs_no_torch_even_where_it_is_installed(pristine: Path) -> None:
    program = (
        "import sys, numpy, ptqflow; "
        "ptqflow.load(sys.argv[1], 'onnxruntime')(numpy.zeros((1, 8, 8, 3), numpy.uint8)); "
        "print('torch' in sys.modules)"
    )
    assert run_fresh(program, pristine) == "False\n"
