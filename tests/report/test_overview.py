import dataclasses
from math import log

from finished_run import SHA256, file_check, write_benchmark, write_run

from ptqflow.core.figures import FILE_CHECKS, BenchmarkRow
from ptqflow.core.paths import EXPORT
from ptqflow.report.overview import networks, run, size_and_speed
from ptqflow.report.results import read_benchmark, read_results
from ptqflow.runtime.manifest import read_manifest


def timings() -> list[BenchmarkRow]:
    return read_benchmark(read_manifest(EXPORT))


LABELS = [i % 4 for i in range(20)]
FP32 = [1, 2, *LABELS[2:]]  # wrong on the first two images
INT8 = [1, 3, *((label + 1) % 4 for label in LABELS[2:8]), *LABELS[8:]]  # wrong on these and on six more
PREDICTED = {"fp32": FP32, "int8_uncalibrated": [0] * 20, "int8": INT8}


def cross_entropy(right: float) -> str:
    """Of a network that predicts each class with a probability of 0.7, so that each other class has 0.1."""
    return f"{-right * log(0.7) - (1 - right) * log(0.1):.4f}"


def test_each_network_has_its_own_figures() -> None:
    write_run(images=20, predicted=PREDICTED)
    table = networks(read_results())["networks"]

    assert table.columns == ["", "top-1 %", "top-5 %", "loss", "ECE", "confidence", "MB"]
    assert table.rows == [
        ["FP32", "90.00", "-", cross_entropy(0.9), "0.2000", "0.7000", "1.25"],
        ["Control: INT8, not calibrated", "25.00", "-", cross_entropy(0.25), "0.4500", "0.7000", "1.25"],
        ["INT8, calibrated", "60.00", "-", cross_entropy(0.6), "0.1000", "0.7000", "1.25"],
    ]


def test_five_classes_have_a_top_5() -> None:
    write_run(classes=("a", "b", "c", "d", "e"), images=10)
    assert [row[2] for row in networks(read_results())["networks"].rows] == ["100.00"] * 3


def test_the_distance_of_the_logits_is_a_sentence() -> None:
    # On 7 images, 0.7 and 0.1 have changed places, and with them 2 of the logits, all others being equal.
    write_run(images=20, predicted=PREDICTED)
    kl = 7 / 20 * 0.6 * log(7)
    assert networks(read_results())["fidelity"] == (
        "INT8 predicts the same class as FP32 for 65.00 % of the images; the mean divergence KL(FP32 ‖ INT8) is "
        f"{kl:.3g} nats."
    )


def test_the_sqnr_is_that_of_the_middle_image_and_of_the_worst_ones() -> None:
    write_run(images=40)
    results = read_results()
    median, low = results.evaluate.median_sqnr_db, results.evaluate.p5_sqnr_db
    assert networks(results)["fidelity"].endswith(
        f"; the SQNR of the logits is {median:.1f} dB, the median of the images' own, and at most {low:.1f} dB for "
        "5 % of them."
    )


def test_equal_logits_have_no_sqnr() -> None:
    write_run(images=20, predicted=PREDICTED | {"int8": FP32})
    assert networks(read_results())["fidelity"] == (
        "INT8 predicts the same class as FP32 "
        "for 100.00 % of the images; the mean divergence KL(FP32 ‖ INT8) is 0 nats."
    )


def test_images_are_counted_by_which_network_is_right_with_the_p_of_mcnemar() -> None:
    write_run(images=20, predicted=PREDICTED)
    table = networks(read_results())["paired"]
    assert table.columns == ["20 test images", "INT8 right", "INT8 wrong"]
    assert table.rows == [["FP32 right", "12", "6"], ["FP32 wrong", "0", "2"]]
    assert table.note == f"Exact McNemar test of the two counts off the diagonal: p = {2 * 0.5**6:.2g}."


def test_the_run_is_described_by_what_its_files_record() -> None:
    write_run(images=1200, name="ants")
    assert run(read_results())["run"] == {
        "Data": "ants: made up",
        "Images": ("1,200 train, 1,200 val, 1,200 test; 4 classes, 16 by 16 pixels, 1 unreadable files left out"),
        "Model": "resnet18, stem standard",
        "Calibration": "320 training images",
        "Engine": "onednn",
        "Versions": "ptqflow 0.1.0, torch 2.13.0",
    }


