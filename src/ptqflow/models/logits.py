"""Logits of a network on a split."""

from collections.abc import Iterator
from itertools import chain

import torch
from torch import Tensor, nn

from ptqflow.core.errors import DataError
from ptqflow.core.normalization import Normalization
from ptqflow.core.progress import track
from ptqflow.core.ranks import ALONE, Ranks
from ptqflow.data.batching import images_per_pass
from ptqflow.data.dataset import Split
from ptqflow.data.preprocessing import to_input


def compute_logits(
    model: nn.Module,
    split: Split,
    normalization: Normalization,
    batch_size: int,
    label: str,
    ranks: Ranks = ALONE,
) -> Tensor:
    """Return the logits of a network on a split in its stored order; each rank computes a share of the batches.

    A batch has `batch_size` images, or fewer if they are large, as `images_per_pass` returns.

    Returns:
        float32 (N, classes) on the CPU.

    Raises:
        DataError: a logit is not finite; the error names `label` and the first such image.
    """
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    model.eval()

    def run(batch: slice) -> Tensor:
        images = torch.from_numpy(split.read(batch)).to(device)
        logits: Tensor = model(to_input(images, normalization))
        return logits.cpu().float()

    step = images_per_pass(split.size, batch_size)
    starts = range(0, len(split), step)
    own = starts[ranks.part(len(starts))]
    with torch.inference_mode():
        batches = (run(slice(start, start + step)) for start in track(own, len(own), label, "batch"))
        logits = _concatenate(batches, len(split[own[0] : own[-1] + step])) if own else run(slice(1))[:0]
        gathered = ranks.gather(logits)
        result = torch.cat(gathered) if len(gathered) > 1 else gathered[0]
    finite = result.isfinite().all(dim=1)
    if not finite.all():
        raise DataError(f"{label}: the output for image {int(finite.int().argmin())} is not finite")
    return result


def _concatenate(tensors: Iterator[Tensor], count: int) -> Tensor:
    """Concatenate tensors of `count` rows in all without holding them at once, which would fragment the memory."""
    first = next(tensors)
    rows, filled = first.new_empty(count, *first.shape[1:]), 0
    for tensor in chain([first], tensors):
        rows[filled : filled + len(tensor)] = tensor
        filled += len(tensor)
    return rows
