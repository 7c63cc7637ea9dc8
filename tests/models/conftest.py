import importlib
import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import miniature  # before torchvision, which it lets be imported beside any torch
import pytest
import torch
from torch import nn

_numbers = itertools.count()


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return miniature.residual(len(miniature.CLASSES)).eval()


@pytest.fixture
def user_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], str]]:
    """Write Python code into the current directory; return its module's name."""
    written = []

    def write(code: str) -> str:
        written.append(f"user_network_{next(_numbers)}")
        (tmp_path / f"{written[-1]}.py").write_text(code)
        importlib.invalidate_caches()
        return written[-1]

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield write
    for name in written:
        sys.modules.pop(name, None)
