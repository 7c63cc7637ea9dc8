"""The processes that share a stage's work, and what they exchange."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import torch
from torch import Tensor, distributed

from ptqflow.core.machine import usable_cores
from ptqflow.core.stage import LAUNCHER, is_rank

_TIMEOUT = timedelta(minutes=5)  # for ranks that run; one that ends is noticed at once, or by the launcher


@dataclass(frozen=True)
class Ranks:
    """The rank of this process, and how many there are. A single one needs no process group."""

    rank: int = 0
    size: int = 1

    def part(self, count: int) -> slice:
        """Return this rank's share of `count` items: contiguous, in rank order, of sizes that differ by at most one."""
        return slice(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def add(self, tensor: Tensor) -> Tensor:
        """Sum a tensor over all ranks, in place, and return it."""
        if self.size > 1:
            distributed.all_reduce(tensor)
        return tensor

    def broadcast(self, tensor: Tensor) -> None:
        """Copy a tensor from the first rank to all others, in place."""
        if self.size > 1:
            distributed.broadcast(tensor, src=0)

    def gather(self, rows: Tensor) -> list[Tensor]:
        """Return the CPU tensor of each rank, in rank order; the lengths of the first dimension may differ."""
        if self.size == 1:
            return [rows]
        lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
        distributed.all_gather(lengths, torch.tensor([len(rows)]))
        longest = max(int(length) for length in lengths)
        padded = torch.cat([rows, rows.new_zeros(longest - len(rows), *rows.shape[1:])])
        everything = [torch.empty_like(padded) for _ in range(self.size)]
        distributed.all_gather(everything, padded)
        return [part[: int(length)] for part, length in zip(everything, lengths, strict=True)]

    def gather_bytes(self, data: bytes) -> list[bytes]:
        """Return the bytes of each rank, in rank order."""
        return [one.numpy().tobytes() for one in self.gather(torch.from_numpy(np.frombuffer(data, np.uint8).copy()))]


ALONE = Ranks()


@contextmanager
def joined(threads: int | None, device: torch.device | None = None) -> Iterator[Ranks]:
    """Join the process group of the ranks, with this rank's share of the CPU threads.

    Args:
        threads: of all ranks on this host, at most the usable cores; None: as many as torch uses in one process.
        device: of this rank; GPUs communicate through NCCL.
    """
    cores = usable_cores()
    on_host = int(os.environ["LOCAL_WORLD_SIZE"]) if is_rank() else 1
    # torchrun, unlike its agent in `ptqflow.core.launch`, sets OMP_NUM_THREADS=1 for its ranks.
    usual = cores if is_rank() and LAUNCHER not in os.environ else torch.get_num_threads()
    torch.set_num_threads(max(1, min(threads or usual, cores) // on_host))
    if not is_rank():
        yield ALONE
        return
    on_gpu = device is not None and device.type == "cuda"
    distributed.init_process_group(
        "cpu:gloo,cuda:nccl" if on_gpu else "gloo", timeout=_TIMEOUT, device_id=device if on_gpu else None
    )
    yield Ranks(distributed.get_rank(), distributed.get_world_size())
    distributed.destroy_process_group()
