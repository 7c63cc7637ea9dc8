import json
import os
import pickle
import re
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from miniature import CLASSES, residual
from torch import Tensor, nn
from torchvision import models

from ptqflow.core.errors import ModelError
from ptqflow.models.architecture import build_model
from ptqflow.train.pretrained import load_checkpoint, read_checkpoint

State = dict[str, Tensor]
Save = Callable[[State, Path], None]


def save_zip(state: State, path: Path) -> None:
    torch.save(state, path)


def save_legacy(state: State, path: Path) -> None:
    torch.save(state, path, _use_new_zipfile_serialization=False)


def save_newer_pickle(state: State, path: Path) -> None:
    torch.save(state, path, pickle_protocol=3)


def save_safetensors(state: State, path: Path) -> None:
    safetensors.torch.save_file(state, path)


def refuse(path: Path) -> str:
    with pytest.raises(ModelError) as refusal:
        read_checkpoint(path)
    message = str(refusal.value)
    assert str(path) in message
    assert "\n" not in message
    return message


def assert_equal_states(left: State, right: State) -> None:
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "weights"


@pytest.mark.parametrize("save", [save_zip, save_legacy, save_newer_pickle, save_safetensors])
def test_every_format_brings_each_tensor_back(network: nn.Module, path: Path, save: Save) -> None:
    save(network.state_dict(), path)
    other = residual(len(CLASSES))

    assert load_checkpoint(other, path, len(CLASSES)) is False
    assert_equal_states(other.state_dict(), network.state_dict())


def test_tensors_that_share_a_storage_come_back(network: nn.Module, path: Path) -> None:
    state = network.state_dict()
    storage = torch.cat([tensor.flatten().float() for tensor in state.values()])
    pieces = storage.split([tensor.numel() for tensor in state.values()])
    torch.save(
        {name: piece.view(tensor.shape) for (name, tensor), piece in zip(state.items(), pieces, strict=True)}, path
    )
    other = residual(len(CLASSES))

    load_checkpoint(other, path, len(CLASSES))
    assert_equal_states(other.state_dict(), state)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_another_precision_is_read_as_float32(network: nn.Module, path: Path, dtype: torch.dtype) -> None:
    torch.save(network.to(dtype).state_dict(), path)
    other = residual(len(CLASSES))

    load_checkpoint(other, path, len(CLASSES))
    assert_equal_states(other.state_dict(), network.float().state_dict())
    assert other.fc.weight.dtype == torch.float32


@pytest.mark.parametrize(
    ("name", "head", "classes"),
    [("resnet18", "fc", 5), ("resnet18", "fc", 64), ("squeezenet1_1", "classifier.1", 5)],
    ids=["linear", "as many classes as channels", "convolution"],
)
def test_a_head_for_another_number_of_classes_is_left_out(path: Path, name: str, head: str, classes: int) -> None:
    source, model = (build_model(name, "standard", count, 32) for count in (11, classes))
    torch.save(source.state_dict(), path)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}

    assert load_checkpoint(model, path, classes) is True
    kept = {key: before[key] for key in (f"{head}.weight", f"{head}.bias")}
    assert_equal_states(model.state_dict(), source.state_dict() | kept)


def test_what_is_missing_unexpected_or_misshapen_is_listed(network: nn.Module, path: Path) -> None:
    state = network.state_dict()
    del state["bn1.weight"]
    state |= {"conv2.weight": torch.zeros(8, 8, 5, 5), "extra": torch.zeros(1)}
    torch.save(state, path)

    with pytest.raises(ModelError) as refusal:
        load_checkpoint(network, path, len(CLASSES))

    assert str(refusal.value).endswith(
        "does not fit model.name: 1 of another shape: conv2.weight (8, 8, 5, 5), not (8, 8, 3, 3); "
        "1 missing: bn1.weight; 1 unexpected: extra"
    )


def test_a_misshapen_layer_besides_the_head_is_no_new_head(network: nn.Module, path: Path) -> None:
    state = residual(len(CLASSES) + 1).state_dict()
    torch.save(state | {"conv2.weight": torch.zeros(8, 8, 5, 5)}, path)

    with pytest.raises(ModelError, match=r"1 of another shape: conv2.weight \(8, 8, 5, 5\), not \(8, 8, 3, 3\)$"):
        load_checkpoint(network, path, len(CLASSES))


