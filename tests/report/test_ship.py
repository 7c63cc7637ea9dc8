import dataclasses
import os
import subprocess
import sys
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exported import reference_probabilities
from finished_run import file_check, write_benchmark, write_run
from miniature import images
from PIL import Image

import ptqflow
from ptqflow.core.figures import BENCHMARK, FILE_CHECKS, UnlabelledFigures
from ptqflow.evaluate.verdict import verdict
from ptqflow.report.page import make_page
from ptqflow.report.results import Results, read_results
from ptqflow.report.ship import Answer, answer, fastest, top
from ptqflow.runtime.manifest import Needs, read_manifest


def run_of(only_fp32: int, only_int8: int, *, max_drop: float | None = 0.5, count: int = 1000, **file: Any) -> Results:
    """Return the results of networks of which each alone is right about so many images; `file` is int8.onnx's check."""
    labels = np.arange(count) % 4
    wrong = (labels + 1) % 4
    fp32, int8 = labels.copy(), labels.copy()
    int8[:only_fp32] = wrong[:only_fp32]
    fp32[only_fp32 : only_fp32 + only_int8] = wrong[only_fp32 : only_fp32 + only_int8]
    write_run(images=count, predicted={"fp32": fp32, "int8_uncalibrated": wrong, "int8": int8})
    FILE_CHECKS.write([file_check("int8.onnx", "onnxruntime", **({"images": count, "lost": 0, "gained": 0} | file))])
    results = read_results()
    params = {**results.manifest.params, "convert": {"max_drop": max_drop}}
    return dataclasses.replace(results, manifest=results.manifest.model_copy(update={"params": params}))


@pytest.mark.parametrize(
    ("lost", "won", "max_drop", "word", "start"),
    [
        (1, 0, 2.0, "Yes", "INT8 loses 0.10 points of top-1 on test, and convert.max_drop allows 2. The drop"),
        (0, 9, 0.5, "Yes", "INT8 loses no top-1 on test, and convert.max_drop allows 0.5. The gain"),
        (5, 0, 0.5, "Yes", "INT8 loses 0.50 points of top-1 on test, and convert.max_drop allows 0.5. The drop"),
        (9, 5, 0.5, "Probably yes", "INT8 loses 0.40 points of top-1 on test, and convert.max_drop allows 0.5. 1,000 "),
        (0, 0, 0.5, "Probably yes", "INT8 loses no top-1 on test, and convert.max_drop allows 0.5. 1,000 test images"),
        (0, 0, 0.6, "Yes", "INT8 loses no top-1 on test, and convert.max_drop allows 0.6. INT8 and FP32 predict the"),
        (9, 3, 0.5, "Probably not", "INT8 loses 0.60 points of top-1 on test, and convert.max_drop allows 0.5. 1,000"),
        (40, 0, 0.5, "No", "INT8 loses 4.00 points of top-1 on test, and convert.max_drop allows 0.5. The drop of 4"),
    ],
)
def test_the_answer_compares_the_drop_on_test_and_its_interval_with_the_limit(
    lost: int, won: int, max_drop: float, word: str, start: str
) -> None:
    results = run_of(lost, won, max_drop=max_drop)
    found = answer(results)
    assert found.word == word
    assert found.reason.startswith(start)
    assert ("are too few to be sure of that limit." in found.reason) == word.startswith("Probably")
    assert found.reason.endswith(verdict(results.evaluate))


def test_the_exported_file_decides_where_it_is_worse_than_torchs_network() -> None:
    assert answer(run_of(2, 0, lost=10, gained=1)).reason.startswith(
        "int8.onnx in onnxruntime loses 1.10 points of top-1 on test, and convert.max_drop allows 0.5."
    )
    of_some_images = run_of(2, 0, lost=10, gained=1, images=500)
    assert answer(of_some_images).reason.startswith("INT8 loses 0.20 points")


@pytest.mark.parametrize(
    ("lost", "word"), [(0, "No significant loss"), (5, "No significant loss"), (6, "A significant loss")]
)
def test_without_a_limit_the_answer_is_whether_the_loss_is_significant(lost: int, word: str) -> None:
    results = run_of(lost, 0, max_drop=None)
    reason = f"{verdict(results.evaluate)} No limit is set: convert.max_drop is null."
    assert answer(results) == Answer(word, reason)


