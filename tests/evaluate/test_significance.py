from fractions import Fraction
from itertools import combinations
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, chi2

from ptqflow.evaluate.significance import (
    FEWEST_SIGNIFICANT,
    Pairs,
    count_pairs,
    drop_interval,
    holm,
    holm_by_class,
    mcnemar,
    paired_figures,
    pairs_by_class,
)


def exact_p(one: int, other: int) -> float:
    """Return the two-sided sum of the binomial distribution, in fractions."""
    tosses = one + other
    tail = sum(comb(tosses, k) for k in range(min(one, other) + 1))
    return float(min(Fraction(2 * tail, 2**tosses), Fraction(1)))


@pytest.mark.parametrize(("one", "other"), [(0, 1), (3, 9), (10, 10), (61, 39), (0, 200), (121, 59), (150, 86)])
def test_mcnemar_is_the_exact_binomial_sum_either_way_round(one: int, other: int) -> None:
    assert mcnemar(Pairs(5, one, other, 5)) == pytest.approx(exact_p(one, other), rel=1e-9)
    assert mcnemar(Pairs(5, other, one, 5)) == pytest.approx(exact_p(one, other), rel=1e-9)


def test_mcnemar_agrees_with_published_examples() -> None:
    # P. Armitage and G. Berry, Statistical Methods in Medical Research, 1994, p. 127: two culture media, 50 specimens.
    # The manual of StatsDirect states the exact test: P (two sided) = 0.0129.
    assert round(mcnemar(Pairs(20, 12, 2, 16)), 4) == 0.0129
    # A. Agresti, Categorical Data Analysis, 1990, p. 350: approval of a president, asked twice of 1,600 people. What is
    # published (Penn State, STAT 504) is the approximation z² = 64² / 236 = 17.3559, p = 3.099e-05; the exact p lies
    # between it and the one that is corrected for continuity.
    exact = mcnemar(Pairs(794, 150, 86, 570))
    approximation, corrected = chi2.sf([(150 - 86) ** 2 / 236, (150 - 86 - 1) ** 2 / 236], df=1)
    assert approximation == pytest.approx(3.099e-05, rel=2e-4)
    assert exact == pytest.approx(3.716e-05, rel=2e-4)
    assert approximation < exact < corrected


def test_of_a_hundred_discordant_images_a_net_loss_of_22_is_the_first_that_is_significant() -> None:
    assert mcnemar(Pairs(0, 60, 40, 0)) > 0.05
    assert mcnemar(Pairs(0, 61, 39, 0)) < 0.05


@pytest.mark.parametrize("pairs", [Pairs(7, 0, 0, 0), Pairs(0, 0, 0, 7), Pairs(3, 0, 0, 4)])
def test_equal_models_have_p_1_no_drop_and_an_interval_of_zero(pairs: Pairs) -> None:
    assert mcnemar(pairs) == 1
    assert pairs.drop == 0
    assert pairs.is_equal
    interval = drop_interval(pairs)
    assert (interval.low, interval.high) == (0, 0)


def test_images_are_counted_by_which_classifier_is_right() -> None:
    reference = np.array([1, 1, 1, 1, 0, 0, 0, 0, 0, 0], bool)
    candidate = np.array([1, 1, 1, 0, 1, 1, 0, 0, 0, 0], bool)

    pairs = count_pairs(reference, candidate)
    assert pairs == Pairs(3, 1, 2, 4)
    assert pairs.images == 10
    assert pairs.drop == pytest.approx(reference.mean() - candidate.mean())


@pytest.mark.parametrize("counts", [(700, 40, 30, 230), (7600, 80, 56, 2264), (20, 5, 0, 5), (20, 0, 5, 5)])
def test_interval_and_p_are_those_of_scipys_exact_binomial_test(counts: tuple[int, int, int, int]) -> None:
    pairs = Pairs(*counts)
    expected = binomtest(pairs.only_reference_right, pairs.discordant)
    share = expected.proportion_ci(0.95, method="exact")

    interval = drop_interval(pairs)
    scale = pairs.discordant / pairs.images
    assert interval.low == pytest.approx((2 * share.low - 1) * scale, rel=1e-6)
    assert interval.high == pytest.approx((2 * share.high - 1) * scale, rel=1e-6)
    assert interval.low <= pairs.drop <= interval.high
    assert mcnemar(pairs) == pytest.approx(expected.pvalue, rel=1e-9)


def test_the_interval_agrees_with_a_published_example() -> None:
    # C. Clopper and E. Pearson's limits for 10 of 20, as in the tables of Documenta Geigy: 0.2720 to 0.7280.
    interval = drop_interval(Pairs(0, 10, 10, 0))
    assert (interval.low + 1) / 2 == pytest.approx(0.2720, abs=5e-5)
    assert (interval.high + 1) / 2 == pytest.approx(0.7280, abs=5e-5)