def test_of_many_misfits_some_of_each_kind_are_shown_and_all_counted(network: nn.Module, path: Path) -> None:
    state = {f"module.{name}": tensor for name, tensor in network.state_dict().items()}  # as DistributedDataParallel's
    torch.save(state | {name: torch.zeros(1) for name in ("conv1.weight", "bn1.weight")}, path)

    with pytest.raises(ModelError) as refusal:
        load_checkpoint(network, path, len(CLASSES))

    assert str(refusal.value).endswith(
        "2 of another shape: bn1.weight (1,), not (8,), conv1.weight (1,), not (8, 3, 3, 3); "
        "10 missing: bn1.bias, bn1.running_mean, bn1.running_var and 7 more; "
        "14 unexpected: module.conv1.weight, module.bn1.weight, module.bn1.bias and 11 more; "
        "strip module. from the names, which a wrapper around the model put there"
    )


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_the_prefix_of_a_wrapper_is_named(network: nn.Module, path: Path, prefix: str) -> None:
    torch.save({f"{prefix}{name}": tensor for name, tensor in network.state_dict().items()}, path)

    with pytest.raises(ModelError, match=rf"strip {re.escape(prefix)} from the names, which a wrapper"):
        load_checkpoint(network, path, len(CLASSES))


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool])
def test_weights_that_are_no_floats_are_refused(network: nn.Module, path: Path, dtype: torch.dtype) -> None:
    torch.save(network.state_dict() | {"conv2.weight": torch.ones(8, 8, 3, 3, dtype=dtype)}, path)

    with pytest.raises(ModelError, match=rf"1 of another type: conv2.weight {dtype}, not torch.float32$"):
        load_checkpoint(network, path, len(CLASSES))


def test_weights_of_a_refused_checkpoint_change_nothing(network: nn.Module, path: Path) -> None:
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    torch.save({name: tensor + 1 for name, tensor in before.items()} | {"extra": torch.zeros(1)}, path)

    with pytest.raises(ModelError):
        load_checkpoint(network, path, len(CLASSES))
    assert_equal_states(network.state_dict(), before)


def test_counters_of_batches_may_be_missing(network: nn.Module, path: Path) -> None:
    state = {name: tensor for name, tensor in network.state_dict().items() if "num_batches" not in name}
    torch.save(state, path)
    other = residual(len(CLASSES))

    load_checkpoint(other, path, len(CLASSES))
    assert_equal_states({name: other.state_dict()[name] for name in state}, state)


@pytest.mark.parametrize("save", [save_zip, save_safetensors])
def test_a_network_that_checks_the_version_of_its_state_is_loaded(path: Path, save: Save) -> None:
    source, model = (build_model("mnasnet0_5", "standard", 3, 32) for _ in range(2))
    save(source.state_dict(), path)

    load_checkpoint(model, path, 3)
    assert_equal_states(model.state_dict(), source.state_dict())


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_heads_that_torchvision_only_trains_with_are_ignored(path: Path, name: str) -> None:
    source = models.get_model(name, weights=None, num_classes=4, aux_logits=True, init_weights=False)
    torch.save(source.state_dict(), path)
    model = build_model(name, "standard", 4, 96)

    load_checkpoint(model, path, 4)
    assert_equal_states(model.state_dict(), {key: source.state_dict()[key] for key in model.state_dict()})


def test_the_old_names_in_published_densenets_are_understood(path: Path) -> None:
    source, model = (build_model("densenet121", "standard", 4, 32) for _ in range(2))
    state = source.state_dict()
    old = {
        key.replace("norm1", "norm.1").replace("norm2", "norm.2").replace("conv1", "conv.1").replace("conv2", "conv.2")
        if "denselayer" in key
        else key: tensor
        for key, tensor in state.items()
    }
    assert old.keys() != state.keys()
    torch.save(old, path)

    load_checkpoint(model, path, 4)
    assert_equal_states(model.state_dict(), state)


@pytest.mark.parametrize(
    ("value", "dtype"),
    [(float("nan"), torch.float32), (float("-inf"), torch.float16), (1e300, torch.float64)],
)
def test_a_value_that_is_not_finite_in_float32_is_refused_by_name(path: Path, value: float, dtype: torch.dtype) -> None:
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

    assert "torch.save(model.state_dict(), path)" in refuse(path)


def test_a_training_checkpoint_around_the_weights_is_refused(network: nn.Module, path: Path) -> None:
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    torch.save({"epoch": 3, "model": network.state_dict(), "optimizer": optimizer.state_dict()}, path)

    assert "holds epoch, model, optimizer that are no tensors" in refuse(path)


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
