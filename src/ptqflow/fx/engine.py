"""The libraries of INT8 kernels that torch can run a converted model on."""

import torch
from torch import nn

from ptqflow.core.engines import Engine, available_engines, lacks_vnni
from ptqflow.core.errors import EngineError


def use_engine(engine: Engine, reduce_range: bool) -> None:
    """Select the engine for this process; packed weights are made for it and run on no other.

    Args:
        engine: which kernels.
        reduce_range: whether the model keeps to 7 of 8 bits for activations.

    Raises:
        EngineError: this build of torch, or this CPU, lacks it, or lacks what a model with all 8 bits needs.
    """
    available = available_engines()
    if engine not in available:
        raise EngineError(f"convert.engine={engine} is not available on this machine, which has {', '.join(available)}")
    if not reduce_range and lacks_vnni(engine):
        raise EngineError(
            f"the INT8 model uses all 8 bits of its activations, which on {engine} needs a CPU with VNNI, and this one "
            "has none: sums would overflow; set convert.activation.reduce_range=true and run `dvc repro`"
        )
    torch.backends.quantized.engine = engine


def overflowing_layers(model: nn.Module, engine: Engine) -> list[str]:
    """Return the layers whose INT8 kernel can overflow with 8-bit activations on every CPU.

    FBGEMM's kernels for depthwise convolutions add pairs of products in 16 bits. The engine `fbgemm` uses them for
    every depthwise convolution, `x86` for those with more than 100 groups (found with torch 2.13 by running them).
    """
    most = {"fbgemm": 1, "x86": 100}.get(engine)
    if most is None:
        return []
    convolutions = ((name, module) for name, module in model.named_modules() if isinstance(module, nn.Conv2d))
    return [name for name, conv in convolutions if conv.groups > most and conv.groups == conv.in_channels]
