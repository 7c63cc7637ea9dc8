"""The engines: libraries of INT8 kernels that torch can run a converted model on."""

import platform
from typing import Literal, get_args

import torch

Engine = Literal["x86", "fbgemm", "onednn", "qnnpack"]


ENGINES: tuple[Engine, ...] = get_args(Engine)


_X86 = ("x86_64", "AMD64")


def lacks_vnni(engine: Engine) -> bool:
    """Return whether this CPU lacks the instructions that the engine's kernels need for 8-bit activations.

    Without VNNI, x86 adds pairs of 8-bit products in 16 bits, which can overflow. QNNPACK does not do it so.
    """
    return engine != "qnnpack" and platform.machine() in _X86 and not bool(torch.cpu._is_vnni_supported())


def available_engines() -> list[Engine]:
    """Return the engines that this build of torch and this CPU have."""
    return [engine for engine in ENGINES if engine in torch.backends.quantized.supported_engines]
