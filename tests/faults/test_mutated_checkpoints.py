"""Files of weights with changed bytes, and weights that nobody means."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from mutation import mutate
from torch import Tensor, nn
from weights_files import save_legacy, save_safetensors, save_zip

from ptqflow.core.errors import ModelError
from ptqflow.models.pretrained import load_checkpoint

pytestmark = pytest.mark.faults

ODD: dict[str, Callable[[Tensor], Tensor]] = {
    "as it was": lambda tensor: tensor,
    "NaN": lambda tensor: torch.full_like(tensor, torch.nan),
    "beyond float32": lambda tensor: torch.full_like(tensor, 1e300, dtype=torch.float64),
    "expanded": lambda tensor: torch.zeros(1).expand(10**6, 10**6),
    "empty": lambda tensor: torch.zeros(0, *tensor.shape),
    "integers": lambda tensor: tensor.to(torch.int64),
    "complex": lambda tensor: tensor.to(torch.complex64),
    "of another shape": lambda tensor: tensor[:1],
    "half": lambda tensor: tensor.half(),
}


def test_mutated_checkpoints(
    random_: random.Random,
    record_property: Callable[[str, object], None],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    path = tmp_path / "weights"
    save = random_.choice([save_zip, save_legacy, save_safetensors])
    odd = random_.choice(sorted(ODD)) if save is not save_safetensors else "as it was"
    changed = random_.choice(sorted(state))
    save(state | {changed: ODD[odd](state[changed])}, path)
    if odd == "as it was":
        path.write_bytes(mutate(path.read_bytes(), random_))
    refusal = None
    try:
        load_checkpoint(model, path, 3)
    except ModelError as error:
        refusal = str(error)
    if refusal is None:
        assert all(tensor.isfinite().all() for tensor in model.state_dict().values())
    else:
        assert "\n" not in refusal
        assert refusal.startswith("model.weights: ")
    record_property("outcome", "read" if refusal is None else "one line")
    assert capfd.readouterr().err == ""
