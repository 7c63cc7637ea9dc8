import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ptqflow.core.errors import PtqflowWarning
from ptqflow.train.checkpoints import Checkpoints

RECORD = {"epochs": [{"epoch": 1, "loss": 0.1 + 0.2}]}


def tensors(seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(4, 3, 3, 3, generator=generator).to(memory_format=torch.channels_last)
    return {"model.weight": weights, "model.tied": weights, "model.count": torch.tensor(7)}


def newest_file(checkpoints: Checkpoints) -> Path:
    return max(checkpoints.folder.iterdir())


def test_a_checkpoint_is_read_back_bit_for_bit(tmp_path: Path) -> None:
    Checkpoints(tmp_path, {"lr": 0.1}).save(3, tensors(), RECORD)

    found = Checkpoints(tmp_path, {"lr": 0.1}).newest()

    assert found is not None
    assert found.record == RECORD
    assert found.tensors.keys() == tensors().keys()
    assert all(torch.equal(tensor, tensors()[name]) for name, tensor in found.tensors.items())


def test_equal_trainings_write_equal_bytes(tmp_path: Path) -> None:
    first, second = Checkpoints(tmp_path / "a", {}), Checkpoints(tmp_path / "b", {})
    first.save(1, tensors(), RECORD)
    second.save(1, tensors(), RECORD)
    assert newest_file(first).name == newest_file(second).name
    assert newest_file(first).read_bytes() == newest_file(second).read_bytes()


def test_another_training_finds_nothing(tmp_path: Path) -> None:
    Checkpoints(tmp_path, {"lr": 0.1}).save(1, tensors(), RECORD)
    assert Checkpoints(tmp_path, {"lr": 0.2}).newest() is None
    assert Checkpoints(tmp_path / "empty", {"lr": 0.1}).newest() is None


def test_the_newest_two_are_kept_and_the_newest_is_read(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, {})
    for epoch in (8, 9, 10, 11):
        checkpoints.save(epoch, tensors(epoch), {"epoch": epoch})

    assert sorted(file.name[:6] for file in checkpoints.folder.iterdir()) == ["000010", "000011"]
    found = checkpoints.newest()
    assert found is not None
    assert found.record == {"epoch": 11}


@pytest.mark.parametrize("damage", ["truncated", "edited", "empty", "no safetensors"])
def test_a_damaged_one_is_skipped_with_a_warning_and_the_previous_one_is_read(tmp_path: Path, damage: str) -> None:
    checkpoints = Checkpoints(tmp_path, {})
    checkpoints.save(1, tensors(1), {"epoch": 1})
    checkpoints.save(2, tensors(2), {"epoch": 2})
    file = newest_file(checkpoints)
    data = bytearray(file.read_bytes())
    if damage == "edited":
        data[-1] ^= 1
    file.write_bytes({"truncated": data[:-5], "edited": data, "empty": b"", "no safetensors": b"PK" + data}[damage])

    with pytest.warns(PtqflowWarning, match=r"000002-.* is skipped: it is truncated or was changed"):
        found = checkpoints.newest()

    assert found is not None
    assert found.record == {"epoch": 1}


def test_damaged_ones_of_later_epochs_do_not_take_the_place_of_new_ones(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, {})
    for epoch in (10, 15):
        checkpoints.save(epoch, tensors(epoch), {"epoch": epoch})
    for file in checkpoints.folder.iterdir():
        file.write_bytes(b"truncated")

    for epoch in (5, 6, 7):
        checkpoints.save(epoch, tensors(epoch), {"epoch": epoch})

    with pytest.warns(PtqflowWarning, match="is skipped"):
        found = checkpoints.newest()
    assert found is not None
    assert found.record == {"epoch": 7}
    assert sorted(int(file.name[:6]) for file in checkpoints.folder.iterdir()) == [6, 7, 10, 15]


def test_epochs_of_more_than_six_digits_are_in_order(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, {})
    for epoch in (999_999, 1_000_000, 1_000_001):
        checkpoints.save(epoch, tensors(), {"epoch": epoch})
    found = checkpoints.newest()
    assert found is not None
    assert found.record == {"epoch": 1_000_001}
    assert sorted(int(file.name.partition("-")[0]) for file in checkpoints.folder.iterdir()) == [1_000_000, 1_000_001]


def test_a_checkpoint_of_another_training_in_the_folder_is_skipped(tmp_path: Path) -> None:
    foreign, own = Checkpoints(tmp_path, {"lr": 0.1}), Checkpoints(tmp_path, {"lr": 0.2})
    foreign.save(1, tensors(), RECORD)
    own.folder.mkdir()
    newest_file(foreign).rename(own.folder / newest_file(foreign).name)

    with pytest.warns(PtqflowWarning, match="is skipped: it is of another training"):
        assert own.newest() is None


def test_a_pickle_is_not_read(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, {})
    checkpoints.save(1, tensors(), RECORD)
    torch.save({"model.weight": torch.zeros(1)}, newest_file(checkpoints))
    with pytest.warns(PtqflowWarning, match="is skipped"):
        assert checkpoints.newest() is None


def test_a_full_disk_is_a_warning_and_the_previous_one_stays(small_disk: Path) -> None:
    checkpoints = Checkpoints(small_disk, {})
    checkpoints.save(1, tensors(), RECORD)
    with pytest.warns(PtqflowWarning, match="no checkpoint after epoch 2; training continues: No space left on device"):
        checkpoints.save(2, {"large": torch.zeros(1 << 19)}, RECORD)

    found = checkpoints.newest()
    assert found is not None
    assert found.record == RECORD
    assert len(list(checkpoints.folder.iterdir())) == 1


def test_remove_deletes_the_folder_and_those_of_other_trainings_stay(tmp_path: Path) -> None:
    root = tmp_path / "checkpoints"
    done, other = Checkpoints(root, {"lr": 0.1}), Checkpoints(root, {"lr": 0.2})
    done.save(1, tensors(), RECORD)
    other.save(1, tensors(), RECORD)

    done.remove()
    assert list(root.iterdir()) == [other.folder]
    other.remove()
    assert not root.exists()
    other.remove()


KILLED_WHILE_WRITING = """
import os, signal, sys
from pathlib import Path
import torch
from ptqflow.train.checkpoints import Checkpoints

checkpoints = Checkpoints(Path(sys.argv[1]), {})
checkpoints.save(1, {"weight": torch.ones(3)}, {"epoch": 1})
write = Path.write_bytes


def die_in_the_middle(path, data):
    write(path, data[: len(data) // 2])
    os.kill(os.getpid(), signal.SIGKILL)


Path.write_bytes = die_in_the_middle
checkpoints.save(2, {"weight": torch.ones(3)}, {"epoch": 2})
"""


def test_the_previous_one_stays_where_a_process_is_killed_while_it_writes(tmp_path: Path) -> None:
    source = Path(__file__).parents[2] / "src"
    command = [sys.executable, "-c", KILLED_WHILE_WRITING, str(tmp_path)]
    ended = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(source)}, check=False)
    assert ended.returncode == -9

    checkpoints = Checkpoints(tmp_path, {})
    found = checkpoints.newest()
    assert found is not None
    assert found.record == {"epoch": 1}
    checkpoints.remove()
    assert not list(tmp_path.rglob("*"))


def test_other_files_in_the_folder_are_left_alone(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, {})
    checkpoints.save(1, tensors(1), {"epoch": 1})
    for name in ("9x-y.safetensors", "9-y.safetensors", "٣-y.safetensors", "000009-.safetensors"):
        (checkpoints.folder / name).write_bytes(b"x")
    found = checkpoints.newest()
    assert found is not None
    assert found.record == {"epoch": 1}
    checkpoints.save(2, tensors(2), {"epoch": 2})
    assert len(list(checkpoints.folder.iterdir())) == 6
