"""Which engines this torch and this CPU have."""

import platform

import pytest
import torch

from ptqflow.core.engines import ENGINES, available_engines, lacks_vnni
from ptqflow.core.machine import describe_machine


def test_available_engines_can_be_selected_and_others_cannot() -> None:
    before = torch.backends.quantized.engine
    try:
        for engine in ENGINES:
            if engine in available_engines():
                torch.backends.quantized.engine = engine
                assert torch.backends.quantized.engine == engine
            else:
                with pytest.raises(RuntimeError):
                    torch.backends.quantized.engine = engine
    finally:
        torch.backends.quantized.engine = before


@pytest.mark.parametrize("engine", ENGINES)
def test_vnni_is_what_the_kernel_reports_for_x86_and_qnnpack_does_not_need_it(engine: str) -> None:
    has_vnni = {"avx512_vnni", "avx_vnni"} & set(describe_machine(1)["instructions"])
    is_x86 = platform.machine() in ("x86_64", "AMD64")
    assert lacks_vnni(engine) == (is_x86 and engine != "qnnpack" and not has_vnni)  # type: ignore[arg-type]
