import numpy as np
import pytest

from ptqflow.compare import Comparison, Recorded
from ptqflow.evaluate.predictions import Prediction


def test_a_p_value_is_a_number_in_its_column() -> None:
    labels = np.repeat([0, 1, 2], [20, 20, 1])
    right = np.full(41, 0.5, dtype=np.float32)
    lost = labels.copy()
    lost[:13] = 1  # all but 7 of the first class
    lost[20] = 0
    models = (Prediction(labels, right, right), Prediction(lost, right, right))

    table = Comparison(("A", "B"), ("ant", "bee", "cat"), labels, models).as_text().split("\n\n")[1]

    assert table.splitlines() == [
        "class  images   drop  only A  only B  p (Holm)",
        "ant        20  65.00      13       0   < 0.001",
        "bee        20   5.00       1       0         1",
    ]


def _comparison(*, lost: int, classes: tuple[str, ...] = ("ant", "bee")) -> Comparison:
    labels = np.repeat([0, 1], [20, 20])
    margin = np.full(40, 0.5, dtype=np.float32)
    worse = labels.copy()
    worse[:lost] = 1
    recorded = (
        Recorded({"drop": 0.0}, {"fc": 30.0, "conv1": 40.0, "a": 10.0, "b": 20.0}),
        Recorded({"drop": 0.01}, {"fc": 31.0, "conv1": 30.0, "a": 12.0, "b": 24.0}),
    )
    models = (Prediction(labels, margin, margin), Prediction(worse, margin, margin))
    return Comparison(("main", "HEAD"), classes, labels, models, recorded)


def test_markdown_has_the_verdict_the_figures_the_three_layers_that_changed_most_and_the_images() -> None:
    text = _comparison(lost=2).as_markdown()

    assert "The drop of 5.00 points is not statistically significant" in text
    assert "| drop | 0 | 0.01 |" in text
    layers = text.partition("Layers")[2].partition("2 predictions changed")[0]
    assert [line.split()[1] for line in layers.splitlines() if line.startswith("| ")][2:] == ["conv1", "b", "a"]
    assert "| 0 | ant | ant | bee | 0.5 | 0.5 |" in text


def test_markdown_is_cut_with_a_note_at_what_a_forge_takes() -> None:
    text = _comparison(lost=20, classes=("a" * 9000, "b")).as_markdown()

    assert len(text) == 65_536
    assert text.endswith("`ptqflow compare A B --json` prints all.\n")


def test_names_of_classes_have_no_meaning_in_markdown() -> None:
    assert r"a\|b&lt;i>&#64;all" in _comparison(lost=1, classes=("a|b<i>@all", "b")).as_markdown()


@pytest.mark.parametrize(
    ("lost", "max_drop", "significant", "exceeds"),
    [
        (2, None, False, False),
        (2, 5.0, True, False),
        (2, 4.9, False, True),
        (6, None, True, True),
        (0, 0.0, True, False),
    ],
)
def test_a_drop_exceeds_the_points_or_chance(
    lost: int, max_drop: float | None, significant: bool, exceeds: bool
) -> None:
    assert _comparison(lost=lost).exceeds(max_drop, significant) is exceeds
