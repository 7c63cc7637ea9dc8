import math

import numpy as np
import pytest
import torch

from ptqflow.models.fidelity import median_sqnr_db


def test_it_is_the_median_of_the_images_own_ratios() -> None:
    random = np.random.default_rng(0)
    reference = random.normal(size=(7, 5))
    logits = reference + random.normal(size=(7, 5)) * np.linspace(0.01, 1, 7)[:, None]

    ratios = 10 * np.log10((reference**2).sum(1) / ((logits - reference) ** 2).sum(1))
    found = median_sqnr_db(torch.from_numpy(logits), torch.from_numpy(reference))
    assert found == pytest.approx(np.median(ratios))


def test_one_image_with_large_logits_does_not_decide() -> None:
    reference = torch.randn(9, 4, generator=torch.Generator().manual_seed(0))
    logits = reference + 0.01
    logits[0], reference[0] = 0.0, 1e4

    assert median_sqnr_db(logits, reference) > 30


def test_equal_logits_have_an_infinite_ratio() -> None:
    logits = torch.ones(3, 4)
    assert median_sqnr_db(logits, logits) == math.inf
    assert median_sqnr_db(torch.zeros(3, 4), torch.zeros(3, 4)) == math.inf
