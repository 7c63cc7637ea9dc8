from pathlib import Path

import miniature
import numpy as np
import pytest
import torch
from exporting import PARAMS, ROOT, Exported, make_networks
from quantizing import _engine_of_its_own, inputs  # noqa: F401
from samples import save_dataset
from torch import Tensor

from ptqflow.data.dataset import open_dataset
from ptqflow.export.export import write_files


@pytest.fixture
def exported(tmp_path: Path, inputs: list[Tensor], monkeypatch: pytest.MonkeyPatch) -> Exported:
    """The miniature ResNet, as files beside a manifest."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))
    torch.manual_seed(0)
    dataset = tmp_path / "dataset"
    splits = {
        split: (miniature.images(count, seed), np.arange(count) % len(miniature.CLASSES))
        for seed, (split, count) in enumerate((("train", 40), ("val", 12), ("test", 50)))
    }
    save_dataset(dataset, splits, classes=miniature.CLASSES)
    model = miniature.residual(6).eval()
    with torch.no_grad():
        model.fc.weight *= 20
        model.fc.bias -= model(torch.cat(inputs)).mean(0)  # so that the images are not all of one class
    networks = make_networks(model, miniature.card(), inputs, fuse_additions=False)
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    result = Exported(tmp_path / "export", dataset, open_dataset(dataset), networks)
    result.directory.mkdir()
    write_files(result.directory, networks, result.logits, PARAMS)
    result.describe()
    return result
