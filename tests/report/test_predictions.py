import base64
import dataclasses
import io
import re

import numpy as np
import pytest
from finished_run import CLASS_NAMES, write_run
from numpy.typing import NDArray
from PIL import Image
from sklearn.metrics import confusion_matrix
from svg import texts

from ptqflow.report.components import Chart
from ptqflow.report.predictions import changed, classes, confusion
from ptqflow.report.results import read_results

LABELS = [i % 4 for i in range(20)]
FP32 = [1, 2, *LABELS[2:]]
INT8 = [1, 3, *((label + 1) % 4 for label in LABELS[2:8]), *LABELS[8:]]


def write_predictions(fp32: list[int], int8: list[int], **options: object) -> None:
    write_run(images=len(fp32), predicted={"fp32": fp32, "int8_uncalibrated": fp32, "int8": int8}, **options)


def opacity(chart: Chart) -> NDArray[np.uint8]:
    """Return the opacity of each cell of a matrix that is an image."""
    found = re.fullmatch(r'<img src="data:image/png;base64,([^"]+)" alt="">', chart.drawing)
    assert found
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(found[1]))))[..., 3]


def test_both_matrices_and_their_difference_have_the_numbers_of_their_cells() -> None:
    write_predictions(FP32, INT8)
    section = confusion(read_results())

    found = [
        (chart.title, chart.description, sorted(text for text in texts(chart.drawing) if re.match(r"[-+\d]", text)))
        for chart in section["confusion"]
    ]
    changes = "7 changed. Blue and +: INT8 predicts it more often; orange and -: less often."
    assert found == [
        ("FP32", "18 of 20 images are on the diagonal.", [*"114455"]),
        ("INT8, calibrated", "12 of 20 images are on the diagonal.", [*"112223333"]),
        ("INT8 minus FP32", changes, ["+1", "+1", "+2", "+2", "-1", "-1", "-2", "-2"]),
    ]
    assert not section["large"]


def test_cells_come_by_their_change_then_errors_before_hits_then_by_the_count_of_fp32() -> None:
    write_predictions(FP32, INT8)
    assert confusion(read_results())["cells"].rows == [
        ["cat as dog", "0", "2", "+2"],
        ["dog as ant", "0", "2", "+2"],
        ["cat as cat", "5", "3", "-2"],
        ["dog as dog", "5", "3", "-2"],
        ["ant as bee", "1", "2", "+1"],
        ["bee as dog", "0", "1", "+1"],
        ["ant as ant", "4", "3", "-1"],
        ["bee as bee", "4", "3", "-1"],
        ["bee as cat", "1", "1", "0"],
    ]


def test_the_table_of_confusions_equals_scikit_learns_matrices() -> None:
    write_run(changed=0.3)
    results = read_results()
    fp32, int8 = (
        confusion_matrix(results.test.labels, results.predictions[name].predicted, labels=range(len(CLASS_NAMES)))
        for name in ("fp32", "int8")
    )
    expected = {
        (f"{CLASS_NAMES[i]} as {CLASS_NAMES[j]}", f"{fp32[i, j]}", f"{int8[i, j]}") for i, j in np.argwhere(fp32 + int8)
    }
    rows = confusion(results)["cells"].rows
    assert len(rows) == len(expected)
    assert {tuple(row[:3]) for row in rows} == expected


def test_the_difference_of_equal_matrices_has_no_number() -> None:
    write_predictions(FP32, FP32)
    last = confusion(read_results())["confusion"][-1]
    assert (last.title, last.description) == ("INT8 minus FP32", "The two matrices are equal.")
    assert not any(re.match(r"[-+\d]", text) for text in texts(last.drawing))


def test_matrices_of_many_classes_are_images_and_their_difference_is_two() -> None:
    labels = [*range(13), *range(13)]
    int8 = labels.copy()
    int8[0] = int8[13] = 5
    int8[3] = 4
    write_predictions(labels, int8, classes=tuple(f"class {i}" for i in range(13)))
    section = confusion(read_results())

    fp32, quantized, more, less = section["confusion"]
    how = " A pixel a cell: rows are actual, columns predicted classes, in their order on the disk."
    assert fp32.description == "26 of 26 images are on the diagonal." + how
    assert quantized.description == "23 of 26 images are on the diagonal." + how
    assert (more.title, more.description) == ("INT8 more often", "Of the 3 that changed: where to." + how)
    assert (less.title, less.description) == ("INT8 less often", "Of the 3 that changed: where from." + how)
    assert np.argwhere(opacity(fp32)).tolist() == [[i, i] for i in range(13)]
    assert np.argwhere(opacity(more)).tolist() == [[0, 5], [3, 4]]
    assert np.argwhere(opacity(less)).tolist() == [[0, 0], [3, 3]]
    assert opacity(more)[0, 5] == opacity(less)[0, 0] == 255  # two images, in the other cell one
    assert section["large"]


