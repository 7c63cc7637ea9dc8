import re
import shlex
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path

import pytest
import safetensors.torch
import torch
from miniature import CLASSES, residual
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torchvision import models
from weights_files import Save, State, save_legacy, save_safetensors, save_zip

from ptqflow.core.errors import ModelError
from ptqflow.models.architecture import build_model
from ptqflow.models.pretrained import Loaded, load_checkpoint


def save_newer_pickle(state: State, path: Path) -> None:
    torch.save(state, path, pickle_protocol=3)


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

    assert load_checkpoint(other, path, len(CLASSES)) == Loaded(replaces_head=False, changes=())
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
@pytest.mark.parametrize("save", [save_zip, save_safetensors])
def test_another_precision_is_converted_to_float32_and_reported(
    network: nn.Module, path: Path, dtype: torch.dtype, save: Save
) -> None:
    save(network.to(dtype).state_dict(), path)
    other = residual(len(CLASSES))

    changes = load_checkpoint(other, path, len(CLASSES)).changes
    assert_equal_states(other.state_dict(), network.float().state_dict())
    assert other.fc.weight.dtype == torch.float32
    assert changes == (f"converted 12 of 14 tensors from {str(dtype).removeprefix('torch.')} to float32",)


def test_of_several_precisions_each_is_reported(network: nn.Module, path: Path) -> None:
    state = network.state_dict()
    torch.save(state | {"conv1.weight": state["conv1.weight"].half(), "fc.bias": state["fc.bias"].double()}, path)

    assert load_checkpoint(network, path, len(CLASSES)).changes == (
        "converted 1 of 14 tensors from float16 to float32",
        "converted 1 of 14 tensors from float64 to float32",
    )


def test_float64_that_the_network_itself_has_is_not_converted(path: Path) -> None:
    source, other = (residual(len(CLASSES)) for _ in range(2))
    for model in (source, other):
        model.register_buffer("scale", torch.zeros(1, dtype=torch.float64))
    source.scale += 1 / 3
    torch.save(source.state_dict(), path)

    assert load_checkpoint(other, path, len(CLASSES)).changes == ()
    assert torch.equal(other.scale, source.scale)


@pytest.mark.parametrize(("value", "shown"), [(1e300, "1e+300"), (-3.5e38, "3.5e+38")])
def test_a_value_beyond_float32_is_refused_by_name(network: nn.Module, path: Path, value: float, shown: str) -> None:
    state = network.double().state_dict()
    state["fc.bias"][2] = value
    torch.save(state, path)

    with pytest.raises(ModelError, match=re.escape(f"{path}: fc.bias holds {shown}, beyond the range of float32; ")):
        load_checkpoint(network.float(), path, len(CLASSES))


@pytest.mark.parametrize(
    ("name", "head", "classes"),
    [("resnet18", "fc", 5), ("resnet18", "fc", 64), ("squeezenet1_1", "classifier.1", 5)],
    ids=["linear", "as many classes as channels", "convolution"],
)
def test_a_head_for_another_number_of_classes_is_left_out(path: Path, name: str, head: str, classes: int) -> None:
    source, model = (build_model(name, "standard", count, (3, 32, 32)) for count in (11, classes))
    torch.save(source.state_dict(), path)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}

    assert load_checkpoint(model, path, classes).replaces_head
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
    extra = {f"extra{number}": torch.zeros(1) for number in range(5)}
    convolutions = {"conv1.weight": torch.zeros(1), "conv2.weight": torch.zeros(1)}
    kept = {name: tensor for name, tensor in network.state_dict().items() if not name.startswith("bn")}
    torch.save(kept | convolutions | extra, path)

    with pytest.raises(ModelError) as refusal:
        load_checkpoint(network, path, len(CLASSES))

    assert str(refusal.value).endswith(
        "does not fit model.name: 2 of another shape: conv1.weight (1,), not (8, 3, 3, 3), "
        "conv2.weight (1,), not (8, 8, 3, 3); "
        "8 missing: bn1.weight, bn1.bias, bn1.running_mean and 5 more; "
        "5 unexpected: extra0, extra1, extra2 and 2 more"
    )


