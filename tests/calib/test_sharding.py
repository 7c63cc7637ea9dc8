"""Parts that one process collects; tests/pipeline/test_ranks.py has several processes."""

from functools import reduce

import miniature
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from ptqflow.calib import collection
from ptqflow.calib.collection import collect_statistics, observe
from ptqflow.calib.sampling import input_batches
from ptqflow.calib.sharding import collect_in_parts
from ptqflow.calib.statistics import Statistics, decode, encode
from ptqflow.core.ranks import ALONE, Ranks


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    return miniature.residual(len(miniature.CLASSES)).eval()


ROWS = np.random.default_rng(0).permutation(400).reshape(100, 4)


def collected(network: nn.Module, rows: NDArray[np.int64] = ROWS) -> Statistics:
    batches = input_batches(miniature.split(400), rows, miniature.NORMALIZATION)
    return collect_statistics(observe(network, miniature.INPUT_SHAPE), batches, rows)


def test_alone_it_is_what_one_process_sees(network: nn.Module) -> None:
    observed = observe(network, miniature.INPUT_SHAPE)
    found = collect_in_parts(observed, miniature.split(400), ROWS, miniature.NORMALIZATION, ALONE)
    assert encode(found) == encode(collected(network))


def test_bytes_hold_the_statistics(network: nn.Module) -> None:
    data = encode(collected(network))
    assert encode(decode(data)) == data


@pytest.mark.parametrize("size", [2, 3])
def test_what_several_ranks_see_is_merged_to_the_bytes_of_one(
    network: nn.Module, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = 7  # batches, so that there are 15 passes to share
    monkeypatch.setattr(collection, "_PIXELS", together * ROWS.shape[1] * miniature.SIZE**2)
    shares = [Ranks(rank, size).part(-(-len(ROWS) // together)) for rank in range(size)]
    parts = [encode(collected(network, ROWS[share.start * together : share.stop * together])) for share in shares]

    merged = reduce(Statistics.merged, map(decode, parts))

    assert encode(merged) == encode(collected(network))
    assert {len(seen.image_minima) for seen in merged.tensors.values() if seen} == {ROWS.size}


@pytest.mark.parametrize("part", [1, 2])
def test_a_batch_of_large_images_runs_in_parts_and_its_statistics_are_those_of_the_whole(
    network: nn.Module, part: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = collected(network)
    monkeypatch.setattr("ptqflow.data.batching._PIXELS_PER_PASS", (part + 1) * miniature.SIZE**2 - 1)
    monkeypatch.setattr(collection, "_PIXELS", 0)
    observed = observe(network, miniature.INPUT_SHAPE)
    passes: list[int] = []
    observed.prepared.register_forward_pre_hook(lambda _, inputs: passes.append(len(inputs[0])))

    found = collect_in_parts(observed, miniature.split(400), ROWS, miniature.NORMALIZATION, ALONE)

    assert passes == [part] * (ROWS.size // part)
    assert (found.rows == ROWS).all()
    for name, seen in whole.tensors.items():
        other = found.tensors[name]
        assert seen is not None
        assert other is not None
        assert len(other.minima) == len(ROWS)
        for field in ("minima", "maxima", "image_minima", "image_maxima"):
            np.testing.assert_allclose(getattr(other, field), getattr(seen, field), rtol=1e-4, atol=1e-5)
        assert other.count == seen.count
