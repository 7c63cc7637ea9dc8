import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from inference.exported import write_export


@pytest.fixture(autouse=True)
def _engine_of_its_own() -> Iterator[None]:
    engine = torch.backends.quantized.engine
    yield
    torch.backends.quantized.engine = engine


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported model that tests leave as it is."""
    return write_export(tmp_path_factory.mktemp("models") / "export")


@pytest.fixture
def export(whole: Path, tmp_path: Path) -> Path:
    """A copy to change."""
    return shutil.copytree(whole, tmp_path / "export")
