import argparse
import json
import os
import pickle
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from weights_files import Save, save_legacy, save_safetensors, save_zip

from ptqflow.core.errors import ModelError
from ptqflow.models.weights_file import read_weights_file, require_plain


def refuse(path: Path) -> str:
    with pytest.raises(ModelError) as refusal:
        require_plain(read_weights_file(path).states[""], f"model.weights: {path}")
    message = str(refusal.value)
    assert str(path) in message
    assert "\n" not in message
    return message


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "weights"


def test_a_state_dict_alone_is_the_whole_file(path: Path) -> None:
    for save in (save_zip, save_legacy, save_safetensors):
        save({"weight": torch.ones(3)}, path)
        file = read_weights_file(path)
        assert (file.path, list(file.states), file.entries) == (path, [""], ())
        assert torch.equal(file.states[""]["weight"], torch.ones(3))


def test_the_state_dicts_in_a_checkpoint_are_found_by_their_subscripts(path: Path) -> None:
    state = {"weight": torch.ones(3)}
    torch.save(
        {"epoch": 3, "model": state, "ema": {"updates": 3, "module": state}, 7: {}, "a": {"b": {"c": state}}}, path
    )

    file = read_weights_file(path)
    assert list(file.states) == ["['model']", "['ema']['module']"]
    assert file.entries == ("epoch", "model", "ema", "7", "a")


@pytest.mark.parametrize(
    ("value", "dtype"),
    [(float("nan"), torch.float32), (float("-inf"), torch.float16), (float("inf"), torch.float64)],
)
def test_a_value_that_is_not_finite_is_refused_by_name(path: Path, value: float, dtype: torch.dtype) -> None:
    torch.save({"good": torch.ones(3), "bad.weight": torch.tensor([0, value], dtype=dtype)}, path)

    assert "bad.weight holds NaN or infinity" in refuse(path)


@pytest.mark.filterwarnings("ignore")  # torch's, of what is in beta state or deprecated
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: torch.eye(3).to_sparse(), "torch.float32, torch.sparse_coo, on cpu"),
        (lambda: torch.eye(3).to_sparse_csr(), "torch.float32, torch.sparse_csr, on cpu"),
        (lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]), "torch.float32, torch.strided, on cpu"),
        (lambda: torch.ones(3, device="meta"), "torch.float32, torch.strided, on meta"),
        (lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8), "torch.qint8, torch.strided, on cpu"),
        (lambda: torch.ones(3, dtype=torch.complex64), "torch.complex64, torch.strided, on cpu"),
        (lambda: torch.ones(3).to(torch.float8_e4m3fn), "torch.float8_e4m3fn, torch.strided, on cpu"),
    ],
)
def test_a_tensor_that_is_not_dense_real_and_in_memory_is_refused_by_name(
    path: Path, make: Callable[[], Tensor], words: str
) -> None:
    torch.save({"good": torch.ones(3), "bad.weight": make()}, path)

    assert f"bad.weight is a tensor of {words}; save a dense one of floats on the CPU" in refuse(path)


def test_keys_that_are_no_names_are_refused(path: Path) -> None:
    torch.save({0: torch.ones(3)}, path)

    assert "has the key 0, which is no name; save model.state_dict() alone" in refuse(path)


def test_a_safetensors_file_of_numbers_that_torch_lacks_is_refused(path: Path) -> None:
    header = json.dumps({"weight": {"dtype": "F6_E2M3", "shape": [4], "data_offsets": [0, 3]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(3))

    assert "holds numbers of the type F6_E2M3; save floats of 16 bits or more" in refuse(path)


def test_a_damaged_safetensors_file_is_refused_with_the_way_to_replace_it(path: Path) -> None:
    save_safetensors({"weight": torch.ones(3)}, path)
    path.write_bytes(path.read_bytes()[:-1])

    assert refuse(path).endswith(
        "; copy it again, or save it again: safetensors.torch.save_file(model.state_dict(), path)"
    )


class Attack:
    """Creates a directory when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("wrap", ["pickle", "zip", "legacy"])
def test_code_in_a_pickle_is_never_executed(tmp_path: Path, path: Path, wrap: str) -> None:
    target = tmp_path / "attacked"
    content = {"fc.weight": torch.zeros(1), "attack": Attack(target)}
    if wrap == "pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=wrap == "zip")

    assert "nothing in it was executed" in refuse(path)
    assert not target.exists()
    with path.open("rb") as file:
        pickle.load(file) if wrap == "pickle" else torch.load(file, weights_only=False)
    assert target.exists(), "the attack would have worked"


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickled_module_is_refused_with_the_way_to_save_it(network: nn.Module, path: Path, legacy: bool) -> None:
    torch.save(network, path, _use_new_zipfile_serialization=not legacy)

    assert "torch.save(model.state_dict(), 'weights.pt')" in refuse(path)


def test_what_needs_code_is_named_and_the_named_command_saves_the_weights_alone(
    network: nn.Module, tmp_path: Path
) -> None:
    path = tmp_path / "it's a last.ckpt"
    torch.save({"state_dict": network.state_dict(), "hyper_parameters": argparse.Namespace(lr=0.1)}, path)

    message = refuse(path)
    assert "holds more than tensors, numbers and text (argparse.Namespace); nothing in it was executed" in message
    command = message.partition("from a checkpoint that you trust ")[2]
    subprocess.run([sys.executable, "-c", f"import torch; {command}"], check=True, cwd=tmp_path)
    assert read_weights_file(tmp_path / "weights.pt").states[""].keys() == network.state_dict().keys()


def test_a_training_checkpoint_without_weights_is_refused(network: nn.Module, path: Path) -> None:
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    network(torch.ones(2, 3, 8, 8)).sum().backward()
    optimizer.step()
    torch.save({"epoch": 3, "optimizer": optimizer.state_dict()}, path)

    assert "holds epoch, optimizer that are no tensors; save the state_dict alone" in refuse(path)


def test_a_checkpoint_that_contains_itself_is_read_to_a_depth_of_two(path: Path) -> None:
    content: dict[str, object] = {"epoch": 3}
    content["again"] = content
    torch.save(content, path)

    assert "holds epoch, again that are no tensors" in refuse(path)


@pytest.mark.parametrize(("content", "kind"), [(torch.ones(3), "Tensor"), ([torch.ones(3)], "list")])
def test_what_is_no_dictionary_is_refused(path: Path, content: object, kind: str) -> None:
    torch.save(content, path)

    assert f"holds {kind}, not a state_dict" in refuse(path)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_torchscript_archive_is_refused(path: Path) -> None:
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), str(path))

    assert "is damaged or no checkpoint" in refuse(path)


@pytest.mark.parametrize("save", [save_zip, save_legacy, save_safetensors])
def test_a_file_cut_off_anywhere_is_refused(path: Path, save: Save) -> None:
    save({"conv.weight": torch.ones(8, 3, 3, 3), "conv.bias": torch.ones(8)}, path)
    whole = path.read_bytes()

    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        refuse(path)


@pytest.mark.parametrize("content", [b"", b"not a checkpoint\n" * 9, b"weights {: a text that looks like safetensors"])
def test_a_file_that_is_no_checkpoint_is_refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)

    refuse(path)


@pytest.mark.parametrize("save", [save_zip, save_legacy])
def test_a_tensor_expanded_to_a_trillion_numbers_is_refused_before_they_take_memory(save: Save, path: Path) -> None:
    save({"weight": torch.zeros(1).expand(10**6, 10**6)}, path)
    assert "weight is expanded to (1000000, 1000000) from 4 bytes; save it contiguous" in refuse(path)
