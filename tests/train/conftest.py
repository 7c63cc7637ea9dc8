import miniature  # before torchvision, which it lets be imported beside any torch
import pytest
import torch
from torch import nn


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return miniature.residual(len(miniature.CLASSES)).eval()
