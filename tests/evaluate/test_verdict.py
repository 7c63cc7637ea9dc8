import pytest
from finished_run import paired
from scipy.stats import binomtest

from ptqflow.evaluate.significance import Pairs, drop_interval
from ptqflow.evaluate.verdict import count_images, format_p, short_p, verdict


def evaluation(both: int, only_fp32: int, only_int8: int, images: int, agreement: float = 0.9) -> dict[str, object]:
    pairs = Pairs(both, only_fp32, only_int8, images - both - only_fp32 - only_int8)
    interval = drop_interval(pairs)
    return {
        "drop": {"top1": round(pairs.drop, 6), "low": round(interval.low, 6), "high": round(interval.high, 6)},
        "agreement": agreement,
        "paired": paired(both, only_fp32, only_int8, images),
    }


@pytest.mark.parametrize(
    ("counts", "sentence"),
    [
        ((9000, 60, 20, 10000), "The drop of 0.40 points is real, p < 0.001 (95 % interval 0.23 to 0.58)."),
        ((9000, 60, 40, 10000), "The drop of 0.20 points is within noise, p = 0.057 (95 % interval 0.00 to 0.40)."),
        ((9000, 40, 60, 10000), "The gain of 0.20 points is within noise, p = 0.057 (95 % interval 0.00 to 0.40)."),
        ((9000, 20, 60, 10000), "The gain of 0.40 points is real, p < 0.001 (95 % interval 0.23 to 0.57)."),
        ((9000, 30, 30, 10000), "Top-1 is the same: INT8 loses 30 of the 10,000 test images and wins as many, p = 1."),
        (
            (990, 5, 0, 1000),
            "The drop of 0.50 points is within noise, p = 0.062 "
            "(95 % interval 0.10 to 1.00; where the two disagree, the exact p decides).",
        ),
        (
            (990, 0, 5, 1000),
            "The gain of 0.50 points is within noise, p = 0.062 "
            "(95 % interval 0.10 to 1.00; where the two disagree, the exact p decides).",
        ),
    ],
    ids=[
        *("loss", "noise", "gain within noise", "gain", "as many lost as won"),
        *("loss of few images", "gain of few images"),
    ],
)
def test_the_sentence_follows_sign_and_p(counts: tuple[int, int, int, int], sentence: str) -> None:
    assert verdict(evaluation(*counts)) == sentence


def test_identical_predictions_are_told_as_such() -> None:
    sentence = "INT8 predicts what FP32 predicts for every one of the 10,000 test images: no drop, p = 1."
    assert verdict(evaluation(9000, 0, 0, 10000, agreement=1.0)) == sentence


def test_wrong_predictions_that_changed_to_other_wrong_ones_are_no_drop() -> None:
    sentence = "INT8 is right where FP32 is right on every one of the 10,000 test images: no drop, p = 1."
    assert verdict(evaluation(9000, 0, 0, 10000, agreement=0.999)) == sentence


@pytest.mark.parametrize(
    ("images", "limit"),
    [
        (1, " So few test images (1) cannot tell any drop from noise."),
        (5, " So few test images (5) cannot tell any drop from noise."),
        (20, " With 20 test images, no drop below 30.00 points can be told from noise."),
        (360, " With 360 test images, no drop below 1.66 points can be told from noise."),
        (600, ""),
    ],
)
def test_a_small_test_set_is_warned_of(images: int, limit: str) -> None:
    assert verdict(evaluation(images, 0, 0, images, agreement=1.0)).endswith(f"no drop, p = 1.{limit}")


def test_the_least_drop_that_is_real_is_not_below_what_can_be_told() -> None:
    for images in range(6, 595):
        sentence = verdict(evaluation(images - 6, 6, 0, images))
        drop, limit = (float(sentence.partition(start)[2].split()[0]) for start in ("The drop of ", "no drop below "))
        assert drop - 0.015 < limit <= drop, images


def test_fewer_than_six_changes_to_the_worse_are_never_significant() -> None:
    # What the warning rests on: no count of lost and won images with a net loss below 6 has p < 0.05.
    nets = [lost - won for lost in range(60) for won in range(lost) if binomtest(lost, lost + won).pvalue < 0.05]
    assert min(nets) == 6


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


def test_images_are_those_of_all_four_cells() -> None:
    assert count_images(evaluation(7, 2, 1, 12)) == 12
