import re

import pytest

from ptqflow.core.figures import PairedFigures
from ptqflow.evaluate.significance import Pairs, mcnemar, paired_figures
from ptqflow.evaluate.verdict import format_p, format_points, short_p, verdict


def figures(both: int, only_fp32: int, only_int8: int, images: int, agreement: float = 0.9) -> PairedFigures:
    return paired_figures(Pairs(both, only_fp32, only_int8, images - both - only_fp32 - only_int8), agreement)


@pytest.mark.parametrize(
    ("counts", "sentence"),
    [
        (
            (9000, 60, 20, 10000),
            "The drop of 0.40 points is statistically significant, p < 0.001 (95 % interval 0.23 to 0.54 points).",
        ),
        (
            (9000, 60, 40, 10000),
            "The drop of 0.20 points is not statistically significant, p = 0.057 (95 % interval -0.01 to 0.39 points).",
        ),
        (
            (9000, 40, 60, 10000),
            "The gain of 0.20 points is not statistically significant, p = 0.057 (95 % interval -0.01 to 0.39 points).",
        ),
        (
            (9000, 20, 60, 10000),
            "The gain of 0.40 points is statistically significant, p < 0.001 (95 % interval 0.23 to 0.54 points).",
        ),
        (
            (9000, 30, 30, 10000),
            "Top-1 is equal: of the 10,000 test images, 30 are correct only with FP32 and as many only with INT8, "
            "p = 1 "
            "(95 % interval -0.16 to 0.16 points).",
        ),
        (
            (990, 5, 0, 1000),
            "The drop of 0.50 points is not statistically significant, p = 0.062 (95 % interval -0.02 to 0.50 points).",
        ),
    ],
    ids=[
        *("loss", "loss by chance", "gain by chance", "gain", "as many lost as won"),
        "loss of few images",
    ],
)
def test_the_sentence_follows_sign_and_p(counts: tuple[int, int, int, int], sentence: str) -> None:
    assert verdict(figures(*counts)) == sentence


def test_equal_predictions_are_reported_with_the_smallest_drop_that_could_be_detected() -> None:
    assert verdict(figures(9000, 0, 0, 10000, agreement=1.0)) == (
        "INT8 and FP32 predict the same class for all of the 10,000 test images: no drop, p = 1. "
        "With 10,000 test images, a drop below 0.06 points cannot be detected."
    )


def test_other_wrong_predictions_are_no_drop() -> None:
    assert verdict(figures(9000, 0, 0, 10000, agreement=0.999)).startswith(
        "INT8 and FP32 classify the same images of the 10,000 test images correctly: no drop, p = 1."
    )


def test_the_networks_are_called_what_the_caller_calls_them() -> None:
    assert verdict(figures(9, 0, 0, 10, agreement=1.0), "A", "B").startswith("B and A predict the same class")


@pytest.mark.parametrize(
    ("images", "limit"),
    [
        (1, " So few test images (1) cannot detect any drop."),
        (5, " So few test images (5) cannot detect any drop."),
        (20, " With 20 test images, a drop below 30.00 points cannot be detected."),
        (360, " With 360 test images, a drop below 1.66 points cannot be detected."),
        (600, " With 600 test images, a drop below 1.00 points cannot be detected."),
        (1_000_000, " With 1,000,000 test images, a drop below 0.0006 points cannot be detected."),
    ],
)
def test_without_a_discordant_image_the_smallest_detectable_drop_is_given(images: int, limit: str) -> None:
    assert verdict(figures(images, 0, 0, images, agreement=1.0)).endswith(f"no drop, p = 1.{limit}")


@pytest.mark.parametrize(("images", "is_given"), [(599, True), (600, False)])
def test_a_test_set_that_cannot_detect_a_point_is_mentioned(images: int, is_given: bool) -> None:
    assert ("cannot be detected" in verdict(figures(images - 6, 6, 0, images))) == is_given


def test_the_smallest_significant_drop_is_not_below_the_one_that_can_be_detected() -> None:
    for images in range(6, 595):
        found = re.match(
            r"The drop of (\S+) points .* a drop below (\S+) points", verdict(figures(images - 6, 6, 0, images))
        )
        assert found
        drop, limit = map(float, found.groups())
        assert drop - 0.015 < limit <= drop, images


def test_a_sentence_never_contradicts_its_interval() -> None:
    for lost in range(60):
        for won in range(60):
            sentence = verdict(figures(10**6, lost, won, 2 * 10**6))
            if lost != won:
                low = float(re.findall(r"interval (\S+) to", sentence)[0])
                is_significant = mcnemar(Pairs(0, lost, won, 0)) < 0.05
                assert ("not statistically" in sentence) == (not is_significant) == (low <= 0), sentence


@pytest.mark.parametrize(
    ("p", "text"),
    [
        (1.0, "1"),
        (0.18, "0.18"),
        (0.0495, "0.0495"),
        (0.04996, "0.04996"),
        (0.05, "0.05"),
        (0.0502, "0.05"),
        (0.003, "0.003"),
        (0.000999, "< 0.001"),
        (0.0, "< 0.001"),
    ],
)
def test_p_is_short_and_on_its_side_of_five_percent(p: float, text: str) -> None:
    assert short_p(p) == text
    assert format_p(p) == (f"p {text}" if "<" in text else f"p = {text}")


@pytest.mark.parametrize(
    ("fraction", "text"),
    [(0.0, "0.00"), (-0.0, "0.00"), (0.0123, "1.23"), (-0.0001, "-0.01"), (0.000012, "0.0012"), (-3e-7, "-3e-05")],
)
def test_points_have_two_decimals_or_two_digits(fraction: float, text: str) -> None:
    assert format_points(fraction) == text
