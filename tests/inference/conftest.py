from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def _engine_of_its_own() -> Iterator[None]:
    engine = torch.backends.quantized.engine
    yield
    torch.backends.quantized.engine = engine
