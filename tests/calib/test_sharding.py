"""Parts that one process collects; tests/pipeline/test_ranks.py has several processes."""

import miniature
import numpy as np
import pytest
import torch
from torch import nn

from ptqflow.calib.collection import collect_statistics, observe
from ptqflow.calib.sampling import input_batches
from ptqflow.calib.sharding import collect_in_parts
from ptqflow.calib.statistics import Statistics, decode, encode
from ptqflow.core.ranks import ALONE


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    return miniature.residual(len(miniature.CLASSES)).eval()


ROWS = np.random.default_rng(0).permutation(400).reshape(100, 4)


def collected(network: nn.Module) -> Statistics:
    batches = input_batches(miniature.split(400), ROWS, miniature.NORMALIZATION)
    return collect_statistics(observe(network, miniature.INPUT_SHAPE), batches, ROWS)


def test_alone_it_is_what_one_process_sees(network: nn.Module) -> None:
    observed = observe(network, miniature.INPUT_SHAPE)
    found = collect_in_parts(observed, miniature.split(400), ROWS, miniature.NORMALIZATION, ALONE)
    assert encode(found) == encode(collected(network))


def test_bytes_hold_the_statistics(network: nn.Module) -> None:
    data = encode(collected(network))
    assert encode(decode(data)) == data
