"""One step of training, on the CPU or a GPU, in one process or several."""

import copy
import random
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ptqflow.core.errors import PtqflowWarning
from ptqflow.core.normalization import Normalization
from ptqflow.core.ranks import Ranks
from ptqflow.data.preprocessing import to_input
from ptqflow.models.memory_format import lay_out, training_format
from ptqflow.train.augmentation import crop_and_flip, cut_out
from ptqflow.train.batches import Batch
from ptqflow.train.params import TrainParams
from ptqflow.train.sync_batchnorm import synchronize

_STEPS_BEFORE_CAPTURE = 3  # in which libraries initialize what a CUDA graph cannot
_NORMS = (
    nn.modules.batchnorm._BatchNorm,
    nn.modules.instancenorm._InstanceNorm,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.LocalResponseNorm,
)


@dataclass(frozen=True)
class Recipe:
    """The settings that the params leave to the data set and the model."""

    normalization: Normalization
    horizontal_flip: bool


class Trainer:
    """A network in training, with its optimizer and the moving average of its weights.

    On a GPU the step is captured once as a CUDA graph and replayed: for small images, launching its kernels one by one
    takes several times as long as running them.
    """

    def __init__(self, model: nn.Module, recipe: Recipe, params: TrainParams, ranks: Ranks, device: torch.device):
        self._params, self._ranks, self.device = params, ranks, device
        self._augments = bool(params.crop_padding or recipe.horizontal_flip)
        self._normalization = recipe.normalization
        model.to(device)
        self._format = training_format(model, device) if params.channels_last else torch.contiguous_format
        lay_out(model, self._format)
        self.model = synchronize(model) if self._synchronizes() else model
        self.average = copy.deepcopy(self.model) if params.ema_decay else None
        self._rate = torch.tensor(params.lr, device=device)
        self._fresh = torch.tensor(1.0, device=device)  # share of the newest weights in the moving average
        self._optimizer = torch.optim.SGD(
            _groups(self.model, params), lr=self._rate, momentum=params.momentum, fused=True
        )
        self._momenta = {
            name: torch.zeros_like(parameter, requires_grad=False)
            for name, parameter in self.model.named_parameters()
            if params.momentum and parameter.requires_grad
        }
        for name, parameter in self.model.named_parameters():
            if name in self._momenta:
                self._optimizer.state[parameter]["momentum_buffer"] = self._momenta[name]
        self._bf16 = (
            device.type == "cuda"
            and params.precision is None
            and torch.cuda.is_bf16_supported(including_emulation=False)
        )
        self._bf16 |= params.precision == "bf16"
        self._captures = device.type == "cuda"
        self._captured: _Captured | None = None
        self._eager_steps = 0
        self._kept = copy.deepcopy(self.result).state_dict() if params.select == "best" else {}

    def _synchronizes(self) -> bool:
        return self._ranks.size > 1 and self._params.sync_batchnorm and self.device.type == "cuda"

    @property
    def result(self) -> nn.Module:
        """The network to evaluate and keep: the moving average where there is one."""
        return self.model if self.average is None else self.average

    def state(self) -> dict[str, Tensor]:
        """Return all tensors that a step changes, themselves, not copies."""
        tensors = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        tensors |= {f"momentum.{name}": tensor for name, tensor in self._momenta.items()}
        if self.average is not None:
            tensors |= {f"average.{name}": tensor for name, tensor in self.average.state_dict().items()}
        return tensors | {f"kept.{name}": tensor for name, tensor in self._kept.items()}

    def keep(self) -> None:
        """Copy the current weights to keep, where `select` is `best`."""
        newest = self.result.state_dict()
        for name, kept in self._kept.items():
            kept.copy_(newest[name])

    def share_statistics(self) -> None:
        """Broadcast the running statistics of the first rank: they differ where each rank normalizes its own share."""
        for network in (self.model, self.average):
            for statistics in network.buffers() if network is not None else ():
                self._ranks.broadcast(statistics)

    def finish(self) -> None:
        """Load the weights to keep into `model`."""
        self.model.load_state_dict(self._kept or self.result.state_dict())

    def step(self, batch: Batch, step: int, rate: float) -> Tensor:
        """Take a step.

        Args:
            batch: this rank's share of it.
            step: counted from 1 over all epochs.
            rate: the learning rate.

        Returns:
            float32 (2,) on the device: this rank's share of the mean loss in nats, and the number of its correctly
            predicted images. The next step may overwrite it.
        """
        self._rate.fill_(rate)
        # The first averages would be of random weights, so the decay rises, as in TensorFlow's.
        self._fresh.fill_(1 - min(self._params.ema_decay, step / (9 + step)))
        if self._captured and self._captured.fits(batch):
            return self._captured.replay(batch)
        is_whole = batch.total == self._params.batch_size
        if self._captures and not self._captured and is_whole and self._eager_steps >= _STEPS_BEFORE_CAPTURE:
            return self._capture(batch)
        self._eager_steps += 1
        before = _host_draws() if self._captures else None
        figures = self._run(batch)
        if self._captures and _host_draws() != before:  # a graph would repeat the draws of its capture
            self._disable_capture("the network draws from NumPy's or Python's generator")
        return figures

    def _capture(self, batch: Batch) -> Tensor:
        try:
            self._captured = _Captured(self._run, batch)
        except RuntimeError as error:  # such as for a network that reads a value back
            self._disable_capture(str(error).partition("\n")[0])
            return self._run(batch)
        return self._captured.replay(batch)

    def _disable_capture(self, reason: str) -> None:
        self._captures, self._captured = False, None
        warnings.warn(PtqflowWarning(f"training continues without a CUDA graph, slower: {reason}"), stacklevel=1)

    def _run(self, batch: Batch) -> Tensor:
        self._optimizer.zero_grad()
        logits = self._logits(batch)
        losses = F.cross_entropy(
            logits.float(), batch.labels, reduction="sum", label_smoothing=self._params.label_smoothing
        )
        loss = losses / batch.total
        loss.backward()
        self._add_gradients()
        self._optimizer.step()
        self._update_average()
        hits = (logits.argmax(dim=1) == batch.labels).sum()
        return torch.stack([loss.detach(), hits.to(loss.dtype)])

    def _logits(self, batch: Batch) -> Tensor:
        images = batch.images
        if self._augments:
            images = crop_and_flip(images, batch.draws.places, batch.draws.mirrored, self._params.crop_padding)
        inputs = to_input(images, self._normalization, self._format)
        if self._params.cutout:
            cut_out(inputs, batch.draws.hidden, self._params.cutout)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._bf16):
            logits: Tensor = self.model(inputs)
        return logits

    def _add_gradients(self) -> None:
        """Sum the gradients over all ranks, whose losses are shares of one mean.

        DistributedDataParallel would weight ranks equally even where their numbers of images differ. A parameter
        that this rank's loss does not depend on, as in stochastic depth, has a gradient of zero.
        """
        if self._ranks.size == 1:
            return
        gradients = []
        for parameter in self.model.parameters():
            if parameter.grad is None and parameter.requires_grad:
                parameter.grad = torch.zeros_like(parameter)
            if parameter.grad is not None:
                gradients.append(parameter.grad)
        flat = self._ranks.add(torch.cat([gradient.flatten() for gradient in gradients]))
        for gradient, total in zip(gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True):
            gradient.copy_(total.view_as(gradient))

    @torch.no_grad()
    def _update_average(self) -> None:
        if self.average is None:
            return
        averages, newest = (
            [*network.parameters(), *network.buffers()] for network in (self.average, self.model)
        )  # shared ones once, unlike in a state_dict
        for average, new in zip(averages, newest, strict=True):
            if average.is_floating_point():
                average.lerp_(new, self._fresh)
            else:
                average.copy_(new)