def test_a_gain_is_no_significant_loss() -> None:
    assert answer(run_of(0, 50, max_drop=None)).word == "No significant loss"


def test_without_labels_the_answer_is_not_known() -> None:
    figures = UnlabelledFigures(images=200, agreement=0.99, median_sqnr_db=30.25, kl=0.1, fp32_mb=4.5, int8_mb=1.25)
    write_run(images=8)
    found = answer(dataclasses.replace(read_results(), evaluate=figures))
    assert found.word == "Not known"
    assert "INT8 predicts what FP32 predicts for 198 of 200 images" in found.reason


@pytest.mark.parametrize("vnni", [True, False])
def test_the_facts_are_those_of_the_file_to_ship(vnni: bool) -> None:
    write_run(images=8)
    results = read_results()
    manifest = results.manifest.model_copy(update={"needs": Needs(vnni=vnni)})
    assert top(dataclasses.replace(results, manifest=manifest), [])["facts"] == {
        "File": "int8.onnx, 1.25 MB: 1.0 times smaller than FP32",
        "Runtime": "openvino, if it is installed, else onnxruntime"
        + ("; on x86, openvino and torchscript need a CPU with VNNI" if vnni else ""),
        "Input": "images: float32 (N, 3, 16, 16), NCHW, -2.500 to 2.500: (pixel / 255 - mean) / std, mean 0.5 0.4 0.3, "
        "std 0.2 0.25 0.3, of pixels 0 to 255",
        "Pixels": "cropped at the center to the proportions of 16x16, resized to 16x16 (bilinear), RGB",
        "Output": "logits: float32 (N, 4), a column for each class",
    }


def test_without_onnx_the_file_is_that_of_torchscript_and_the_snippet_selects_it() -> None:
    write_run(images=8, onnx=False)
    section = top(read_results(), [])
    assert section["facts"]["File"].startswith("int8.torchscript.pt, ")
    assert section["facts"]["Runtime"].startswith("torchscript")
    assert 'ptqflow.load("models/export", "torchscript")' in make_page(read_results())


def test_the_runtime_is_the_one_with_most_images_a_second() -> None:
    write_run(images=8)
    write_benchmark()
    rows = BENCHMARK.read()
    facts = top(read_results(), rows)["facts"]
    assert facts["Runtime"].startswith("onnxruntime")
    assert facts["Speed"] == (
        "250 images/s with batches of 1, 2.0 times as fast as FP32, on A <fast> CPU with 1 threads"
    )
    batch = rows[0].model_copy(update={"batch": 32, "int8_images_per_s": 900.0, "speedup": 3.0})
    assert top(read_results(), [*rows, batch])["facts"]["Speed"].startswith(
        "900 images/s with batches of 32, 3.0 times as fast as FP32; one image takes 4.00 ms, 2.0 times as fast"
    )


def test_a_program_is_no_recommendation_while_there_is_a_file_that_is_data() -> None:
    write_benchmark()
    rows = BENCHMARK.read()
    script = rows[0].model_copy(update={"runtime": "torchscript", "int8_images_per_s": 1e6})
    assert fastest([*rows, script]) == rows[0]
    assert fastest([script]) == script
    assert fastest([]) is None


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_snippet_on_the_page_predicts_what_torch_predicts(export: Path, tmp_path: Path, seed: int) -> None:
    write_run(images=8)
    page = make_page(dataclasses.replace(read_results(), manifest=read_manifest(export)))
    program = unescape(page.partition("<pre")[2].partition("<code>")[2].partition("</code>")[0])
    pixels = images(1, seed=seed)
    folder = tmp_path / "elsewhere"
    (folder / "models").mkdir(parents=True)
    export.rename(folder / "models/export")
    Image.fromarray(pixels[0]).save(folder / "photo.jpg", "PNG")  # whose pixels stay equal, whatever its name

    source = str(Path(ptqflow.__file__).parents[1])
    command = [sys.executable, "-c", program]
    environment = os.environ | {"PYTHONPATH": source}
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True)
    expected = reference_probabilities(pixels, folder / "models/export")[0].argmax()
    assert result.stdout == f"{read_manifest(folder / 'models/export').classes[expected]}\n"
