"""What a process does alone; several of them are in tests/train/test_ranks.py and tests/pipeline/test_ranks.py."""

import os

import pytest
import torch

from ptqflow.core.ranks import ALONE, Ranks, joined


@pytest.mark.parametrize("count", [0, 1, 2, 7, 128, 1000])
@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_shares_follow_by_rank_without_gap_or_overlap_and_differ_by_one_at_most(count: int, size: int) -> None:
    shares = [range(count)[Ranks(rank, size).part(count)] for rank in range(size)]

    assert [item for share in shares for item in share] == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_a_single_process_exchanges_nothing() -> None:
    tensor = torch.tensor([1.0, 2.0])

    assert ALONE.add(tensor) is tensor
    ALONE.broadcast(tensor)
    assert ALONE.gather(tensor) == [tensor]
    assert torch.equal(tensor, torch.tensor([1.0, 2.0]))


@pytest.mark.parametrize(("asked", "given"), [(1, 1), (10**6, len(os.sched_getaffinity(0))), (None, 1)])
def test_threads_are_those_asked_for_but_no_more_than_cores(asked: int | None, given: int) -> None:
    torch.set_num_threads(1)
    try:
        with joined(asked) as ranks:
            assert ranks == ALONE
            assert torch.get_num_threads() == given
    finally:
        torch.set_num_threads(1)
