"""The engines: libraries of INT8 kernels that torch can run a converted model on."""

from typing import Literal, get_args

import torch

from ptqflow.core.machine import is_x86_without

Engine = Literal["x86", "fbgemm", "onednn", "qnnpack"]


ENGINES: tuple[Engine, ...] = get_args(Engine)


def lacks_vnni(engine: Engine) -> bool:
    """Return whether this CPU lacks the instructions that the engine's kernels need for 8-bit activations.

    Without VNNI, x86 adds pairs of 8-bit products in 16 bits, which can overflow. QNNPACK does not do it so. That of
    AVX-512 alone counts here, as for `torch.cpu._is_vnni_supported`.
    """
    return engine != "qnnpack" and is_x86_without("avx512_vnni")


def available_engines() -> list[Engine]:
    """Return the engines that this build of torch and this CPU have."""
    return [engine for engine in ENGINES if engine in torch.backends.quantized.supported_engines]
