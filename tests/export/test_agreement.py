import math

import numpy as np
import pytest

from ptqflow.export.agreement import Agreement, compare, find_fault, find_loss
from ptqflow.runtime.runtimes import Runtime


def test_images_are_counted_by_what_changed() -> None:
    labels = np.array([0, 0, 1, 1, 2, 2])
    reference = np.array([0, 0, 1, 0, 0, 2])
    predicted = np.array([0, 1, 0, 1, 1, 2])
    found = compare(predicted, reference, labels)
    assert found == Agreement(images=6, different=4, lost=2, gained=1)
    assert found.share == pytest.approx(2 / 6)


@pytest.mark.parametrize(
    ("runtime", "different", "passes"),
    [("onnxruntime", 5, True), ("onnxruntime", 6, False), ("openvino", 20, True), ("openvino", 21, False)],
)
def test_openvino_may_differ_for_2_percent_of_the_images_and_the_others_for_half_a_percent(
    runtime: Runtime, different: int, passes: bool
) -> None:
    fault = find_fault(Agreement(images=1000, different=different, lost=0, gained=0), runtime, 0.995)
    assert (fault is None) == passes
    assert passes or f"{1 - different / 1000:.2%} of 1000 test images, and" in str(fault)


def test_a_single_image_may_always_differ() -> None:
    assert find_fault(Agreement(images=10, different=1, lost=1, gained=0), "onnxruntime", 0.995) is None
    assert find_fault(Agreement(images=10, different=2, lost=0, gained=0), "onnxruntime", 0.995) is not None


@pytest.mark.parametrize(("lost", "gained", "passes"), [(50, 0, True), (51, 0, False), (80, 30, True), (81, 30, False)])
def test_a_net_loss_above_half_a_percent_fails_also_in_openvino(lost: int, gained: int, passes: bool) -> None:
    agreement = Agreement(images=10_000, different=150, lost=lost, gained=gained)
    fault = find_fault(agreement, "openvino", 0.995)
    assert (fault is None) == passes
    assert passes or f"{lost} images are lost and {gained} gained, and a net loss of 50 at most" in str(fault)


def test_a_gain_passes() -> None:
    assert find_fault(Agreement(images=10_000, different=150, lost=0, gained=150), "openvino", 0.995) is None


@pytest.mark.parametrize("images", [100, 360, 2000])
def test_an_equivalent_network_fails_for_one_of_a_thousand_test_sets_at_most(images: int) -> None:
    different = images // 50
    lost = np.random.default_rng(0).binomial(different, 0.5, 20_000)
    faults = [
        find_fault(Agreement(images, different, int(count), int(different - count)), "openvino", 0.995)
        for count in lost
    ]
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
