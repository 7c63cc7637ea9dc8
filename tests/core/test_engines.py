"""Which engines this torch and this CPU have."""

import pytest
import torch

from ptqflow.core.engines import ENGINES, available_engines, lacks_vnni


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


@pytest.mark.parametrize("is_without", [True, False])
def test_all_engines_but_qnnpack_need_the_vnni_of_avx512_on_an_x86(
    monkeypatch: pytest.MonkeyPatch, is_without: bool
) -> None:
    asked: list[str] = []
    monkeypatch.setattr("ptqflow.core.engines.is_x86_without", lambda name: asked.append(name) or is_without)

    assert {engine for engine in ENGINES if lacks_vnni(engine)} == ({*ENGINES} - {"qnnpack"} if is_without else set())
    assert {*asked} == {"avx512_vnni"}
