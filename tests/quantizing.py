"""Fixtures of all tests that quantize; a conftest.py imports those that its tests use."""

from collections.abc import Iterator
from pathlib import Path

import miniature
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ptqflow.calib.collection import collect_statistics, observe
from ptqflow.calib.statistics import Statistics, StatisticsCard, save_statistics
from ptqflow.data.preprocessing import to_input


@pytest.fixture(autouse=True)
def _engine_of_its_own() -> Iterator[None]:
    engine = torch.backends.quantized.engine
    yield
    torch.backends.quantized.engine = engine


@pytest.fixture(scope="session")
def inputs() -> list[Tensor]:
    """Five batches of 8 normalized images."""
    pixels = torch.from_numpy(miniature.images(40))
    return list(to_input(pixels, miniature.NORMALIZATION).split(8))


@pytest.fixture(params=["residual", "normed"])
def function(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def network(function: str) -> nn.Module:
    torch.manual_seed(0)
    return getattr(miniature, function)(len(miniature.CLASSES)).eval()


@pytest.fixture
def statistics(network: nn.Module, inputs: list[Tensor]) -> Statistics:
    """What four batches show of every tensor."""
    return collect_statistics(observe(network, miniature.INPUT_SHAPE), inputs[:4], np.arange(32).reshape(4, 8))


@pytest.fixture
def statistics_dir(tmp_path: Path, function: str, statistics: Statistics) -> Path:
    """The same on disk."""
    card = StatisticsCard(model=miniature.card(function), images=statistics.rows.size)
    save_statistics(tmp_path / "statistics", statistics, card)
    return tmp_path / "statistics"
