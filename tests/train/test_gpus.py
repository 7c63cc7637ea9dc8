"""Training on NVIDIA GPUs, where there are any: on one, and by NCCL on two."""

import random
import shutil
import warnings
from pathlib import Path

import miniature
import pytest
import torch
from rank_processes import kill_one_of_two_and_resume, start, train
from recipes import params
from torch import Tensor, nn

from ptqflow.core.errors import PtqflowWarning
from ptqflow.train import batches
from ptqflow.train.augmentation import crop_and_flip, cut_out, draw_epoch
from ptqflow.train.checkpoints import Checkpoints
from ptqflow.train.loop import fit, pick_device
from ptqflow.train.step import Recipe

GPUS = torch.cuda.device_count()
pytestmark = [pytest.mark.slow, pytest.mark.skipif(GPUS < 1, reason="needs a GPU")]
two = pytest.mark.skipif(GPUS < 2, reason="needs two GPUs")
CHANGES = {"cutout": 4, "ema_decay": 0.9, "schedule": "one_cycle", "select": "best"}


class Curious(nn.Module):
    """Reads a value back in its forward, which cannot be captured as a CUDA graph."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        assert x.sum().isfinite().item()
        return self.network(x)


def network(drops: bool = False, channels: int = 3) -> nn.Module:
    torch.manual_seed(0)
    model = miniature.residual(len(miniature.CLASSES), channels)
    if drops:
        model.fc = nn.Sequential(nn.Dropout(0.3), model.fc)
    return model


class Wavering(nn.Module):
    """Draws from Python's generator, which a CUDA graph would do once for all steps."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x) * (1 + random.random() * self.training)


def fitted(
    model: nn.Module, checkpoints: Checkpoints | None = None, stop: int = 99, channels: int = 3, **changes: object
) -> list[Tensor]:
    """Train on the first GPU, on so many images that the last batch is a smaller one; return all weights."""
    recipe, settings = Recipe(miniature.NORMALIZATIONS[channels], horizontal_flip=True), params(**CHANGES | changes)
    train, val = miniature.split(60, channels=channels), miniature.split(20, seed=1, channels=channels)
    for epoch in fit(model, train, val, recipe, settings, pick_device(), checkpoints=checkpoints):
        if epoch.epoch == stop:
            break
    return list(model.state_dict().values())


def equal(left: list[Tensor], right: list[Tensor]) -> bool:
    return all(torch.equal(one, other) for one, other in zip(left, right, strict=True))


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_augmentation_returns_the_pixels_that_it_returns_on_the_cpu(channels: int) -> None:
    images = torch.from_numpy(miniature.images(200, channels=channels))
    draws = draw_epoch(200, 3, flip=True, seed=0, epoch=1)
    there = draws.to(torch.device("cuda"))
    cropped = crop_and_flip(images.cuda(), there.places, there.mirrored, 3).cpu()
    assert torch.equal(cropped, crop_and_flip(images, draws.places, draws.mirrored, 3))

    inputs = images.float().permute(0, 3, 1, 2)
    there_too = inputs.cuda()
    cut_out(there_too, there.hidden, 4)
    cut_out(inputs, draws.hidden, 4)
    assert torch.equal(there_too.cpu(), inputs)


@pytest.mark.parametrize("drops", [False, True])
@pytest.mark.parametrize("precision", ["fp32", None])
def test_steps_captured_as_a_graph_compute_the_bits_of_single_launches(precision: str | None, drops: bool) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", PtqflowWarning)
        captured = fitted(network(drops), precision=precision)
    with pytest.warns(PtqflowWarning, match="training continues without a CUDA graph, slower"):
        launched = fitted(Curious(network(drops)), precision=precision)
    assert equal(captured, launched)


@pytest.mark.parametrize("channels", [1, 4])
def test_steps_on_grey_and_rgba_images_are_captured_too(channels: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", PtqflowWarning)
        captured = fitted(network(channels=channels), channels=channels)
    with pytest.warns(PtqflowWarning, match="training continues without a CUDA graph, slower"):
        launched = fitted(Curious(network(channels=channels)), channels=channels)
    assert equal(captured, launched)


def test_a_network_that_draws_from_pythons_generator_is_not_captured(tmp_path: Path) -> None:
    with pytest.warns(PtqflowWarning, match="slower: the network draws from NumPy's or Python's generator"):
        whole = fitted(Wavering(network()))
    fitted(Wavering(network()), Checkpoints(tmp_path, {}), stop=1)
    assert equal(fitted(Wavering(network()), Checkpoints(tmp_path, {})), whole)


def test_images_that_do_not_fit_are_prefetched_and_train_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    resident = fitted(network())
    monkeypatch.setattr(batches, "_SHARE_OF_GPU", 0.0)
    assert equal(fitted(network()), resident)


@pytest.mark.parametrize("drops", [False, True])
@pytest.mark.parametrize("epoch", [1, 2])
def test_a_training_that_was_stopped_ends_with_the_same_bits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], epoch: int, drops: bool
) -> None:
    whole = fitted(network(drops))
    fitted(network(drops), Checkpoints(tmp_path, {}), stop=epoch)
    assert equal(fitted(network(drops), Checkpoints(tmp_path, {})), whole)
    assert f"resuming after epoch {epoch} from " in capsys.readouterr().out


# Convolutions in TF32, as torch has them, would differ by more than the order of additions.
EXACT = {"NVIDIA_TF32_OVERRIDE": "0"}
ON_GPUS = ["gpu=true", 'precision="fp32"', "images=93", "cutout=4", "ema_decay=0.5", 'schedule="one_cycle"']


@two
def test_two_gpus_with_synchronized_batch_norm_train_the_network_of_one_but_for_rounding(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in EXACT.items():
        monkeypatch.setenv(name, value)
    alone, rows = train(1, *ON_GPUS, "epochs=2")
    weights, its_rows = train(2, *ON_GPUS, "epochs=2")
    for name, tensor in alone.items():
        torch.testing.assert_close(weights[name], tensor, rtol=1e-4, atol=1e-5)
    for row, its_row in zip(rows, its_rows, strict=True):
        assert its_row == pytest.approx(row, rel=1e-4)


@two
def test_two_gpus_capture_their_steps_as_graphs_and_train_equal_bits_each_time() -> None:
    runs = []
    for _ in range(2):
        process = start(2, "weights", *ON_GPUS, "epochs=3")
        _, errors = process.communicate(timeout=300)
        assert (process.returncode, errors) == (0, ""), "no warning that it continues without a graph"
        runs.append(Path("weights").read_bytes())
        shutil.rmtree("checkpoints")
    assert runs[0] == runs[1]


@two
@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_rank_ends_the_other_within_30_seconds_and_training_resumes_from_the_checkpoint(victim: int) -> None:
    kill_one_of_two_and_resume(victim, *ON_GPUS, "epochs=60")


def test_more_devices_than_gpus_are_refused() -> None:
    process = start(GPUS + 1, "weights", "gpu=true", "epochs=1")
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    assert errors == f"train: train.devices may be at most {GPUS} on this host: it has no more GPUs\n"
