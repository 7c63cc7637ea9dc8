import math

import numpy as np
import pytest

from ptqflow.export.agreement import Agreement, Paired, compare, find_fault, find_loss

EQUAL = Paired(lost=0, gained=0)


def agreement(images: int, *, labels: Paired = EQUAL, fp32: Paired = EQUAL) -> Agreement:
    return Agreement(images=images, different=images // 2, labels=labels, fp32=fp32, with_fp32=0.97)


def test_images_are_counted_by_what_changed() -> None:
    labels = np.array([0, 0, 1, 1, 2, 2])
    fp32 = np.array([0, 1, 1, 0, 0, 2])
    reference = np.array([0, 0, 1, 0, 0, 2])
    predicted = np.array([0, 1, 0, 1, 1, 2])
    found = compare(predicted, reference, fp32, labels)
    assert found == Agreement(
        images=6, different=4, labels=Paired(lost=2, gained=1), fp32=Paired(lost=3, gained=1), with_fp32=3 / 6
    )
    assert found.share == pytest.approx(2 / 6)


@pytest.mark.parametrize(("lost", "gained", "passes"), [(50, 0, True), (51, 0, False), (80, 30, True), (81, 30, False)])
def test_a_net_loss_above_the_margin_fails_by_labels_and_by_what_fp32_predicts(
    lost: int, gained: int, passes: bool
) -> None:
    paired = Paired(lost, gained)
    by_labels, by_fp32 = agreement(10_000, labels=paired), agreement(10_000, fp32=paired)
    for found, what in ((by_labels, "are lost"), (by_fp32, "are no longer predicted as FP32 does")):
        fault = find_fault(found, 0.005)
        assert (fault is None) == passes
        assert passes or f"of 10000 test images {lost} {what} and {gained} gained" in str(fault)
        assert passes or "a net loss of 50 at most is accepted" in str(fault)


def test_a_file_may_differ_from_torch_on_many_images_if_it_is_no_further_from_fp32() -> None:
    assert find_fault(agreement(10_000, fp32=Paired(200, 180), labels=Paired(150, 150)), 0.005) is None


def test_a_gain_passes() -> None:
    assert find_fault(agreement(10_000, fp32=Paired(0, 150), labels=Paired(0, 150)), 0.0) is None


@pytest.mark.parametrize("images", [100, 360, 2000])
def test_an_equivalent_network_fails_for_one_of_a_thousand_test_sets_at_most(images: int) -> None:
    different = images // 50
    lost = np.random.default_rng(0).binomial(different, 0.5, 20_000)
    faults = [find_fault(agreement(images, labels=Paired(int(count), int(different - count))), 0.005) for count in lost]
    assert sum(fault is not None for fault in faults) <= 20_000 * 0.0015


@pytest.mark.parametrize(("found", "torchs", "is_loss"), [(30.0, 30.0, False), (27.0, 30.0, False), (26.9, 30.0, True)])
def test_logits_may_have_at_most_twice_the_noise_of_torchs(found: float, torchs: float, is_loss: bool) -> None:
    loss = find_loss(found, torchs)
    assert (loss is not None) == is_loss
    if loss:
        assert "26.9 dB to FP32's" in loss
        assert "30.0 dB; 3 dB less are accepted" in loss


def test_a_file_without_a_difference_passes_beside_torch_with_one_and_not_the_reverse() -> None:
    assert find_loss(math.inf, 30.0) is None
    assert find_loss(math.inf, math.inf) is None
    assert find_loss(57.0, math.inf) is None
    assert find_loss(30.0, math.inf)