@pytest.mark.parametrize("save", [save_zip, save_safetensors])
@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "module._orig_mod.", "model.", "backbone.", "net.", "encoder."]
)
def test_a_prefix_of_all_names_is_removed_and_reported(network: nn.Module, path: Path, prefix: str, save: Save) -> None:
    save({f"{prefix}{name}": tensor for name, tensor in network.state_dict().items()}, path)
    other = residual(len(CLASSES))

    assert load_checkpoint(other, path, len(CLASSES)).changes == (f"removed the prefix {prefix} from its names",)
    assert_equal_states(other.state_dict(), network.state_dict())


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # by torch.compile
def test_the_state_of_a_parallel_or_compiled_or_averaged_network_is_loaded(network: nn.Module, path: Path) -> None:
    for wrapper, prefix in (
        (nn.DataParallel(network), "module."),
        (torch.compile(network), "_orig_mod."),
        (AveragedModel(network, use_buffers=True), "module."),
    ):
        torch.save(wrapper.state_dict(), path)
        other = residual(len(CLASSES))

        assert load_checkpoint(other, path, len(CLASSES)).changes == (f"removed the prefix {prefix} from its names",)
        assert_equal_states(other.state_dict(), network.state_dict())


def test_a_prefix_that_the_network_itself_has_stays(network: nn.Module, path: Path) -> None:
    source, other = (nn.Sequential(OrderedDict(model=residual(len(CLASSES)))) for _ in range(2))
    torch.save(source.state_dict(), path)

    assert load_checkpoint(other, path, len(CLASSES)).changes == ()
    assert_equal_states(other.state_dict(), source.state_dict())


def test_a_prefix_is_removed_from_a_checkpoint_whose_head_is_left_out(network: nn.Module, path: Path) -> None:
    source = residual(len(CLASSES) + 1)
    torch.save({f"module.{name}": tensor for name, tensor in source.state_dict().items()}, path)

    loaded = load_checkpoint(network, path, len(CLASSES))
    assert loaded == Loaded(replaces_head=True, changes=("removed the prefix module. from its names",))
    assert torch.equal(network.conv1.weight, source.conv1.weight)


def test_names_without_the_prefix_of_the_others_are_unexpected(network: nn.Module, path: Path) -> None:
    state = {f"model.{name}": tensor for name, tensor in network.state_dict().items()}
    torch.save(state | {"criterion.weight": torch.ones(6), "fc.bias": torch.ones(6)}, path)

    with pytest.raises(ModelError) as refusal:
        load_checkpoint(network, path, len(CLASSES))

    assert str(refusal.value).endswith(
        "does not fit model.name without the prefix model.: 2 unexpected: criterion.weight, fc.bias"
    )


def test_of_a_training_checkpoint_the_state_dict_is_taken_and_what_is_left_is_reported(
    network: nn.Module, path: Path
) -> None:
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    network(torch.ones(2, 3, 8, 8)).sum().backward()
    optimizer.step()
    content = {"epoch": 3, "optimizer": optimizer.state_dict(), "best": 0.5, "args": {"lr": 0.1}}
    torch.save(content | {"state_dict": network.half().state_dict()}, path)
    other = residual(len(CLASSES))

    assert load_checkpoint(other, path, len(CLASSES)).changes == (
        "took ['state_dict'], left epoch, optimizer, best and 1 more",
        "converted 12 of 14 tensors from float16 to float32",
    )
    assert_equal_states(other.state_dict(), network.float().state_dict())


@pytest.mark.parametrize("name", ["model", "model_state_dict", "net", "ema", "state_dict_ema", "weights"])
def test_the_name_of_the_entry_does_not_matter(network: nn.Module, path: Path, name: str) -> None:
    torch.save({name: network.state_dict()}, path)

    assert load_checkpoint(residual(len(CLASSES)), path, len(CLASSES)).changes == (f"took ['{name}']",)


def test_an_entry_of_an_entry_is_taken(network: nn.Module, path: Path) -> None:
    torch.save({"epoch": 3, "ema": {"updates": 7, "module": network.state_dict()}}, path)
    other = residual(len(CLASSES))

    assert load_checkpoint(other, path, len(CLASSES)).changes == ("took ['ema']['module'], left epoch",)
    assert_equal_states(other.state_dict(), network.state_dict())


def test_a_lightning_checkpoint_is_taken_by_entry_and_prefix(network: nn.Module, path: Path) -> None:
    content = {
        "epoch": 2,
        "global_step": 30,
        "pytorch-lightning_version": "2.5.0",
        "state_dict": OrderedDict((f"model.{name}", tensor) for name, tensor in network.state_dict().items()),
        "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"current": {"completed": 2}}}},
        "callbacks": {"ModelCheckpoint{'monitor': None}": {"best_model_score": torch.tensor(0.5)}},
        "optimizer_states": [torch.optim.SGD(network.parameters(), lr=0.1).state_dict()],
        "lr_schedulers": [],
        "hparams_name": "kwargs",
        "hyper_parameters": {"lr": 0.1},
    }
    torch.save(content, path)
    other = residual(len(CLASSES))

    assert load_checkpoint(other, path, len(CLASSES)).changes == (
        "took ['state_dict'], left epoch, global_step, pytorch-lightning_version and 6 more",
        "removed the prefix model. from its names",
    )
    assert_equal_states(other.state_dict(), network.state_dict())