def test_the_interval_excludes_zero_exactly_where_p_is_below_five_percent() -> None:
    for discordant in range(201):
        for lost in range(discordant + 1):
            pairs = Pairs(700, lost, discordant - lost, 100)
            interval = drop_interval(pairs)
            assert (not interval.low <= 0 <= interval.high) == (mcnemar(pairs) < 0.05), pairs


@given(st.integers(0, 10**6), st.integers(0, 10**4), st.integers(0, 10**4), st.integers(1, 10**6))
def test_the_reported_figures_never_contradict_each_other(both: int, lost: int, won: int, neither: int) -> None:
    figures = paired_figures(Pairs(both, lost, won, neither), 0.5)
    assert (not figures.drop.low <= 0 <= figures.drop.high) == (figures.paired.p < 0.05)
    assert figures.drop.low - 1e-6 <= figures.drop.top1 <= figures.drop.high + 1e-6


def test_the_interval_covers_the_true_drop_at_least_as_often_as_it_says() -> None:
    random = np.random.default_rng(0)
    discordant, share = 60, 0.6
    losses = random.binomial(discordant, share, 500)
    intervals = [drop_interval(Pairs(0, lost, discordant - lost, 0)) for lost in losses.tolist()]

    assert np.mean([interval.low <= 2 * share - 1 <= interval.high for interval in intervals]) >= 0.95


def test_the_interval_holds_for_millions_of_images() -> None:
    interval = drop_interval(Pairs(9_000_000, 40_000, 30_000, 930_000))
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * 2 * np.sqrt(70_000 * 4 / 7 * 3 / 7) / 1e7, rel=0.01)


def test_no_net_loss_below_six_images_is_significant_and_six_can_be() -> None:
    significant = [lost - won for lost in range(100) for won in range(lost) if mcnemar(Pairs(0, lost, won, 0)) < 0.05]
    assert min(significant) == FEWEST_SIGNIFICANT == 6


def test_counts_and_p_keep_their_places_in_the_figures() -> None:
    figures = paired_figures(Pairs(900, 61, 39, 1000), 0.987654321)
    assert figures.model_dump() == {
        "drop": {
            "top1": 0.011,
            "low": float(f"{drop_interval(Pairs(900, 61, 39, 1000)).low:.6g}"),
            "high": float(f"{drop_interval(Pairs(900, 61, 39, 1000)).high:.6g}"),
        },
        "agreement": 0.987654,
        "paired": {
            "both_right": 900,
            "only_fp32_right": 61,
            "only_int8_right": 39,
            "both_wrong": 1000,
            "p": float(f"{mcnemar(Pairs(900, 61, 39, 1000)):.6g}"),
        },
    }
    assert figures.paired.images == 2000


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_is_the_closed_test_of_bonferroni(p_values: list[float]) -> None:
    # R. Marcus, E. Peritz and K. Gabriel, Biometrika 63, 1976: the adjusted p of a hypothesis is the largest p of all
    # intersections that it is part of.
    intersections = [
        subset for size in range(1, len(p_values) + 1) for subset in combinations(range(len(p_values)), size)
    ]
    p_of = {subset: min(1, len(subset) * min(p_values[i] for i in subset)) for subset in intersections}
    closed = [max(p for subset, p in p_of.items() if i in subset) for i in range(len(p_values))]
    assert holm(p_values) == pytest.approx(closed)


@given(st.lists(st.floats(0, 1), max_size=20))
def test_holm_keeps_the_order_and_never_makes_a_p_value_smaller_or_larger_than_bonferroni(
    p_values: list[float],
) -> None:
    adjusted = holm(p_values)

    assert len(adjusted) == len(p_values)
    for p, after in zip(p_values, adjusted, strict=True):
        assert p <= after <= min(1, len(p_values) * p) or after == pytest.approx(p)
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    assert [adjusted[i] for i in order] == sorted(adjusted)


def test_classes_are_counted_apart_and_one_without_images_counts_for_nothing() -> None:
    labels = np.array([0, 0, 0, 2, 2])
    reference, candidate = np.array([1, 1, 0, 1, 1], bool), np.array([1, 0, 0, 0, 0], bool)

    pairs = pairs_by_class(labels, reference, candidate, ["cat", "dog", "eel"])
    assert pairs == {"cat": Pairs(1, 1, 0, 1), "dog": Pairs(0, 0, 0, 0), "eel": Pairs(0, 2, 0, 0)}
    assert holm_by_class(pairs) == {"cat": 1.0, "eel": 1.0}
