from pathlib import Path

import miniature
from exported import change_manifest
from samples import fitted

from ptqflow.core.normalization import Normalization
from ptqflow.inference.inspection import describe, find_changed_files
from ptqflow.runtime.manifest import InputCard, read_manifest


def test_every_layer_is_a_row_with_precision_scale_and_zero_point(pristine: Path) -> None:
    lines = list(describe(read_manifest(pristine), []))

    table = lines[lines.index("layer  operation   precision  scale      zero point") :]
    assert [line.split() for line in table[1:]] == [
        ["conv1", "ConvReLU2d", "int8", "0.0123457", "7"],
        ["fc", "Linear", "fp32"],
    ]


def test_pixels_in_0_to_255_and_another_preprocessing_are_described(pristine: Path) -> None:
    caffe = InputCard.of(Normalization(mean=(104.0, 117.0, 123.0), std=(1.0, 1.0, 1.0), input_range=255))
    changes = {"color": "BGR", "resize": "short_side", "resized": (10, 10), "interpolation": "bicubic"}
    how = miniature.PREPROCESSING.model_copy(update=changes)
    manifest = read_manifest(pristine).model_copy(update={"input": caffe, "preprocessing": how})
    text = "\n".join(describe(manifest, []))
    assert "images, float32 (N, 3, 8, 8), (pixel - mean) / std\n" in text
    assert "short side resized to 10 (bicubic), cropped at the center to 8x8, BGR\n" in text
    assert "mean        104 117 123\n" in text


def test_what_a_model_takes_and_what_it_is_worth_is_described(export: Path) -> None:
    change_manifest(export, needs={"vnni": True})
    text = "\n".join(describe(read_manifest(export), []))

    assert "ant, bee, cat, dog, eel, fly" in text
    assert "images, float32 (N, 3, 8, 8), (pixel / 255 - mean) / std" in text
    assert "pixels      cropped at the center to the proportions of 8x8, resized to 8x8 (bilinear), RGB\n" in text
    assert "mean        0.5 0.4 0.3" in text
    assert "engine onednn, 8-bit activations, which on x86 need VNNI" in text
    assert "FP32 90.00 %, INT8 85.00 %, agreement 95.00 %" in text


def test_the_input_of_a_grey_model_is_described(pristine: Path) -> None:
    grey = InputCard.of(Normalization(mean=(0.5,), std=(0.25,)))
    changes = {"input": grey, "preprocessing": fitted(8, 1)}
    text = "\n".join(describe(read_manifest(pristine).model_copy(update=changes), []))

    assert "images, float32 (N, 1, 8, 8), (pixel / 255 - mean) / std" in text
    assert "8x8 (bilinear), L\n" in text
    assert "mean        0.5\n" in text


def test_files_that_are_missing_or_changed_are_marked(export: Path) -> None:
    (export / "fp32.onnx").unlink()
    (export / "int8.onnx").write_bytes(b"changed")
    manifest = read_manifest(export)

    wrong = find_changed_files(export, manifest)
    assert wrong.keys() == {"fp32.onnx", "int8.onnx"}
    assert "is missing" in wrong["fp32.onnx"]
    assert "has changed" in wrong["int8.onnx"]
    marked = [line.split()[0] for line in describe(manifest, wrong) if "CHANGED OR MISSING" in line]
    assert set(marked) == wrong.keys()