def test_of_several_state_dicts_the_only_one_with_the_names_of_the_network_is_taken(
    network: nn.Module, path: Path
) -> None:
    torch.save({"teacher": nn.Linear(2, 2).state_dict(), "student": network.state_dict()}, path)

    assert load_checkpoint(residual(len(CLASSES)), path, len(CLASSES)).changes == ("took ['student'], left teacher",)


def test_of_several_with_its_names_none_is_taken_and_the_named_command_selects_one(
    network: nn.Module, tmp_path: Path
) -> None:
    path, average = tmp_path / "it's a last.ckpt", AveragedModel(residual(len(CLASSES)), use_buffers=True)
    torch.save({"epoch": 3, "ema": average.state_dict(), "model": network.state_dict()}, path)

    with pytest.raises(
        ModelError, match=r"several state_dicts with the names of model\.name: \['ema'\], \['model'\]; "
    ) as refusal:
        load_checkpoint(network, path, len(CLASSES))

    (command,) = re.findall("`(.*)`", str(refusal.value))
    subprocess.run(command.replace("python", shlex.quote(sys.executable), 1), shell=True, check=True, cwd=tmp_path)
    load_checkpoint(network, tmp_path / "weights.pt", len(CLASSES))
    assert_equal_states(network.state_dict(), average.module.state_dict())


def test_where_no_state_dict_fits_the_nearest_is_described(network: nn.Module, path: Path) -> None:
    state = network.state_dict()
    del state["bn1.weight"]
    torch.save({"head": nn.Linear(2, 2).state_dict(), "model": state}, path)

    with pytest.raises(ModelError, match=r"weights\['model'\] does not fit model\.name: 1 missing: bn1\.weight$"):
        load_checkpoint(network, path, len(CLASSES))


class Tied(nn.Module):
    """A network with a layer of two names, and two layers with the same weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))
        self.again = self.first
        self.fc1, self.fc2 = nn.Linear(3, 3), nn.Linear(3, 3)
        self.fc2.weight = self.fc1.weight


@pytest.mark.parametrize("prefix", ["", "module."])
def test_tensors_that_safetensors_leaves_out_as_shared_are_set_by_those_they_share(path: Path, prefix: str) -> None:
    source, other = Tied(), Tied()
    wrapped = nn.DataParallel(source) if prefix else source
    safetensors.torch.save_model(wrapped, str(path))
    assert len(safetensors.torch.load_file(path)) < len(source.state_dict())

    changes = load_checkpoint(other, path, 3).changes
    assert_equal_states(other.state_dict(), source.state_dict())
    assert changes[-1] == (
        "set first.0.weight, first.0.bias, first.1.weight and 4 more, missing in the file, "
        "from the tensors tied to them"
    )


def test_tied_tensors_may_be_in_the_file_twice(path: Path) -> None:
    source, other = Tied(), Tied()
    torch.save(source.state_dict(), path)

    assert load_checkpoint(other, path, 3).changes == ()
    assert_equal_states(other.state_dict(), source.state_dict())


def test_tensors_that_the_network_ties_must_not_differ_in_the_file(path: Path) -> None:
    torch.save(Tied().state_dict() | {"fc2.weight": torch.ones(3, 3)}, path)

    with pytest.raises(ModelError, match=r"1 different and tied in the network: fc1\.weight and fc2\.weight$"):
        load_checkpoint(Tied(), path, 3)


def test_a_tensor_that_is_missing_with_all_that_share_its_memory_is_missing(path: Path) -> None:
    torch.save({name: tensor for name, tensor in Tied().state_dict().items() if "weight" not in name}, path)

    with pytest.raises(
        ModelError, match=r"6 missing: first\.0\.weight, first\.1\.weight, again\.0\.weight and 3 more$"
    ):
        load_checkpoint(Tied(), path, 3)


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
    source, model = (build_model("mnasnet0_5", "standard", 3, (3, 32, 32)) for _ in range(2))
    save(source.state_dict(), path)

    load_checkpoint(model, path, 3)
    assert_equal_states(model.state_dict(), source.state_dict())


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_heads_that_torchvision_only_trains_with_are_ignored(path: Path, name: str) -> None:
    source = models.get_model(name, weights=None, num_classes=4, aux_logits=True, init_weights=False)
    torch.save(source.state_dict(), path)
    model = build_model(name, "standard", 4, (3, 96, 96))

    load_checkpoint(model, path, 4)
    assert_equal_states(model.state_dict(), {key: source.state_dict()[key] for key in model.state_dict()})


def test_the_old_names_in_published_densenets_are_understood(path: Path) -> None:
    source, model = (build_model("densenet121", "standard", 4, (3, 32, 32)) for _ in range(2))
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