def test_without_unreadable_files_none_are_mentioned() -> None:
    write_run(images=8)
    results = read_results()
    whole = dataclasses.replace(results, dataset=results.dataset.model_copy(update={"skipped": 0}))
    assert run(whole)["run"]["Images"] == "8 train, 8 val, 8 test; 4 classes, 16 by 16 pixels"


def test_params_are_listed_by_their_dotted_keys_and_an_empty_section_stays() -> None:
    write_run(images=8)
    results = read_results()
    params = {**results.manifest.params, "export": {}}
    results = dataclasses.replace(results, manifest=results.manifest.model_copy(update={"params": params}))
    assert run(results)["params"].rows == [
        ["data.name", "image_folder"],
        ["data.limit", "None"],
        ["convert.activation.method", "mse"],
        ["convert.max_drop", "0.5"],
        ["export", "{}"],
    ]


def test_hashes_are_those_of_the_dataset_card_and_of_the_manifest() -> None:
    write_run(images=8)
    results = read_results()
    files = ("fp32.onnx", "int8.onnx", "int8.torchscript.pt")
    assert len(set(results.dataset.sha256.values())) == 1  # the splits have the same images
    assert run(results)["hashes"].rows == [
        *(["data, " + split, results.dataset.sha256["test"]] for split in ("train", "val", "test")),
        *([of, SHA256] for of in ("calibration images, their order", "FP32 weights")),
        *([f"export, {file}", SHA256] for file in files),
        ["code that made the export", SHA256],
    ]


def test_each_file_has_its_size_and_the_result_of_its_check() -> None:
    write_run(images=8)
    assert size_and_speed(read_results(), timings())["files"].rows == [
        ["fp32.onnx", "1.25", "onnxruntime: 99.75 % of predictions equal for 200 test images"],
        [
            "int8.onnx",
            "1.25",
            "onnxruntime: top-1 85.00 %, predicts what FP32 predicts for 95.00 %, SQNR 31.5 dB; against torch's INT8 "
            "network 2 of 200 test images lost, 1 gained",
        ],
        ["int8.torchscript.pt", "1.25", "torchscript: equal logits for 200 test images"],
    ]


def test_a_file_that_was_run_in_two_runtimes_has_the_results_of_both() -> None:
    write_run(images=8)
    in_openvino = file_check("int8.onnx", "openvino", median_sqnr_db=None, top1=0.84, lost=3, gained=0)
    FILE_CHECKS.write([*FILE_CHECKS.read(), in_openvino])
    files = {row[0]: row[2] for row in size_and_speed(read_results(), timings())["files"].rows}
    assert files["int8.onnx"].endswith(
        "2 of 200 test images lost, 1 gained; openvino: top-1 84.00 %, predicts what FP32 predicts for 95.00 %; "
        "against torch's INT8 network 3 of 200 test images lost, 0 gained"
    )
    assert "openvino" not in files["fp32.onnx"]


def test_a_run_without_onnx_files_has_the_torchscript_file_and_its_timings() -> None:
    write_run(images=8, onnx=False)
    write_benchmark()
    section = size_and_speed(read_results(), timings())
    assert section["files"].rows == [["int8.torchscript.pt", "1.25", "torchscript: equal logits for 200 test images"]]
    assert len(section["speed"].rows) == 2


def test_timings_are_medians_with_the_interval_of_the_speedup_and_the_notes() -> None:
    write_run(images=8)
    write_benchmark()
    section = size_and_speed(read_results(), timings())

    assert section["speed"].columns == ["runtime", "FP32, ms", "INT8, ms", "speed-up of INT8", "INT8 images/s"]
    assert section["speed"].rows == [
        ["onnxruntime, batch 1", "8.00", "4.00", "2.00 (2.00 to 2.00)", "250"],
        ["openvino, batch 1", "4.00", "8.00", "0.50 (0.50 to 0.50)", "125"],
    ]
    assert section["machine"] == ("Medians, measured on A <fast> CPU with 1 threads; onnxruntime 1.0; openvino 1.0.")
    assert section["speed_notes"] == ["openvino, batch 1: the head stayed FP32, & more"]


def test_without_timings_there_is_no_table_of_speed() -> None:
    write_run(images=8)
    section = size_and_speed(read_results(), timings())
    assert len(section.pop("files").rows) == 3
    assert section == {"speed": None, "machine": "", "speed_notes": []}