def test_twelve_classes_have_a_matrix_with_names() -> None:
    names = tuple(f"class {i}" for i in range(12))
    write_predictions([*range(12)], [*range(12)], classes=names)
    section = confusion(read_results())
    assert set(names) <= set(texts(section["confusion"][0].drawing))
    assert not section["large"]


def write_drops() -> None:
    """INT8 loses 8 of the 10 ants and 1 of the bees, and gains 1 of the cats."""
    labels = [i % 4 for i in range(40)]
    fp32, int8 = labels.copy(), labels.copy()
    int8[0:32:4] = [3] * 8
    int8[1] = 0
    fp32[2] = 0
    write_predictions(fp32, int8)


def test_classes_come_by_the_size_of_their_change() -> None:
    # The exact interval of the share of n out of n is 0.025^(1/n) to 1; p of 8 of 8 is 2 * 0.5^8, by Holm times 4.
    low = 100 * (2 * 0.025 ** (1 / 8) - 1) * 8 / 10
    write_drops()
    table = classes(read_results())["classes"]
    assert table.columns == [
        *("class", "images", "drop, points", "95 % interval", "only FP32 right", "only INT8 right", "p (Holm)"),
    ]
    assert table.rows == [
        ["ant", "10", "+80.00", f"{low:.2f} to 80.00", "8", "0", f"{4 * 2 * 0.5**8:.2g}"],
        ["bee", "10", "+10.00", "-9.50 to 10.00", "1", "0", "1"],
        ["cat", "10", "-10.00", "-10.00 to 9.50", "0", "1", "1"],
        ["dog", "10", "0.00", "-", "0", "0", "1"],
    ]


def test_the_chart_has_the_largest_drop_on_top_and_names_the_significant_classes() -> None:
    write_drops()
    chart = classes(read_results())["class_chart"]
    assert chart.description == (
        "FP32 minus INT8, with 95 % intervals. Significant after Holm's correction, a diamond: ant."
    )
    assert [text for text in texts(chart.drawing) if text in CLASS_NAMES] == ["ant", "bee", "dog", "cat"]


def test_a_drop_that_chance_explains_is_not_called_significant() -> None:
    write_predictions(FP32, INT8)
    description = classes(read_results())["class_chart"].description
    assert description == "FP32 minus INT8, with 95 % intervals. None is significant after Holm's correction."


def test_the_chart_has_the_forty_classes_that_changed_most_and_the_table_has_all() -> None:
    names = tuple(f"class {i}" for i in range(41))
    labels = [*range(41)]
    write_predictions(labels, [0, *[0] * 39, 40], classes=names)  # the first and the last class stay
    section = classes(read_results())

    assert section["class_chart"].description.startswith("Of 41 classes, the 40 that changed most. ")
    drawn = [text for text in texts(section["class_chart"].drawing) if text.startswith("class ")]
    assert sorted(drawn) == sorted(names[:40])
    assert len(section["classes"].rows) == 41
    assert section["classes"].note == ""


def test_a_class_without_test_images_is_listed_last_without_figures() -> None:
    write_run(absent=2)
    rows = classes(read_results())["classes"].rows
    assert {row[0] for row in rows[:3]} == {"ant", "bee", "dog"}
    assert rows[3:] == [["cat", "0", "-", "-", "-", "-", "-"]]


def test_without_any_class_to_draw_there_is_no_chart() -> None:
    write_run(images=8)
    section = classes(dataclasses.replace(read_results(), classes=[]))
    assert section["class_chart"] is None
    assert [row[0] for row in section["classes"].rows] == list(CLASS_NAMES)


def test_changed_images_are_counted_and_shown_with_all_three_classes() -> None:
    write_predictions(FP32, INT8)
    section = changed(read_results())

    assert section["changes"] == (
        "INT8 predicts another class than FP32 for 7 of 20 test images. Beside each prediction is its margin, the "
        "probability of the class minus that of the second; sorted by the sum of both margins."
    )
    shown = section["changed"]
    assert [image.row for image in shown] == [1, 2, 3, 4, 5, 6, 7]  # all margins are equal
    assert (shown[0].label, shown[0].fp32, shown[0].int8) == ("bee", "cat", "dog")
    assert (shown[0].fp32_margin, shown[0].int8_margin) == pytest.approx((0.6, 0.6))


def test_of_many_changed_images_twenty_four_are_shown() -> None:
    labels = [i % 4 for i in range(1200)]
    write_predictions(labels, [*((label + 1) % 4 for label in labels[:1100]), *labels[1100:]], size=4)
    section = changed(read_results())
    assert section["changes"].startswith("INT8 predicts another class than FP32 for 1,100 of 1,200 test images. ")
    assert section["changes"].endswith("; shown are the 24 images with the largest sum of both margins.")
    assert [image.row for image in section["changed"]] == list(range(24))


def test_equal_predictions_have_no_changed_image() -> None:
    write_predictions(FP32, FP32)
    assert changed(read_results()) == {
        "changes": "None: INT8 predicts the same class as FP32 for every test image.",
        "changed": [],
    }
