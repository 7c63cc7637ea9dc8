import math

import numpy as np
import pytest
import torch

from ptqflow.data.fidelity import image_sqnr_db, median_sqnr_db, sqnr_db, sqnr_db_quantile


def test_it_is_the_median_of_the_images_own_ratios() -> None:
    random = np.random.default_rng(0)
    reference = random.normal(size=(7, 5))
    logits = reference + random.normal(size=(7, 5)) * np.linspace(0.01, 1, 7)[:, None]

    ratios = 10 * np.log10((reference**2).sum(1) / ((logits - reference) ** 2).sum(1))
    found = median_sqnr_db(logits, reference)
    assert found == pytest.approx(np.median(ratios))
    assert found == median_sqnr_db(torch.from_numpy(logits), torch.from_numpy(reference))
    assert image_sqnr_db(logits, reference) == pytest.approx(ratios)


def test_one_image_with_large_logits_does_not_decide() -> None:
    reference = torch.randn(9, 4, generator=torch.Generator().manual_seed(0))
    logits = reference + 0.01
    logits[0], reference[0] = 0.0, 1e4

    assert median_sqnr_db(logits, reference) > 30


def test_equal_logits_have_an_infinite_ratio() -> None:
    logits = torch.ones(3, 4)
    assert median_sqnr_db(logits, logits) == math.inf
    assert median_sqnr_db(torch.zeros(3, 4), torch.zeros(3, 4)) == math.inf
    assert sqnr_db(logits, logits) == math.inf


def test_an_image_without_a_signal_has_none_and_spoils_no_other() -> None:
    found = image_sqnr_db([[1.0, 0.0], [0.5, 0.5]], [[1.0, 1.0], [0.0, 0.0]])
    assert found.tolist() == [pytest.approx(10 * math.log10(2)), -math.inf]


def test_a_share_of_the_images_does_not_exceed_the_quantile() -> None:
    reference = np.ones((100, 1))
    logits = reference + 10 ** (-np.arange(100)[:, None] / 20)  # 0 to 99 dB

    assert sqnr_db_quantile(logits, reference, 0.05) == pytest.approx(4)
    assert sqnr_db_quantile(logits, reference, 0.5) == pytest.approx(49)


def test_all_images_together_have_ten_times_the_logarithm_of_signal_over_noise_power() -> None:
    reference = np.array([[3.0, 4.0], [0.0, 5.0]])

    assert sqnr_db(reference + np.array([[0.0, 0.5], [0.5, 0.0]]), reference) == pytest.approx(20)
    assert sqnr_db(2 * reference, reference) == 0