class _Captured:
    """A step captured as a CUDA graph, for batches of one size."""

    def __init__(self, run: Callable[[Batch], Tensor], batch: Batch) -> None:
        self._batch = batch.clone()
        self._graph = torch.cuda.CUDAGraph()
        # Threads that prefetch, or watch NCCL, may use the GPU meanwhile.
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            self._figures = run(self._batch)

    def fits(self, batch: Batch) -> bool:
        """Return whether a batch is of the captured size."""
        return batch.total == self._batch.total

    def replay(self, batch: Batch) -> Tensor:
        """Return the figures of the step on a batch, which the next replay overwrites."""
        for static, new in zip(self._batch.tensors(), batch.tensors(), strict=True):
            static.copy_(new)
        self._graph.replay()
        return self._figures


def _host_draws() -> tuple[object, ...]:
    """Return the states of the generators that a CUDA graph does not advance."""
    kind, keys, *rest = np.random.get_state()
    return random.getstate(), kind, np.asarray(keys).tobytes(), *rest


def _groups(model: nn.Module, params: TrainParams) -> list[dict[str, object]]:
    norms = [module for module in model.modules() if isinstance(module, _NORMS) and not params.decay_norm]
    spared = {parameter for norm in norms for parameter in norm.parameters()}
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups: list[dict[str, object]] = [
        {"params": [one for one in trained if one not in spared], "weight_decay": params.weight_decay},
        {"params": [one for one in trained if one in spared], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]
