import contextlib
import copy
import itertools
import random
from collections.abc import Iterator
from pathlib import Path

import miniature
import numpy as np
import pytest
import torch
from recipes import RECIPE as VALUES
from recipes import params
from ruamel.yaml import YAML
from safetensors.torch import load_file
from samples import save_dataset
from torch import Tensor, nn
from torchvision.transforms import functional

import train as stage
from ptqflow.core.artifacts import write_card
from ptqflow.core.errors import DataError, ModelError, PtqflowWarning
from ptqflow.core.paths import NETWORK
from ptqflow.data.accuracy import evaluate
from ptqflow.data.dataset import Split, digests_of
from ptqflow.models.logits import compute_logits
from ptqflow.train.augmentation import draw_epoch
from ptqflow.train.checkpoints import Checkpoints
from ptqflow.train.loop import Epoch, fit, selected
from ptqflow.train.params import TrainParams
from ptqflow.train.schedule import learning_rate
from ptqflow.train.step import Recipe

CPU = torch.device("cpu")
RECIPE = Recipe(miniature.NORMALIZATION, horizontal_flip=True)
VAL = miniature.split(20, seed=1)


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return miniature.residual(len(miniature.CLASSES))


def train(count: int = 30, recipe: Recipe = RECIPE, **changes: float | bool | None) -> tuple[nn.Module, list[Epoch]]:
    model = network()
    return model, list(fit(model, miniature.split(count), VAL, recipe, params(**changes), CPU))


def states_equal(left: nn.Module, right: nn.Module) -> bool:
    return all(torch.equal(tensor, right.state_dict()[name]) for name, tensor in left.state_dict().items())


def hide(image: Tensor, middle: Tensor, side: int) -> Tensor:
    """Cutout, as its paper's code does it; `side` is even."""
    _, height, width = image.shape
    y, x = int(middle[0] * height), int(middle[1] * width)
    mask = np.ones((height, width), np.float32)
    y1, y2 = (int(np.clip(edge, 0, height)) for edge in (y - side // 2, y + side // 2))
    x1, x2 = (int(np.clip(edge, 0, width)) for edge in (x - side // 2, x + side // 2))
    mask[y1:y2, x1:x2] = 0.0
    return image * torch.from_numpy(mask)


def plain_loop(split: Split, params: TrainParams, flip: bool) -> tuple[nn.Module, list[float], list[float]]:
    """The recipe image by image with torchvision's transforms; returns loss and accuracy of each epoch, too."""
    model = network().to(memory_format=torch.channels_last)
    norms = {id(parameter) for norm in (model.bn1, model.bn2) for parameter in norm.parameters()}
    others = [parameter for parameter in model.parameters() if id(parameter) not in norms]
    spared = [parameter for parameter in model.parameters() if id(parameter) in norms]
    optimizer = torch.optim.SGD(
        [{"params": others}, {"params": spared, "weight_decay": params.weight_decay if params.decay_norm else 0}],
        lr=params.lr,
        momentum=params.momentum,
        weight_decay=params.weight_decay,
        fused=True,
    )
    steps = -(-len(split) // params.batch_size) - (len(split) % params.batch_size == 1)
    losses, accuracies = [], []
    for epoch in range(1, params.epochs + 1):
        draws = draw_epoch(len(split), params.crop_padding, flip, params.seed, epoch)
        model.train()
        seen, loss_sum, hits = 0, 0.0, 0
        for start in range(0, len(split), params.batch_size):
            drawn = draws[start : start + params.batch_size]
            rows = drawn.order
            if len(rows) == 1:
                continue
            images = [functional.to_tensor(split.images[row]) for row in rows]
            images = [
                functional.crop(functional.pad(image, [params.crop_padding]), int(top), int(left), *image.shape[1:])
                for image, (top, left) in zip(images, drawn.places, strict=True)
            ]
            images = [
                functional.hflip(image) if mirror else image
                for image, mirror in zip(images, drawn.mirrored, strict=True)
            ]
            images = [
                functional.normalize(image, miniature.NORMALIZATION.mean, miniature.NORMALIZATION.std)
                for image in images
            ]
            batch = torch.stack(
                [hide(image, middle, params.cutout) for image, middle in zip(images, drawn.hidden, strict=True)]
            )
            labels = torch.from_numpy(split.labels[rows])
            logits = model(batch.to(memory_format=torch.channels_last))
            loss = nn.CrossEntropyLoss(label_smoothing=params.label_smoothing)(logits, labels)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate((epoch - 1) * steps + start // params.batch_size, steps, params)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            seen += len(rows)
            loss_sum += loss.item() * len(rows)
            hits += int((logits.argmax(dim=1) == labels).sum())
        losses.append(loss_sum / seen)
        accuracies.append(hits / seen)
    return model, losses, accuracies


@pytest.mark.parametrize("count", [30, 33], ids=["uneven batches", "a last batch of one image"])
@pytest.mark.parametrize(
    ("changes", "flip"),
    [
        ({}, True),
        ({"crop_padding": 0, "momentum": 0.0}, False),
    ],
    ids=["the default recipe", "bare"],
)
def test_training_equals_a_plain_torch_loop_bit_for_bit(count: int, changes: dict[str, float], flip: bool) -> None:
    recipe = Recipe(miniature.NORMALIZATION, flip)
    model, epochs = train(count, recipe, **changes)

    expected, losses, accuracies = plain_loop(miniature.split(count), params(**changes), flip)
    assert states_equal(model, expected)
    assert [epoch.train_loss for epoch in epochs] == pytest.approx(losses, rel=1e-6)
    assert [epoch.train_top1 for epoch in epochs] == accuracies
    assert [epoch.epoch for epoch in epochs] == [1, 2, 3]


def test_another_recipe_equals_a_plain_torch_loop_but_for_rounding() -> None:
    changes = {"schedule": "one_cycle", "warmup_epochs": 0.5, "label_smoothing": 0.1, "decay_norm": False, "cutout": 4}
    model, epochs = train(**changes)

    expected, losses, accuracies = plain_loop(miniature.split(30), params(**changes), flip=True)
    for name, tensor in expected.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], tensor)
    assert [epoch.train_loss for epoch in epochs] == pytest.approx(losses, rel=1e-5)
    assert [epoch.train_top1 for epoch in epochs] == accuracies


def test_each_epoch_is_evaluated_on_val_as_the_network_then_is() -> None:
    model = network()
    for epoch in fit(model, miniature.split(30), VAL, RECIPE, params(), CPU):
        logits = compute_logits(copy.deepcopy(model), VAL, miniature.NORMALIZATION, 256, "val")
        assert epoch.val == evaluate(logits, VAL.labels)


def test_two_runs_train_equal_weights_and_another_seed_others() -> None:
    first, epochs = train()
    second, epochs_again = train()
    other, _ = train(seed=5)

    assert states_equal(first, second)
    assert epochs == epochs_again
    assert not states_equal(first, other)


def test_the_moving_average_of_the_weights_is_what_is_evaluated_and_kept() -> None:
    average = network().state_dict()
    for step in range(1, 4):  # of one batch, so that the weights after each step are those after an epoch
        newest = train(8, epochs=step)[0].state_dict()
        decay = min(0.6, step / (9 + step))
        average = {name: decay * tensor + (1 - decay) * newest[name] for name, tensor in average.items()}

    model, epochs = train(8, ema_decay=0.6)

    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            torch.testing.assert_close(tensor, average[name])
    assert model.bn1.num_batches_tracked == 3
    logits = compute_logits(model, VAL, miniature.NORMALIZATION, 256, "val")
    assert epochs[-1].val == evaluate(logits, VAL.labels)


def test_select_best_keeps_the_weights_of_the_best_epoch() -> None:
    last, epochs = train(epochs=8, lr=0.3)
    best, same_epochs = train(epochs=8, lr=0.3, select="best")

    assert epochs == same_epochs
    choice = selected(epochs, params(select="best"))
    assert choice.val.top1 == max(epoch.val.top1 for epoch in epochs)
    assert choice is not epochs[-1], "or this tests nothing"
    logits = compute_logits(best, VAL, miniature.NORMALIZATION, 256, "val")
    assert evaluate(logits, VAL.labels) == choice.val
    assert selected(epochs, params()) is epochs[-1]
    logits = compute_logits(last, VAL, miniature.NORMALIZATION, 256, "val")
    assert evaluate(logits, VAL.labels) == epochs[-1].val


class WithDropout(nn.Module):
    """Draws from every generator that a network may draw from."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = miniature.residual(len(miniature.CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return self.inner(x)
        return nn.functional.dropout(self.inner(x)) * (random.random() + np.random.rand())


@pytest.mark.parametrize("changes", [{}, {"ema_decay": 0.9, "select": "best", "schedule": "one_cycle"}])
@pytest.mark.parametrize("stop_after", [1, 2, 4])
def test_a_training_that_was_stopped_ends_with_the_same_bits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, float], stop_after: int
) -> None:
    def run(checkpoints: Checkpoints | None, epochs: int) -> tuple[nn.Module, list[Epoch]]:
        torch.manual_seed(0)
        model = WithDropout()
        recipe = params(epochs=5, **changes)
        fitting = fit(model, miniature.split(30), VAL, RECIPE, recipe, CPU, checkpoints=checkpoints)
        return model, list(itertools.islice(fitting, epochs))

    checkpoints = Checkpoints(tmp_path, {})
    _, expected = whole = run(None, 6)
    run(checkpoints, stop_after)
    torch.manual_seed(99)  # other draws in the meantime

    resumed = run(checkpoints, 6)

    assert capsys.readouterr().out.startswith(f"resuming after epoch {stop_after} from ")
    assert resumed[1] == expected
    assert states_equal(resumed[0], whole[0])
    assert len(run(checkpoints, 6)[1]) == 5
    assert capsys.readouterr().out.startswith("resuming after epoch 5 from "), "nothing is left to train"


def test_checkpoints_are_written_every_so_many_epochs(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, {}, every=2)
    list(fit(network(), miniature.split(30), VAL, RECIPE, params(), CPU, checkpoints=checkpoints))
    assert [file.name[:6] for file in checkpoints.folder.iterdir()] == ["000002"]

    none = Checkpoints(tmp_path / "none", {}, every=0)
    list(fit(network(), miniature.split(30), VAL, RECIPE, params(), CPU, checkpoints=none))
    assert not (tmp_path / "none").exists()


def test_training_learns() -> None:
    _, epochs = train(recipe=Recipe(miniature.NORMALIZATION, False), epochs=40, crop_padding=0)

    assert epochs[-1].train_top1 > 0.9 > epochs[0].train_top1


def test_no_epochs_leave_the_weights_unchanged_and_evaluate_them_once() -> None:
    model, epochs = train(epochs=0)

    assert states_equal(model, network())
    assert [(epoch.epoch, epoch.train_loss, epoch.train_top1) for epoch in epochs] == [(0, None, None)]
    logits = compute_logits(model, VAL, miniature.NORMALIZATION, 256, "val")
    assert epochs[0].val == evaluate(logits, VAL.labels)
    assert str(epochs[0]).startswith("epoch 0: val ")
    assert epochs[0].as_row().train_loss is None


def test_a_row_has_the_figures_rounded_to_six_decimals() -> None:
    _, epochs = train(epochs=1)

    row = epochs[0].as_row()
    assert list(row.model_dump()) == ["epoch", "train_loss", "train_top1", "val_loss", "val_top1"]
    assert row.train_loss == round(epochs[0].train_loss, 6)
    assert row.val_loss == round(epochs[0].val.loss, 6)


@pytest.mark.parametrize("batch_size", [4, 30], ids=["many steps", "one step"])
@pytest.mark.parametrize("lr", [1e6, 1e38])
def test_a_learning_rate_that_is_too_high_is_reported_in_one_line(batch_size: int, lr: float) -> None:
    line = r"^training diverged in epoch \d+, step \d+: .* at a learning rate of .*; lower train.lr$"
    with pytest.raises(ModelError, match=line):
        train(lr=lr, batch_size=batch_size, epochs=20)


def test_weights_that_are_not_finite_are_reported_in_the_first_epoch() -> None:
    model = network()
    nn.init.constant_(model.fc.bias, float("nan"))

    line = "training diverged in epoch 1, step 1: the loss is nan at a learning rate of 0.05"
    with pytest.raises(ModelError, match=line):
        list(fit(model, miniature.split(30), VAL, RECIPE, params(), CPU))


@pytest.mark.parametrize("epochs", [0, 1])
def test_one_image_is_too_few_to_train_on(epochs: int) -> None:
    with pytest.raises(DataError, match="training needs 2 images or more, the train split has 1"):
        train(1, epochs=epochs)


def test_two_images_are_enough_to_train_on() -> None:
    _, epochs = train(2, epochs=1)

    assert np.isfinite(epochs[0].train_loss)


def run_stage(
    directory: Path, monkeypatch: pytest.MonkeyPatch, flip: bool | None, allowed: bool, epochs: int = 1
) -> dict[str, Tensor]:
    """Train as the pipeline does, on a data set that allows mirrored images or not."""
    splits = {
        split: (miniature.images(count), np.arange(count) % len(miniature.CLASSES))
        for split, count in (("train", 30), ("val", 12), ("test", 12))
    }
    dataset = save_dataset(directory / "data" / "dataset", splits, classes=miniature.CLASSES, horizontal_flip=allowed)
    card = miniature.card().model_copy(update={"normalization": dataset.normalization})
    (directory / NETWORK).parent.mkdir(parents=True)
    write_card(directory / NETWORK, card)
    sections = {
        "train": VALUES | {"epochs": epochs, "crop_padding": 0, "horizontal_flip": flip},
        "run": {"processes": 1, "threads": None, "batch_size": 256, "checkpoint_every": 1},
    }
    with (directory / "params.yaml").open("w") as file:
        YAML().dump(sections, file)
    monkeypatch.chdir(directory)
    stage.main()
    return load_file(directory / "models" / "fp32" / "weights.safetensors")


@pytest.fixture
def _torch_as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("_torch_as_before")
@pytest.mark.parametrize("allowed", [True, False])
def test_mirroring_follows_the_params_or_what_the_data_set_allows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, allowed: bool
) -> None:
    weights = {flip: run_stage(tmp_path / str(flip), monkeypatch, flip, allowed) for flip in (None, True, False)}

    assert torch.equal(weights[None]["conv1.weight"], weights[allowed]["conv1.weight"])
    assert not torch.equal(weights[None]["conv1.weight"], weights[not allowed]["conv1.weight"])


@pytest.mark.usefixtures("_torch_as_before")
def test_a_disk_that_is_full_for_a_while_does_not_end_the_training(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filler, epochs = small_disk / "filler", []

    def fit_on_a_full_disk(*arguments: object) -> Iterator[Epoch]:
        for epoch in fit(*arguments):
            epochs.append(epoch)
            if epoch.epoch == 2:
                fill(filler)
            if epoch.epoch == 4:
                filler.unlink()
            yield epoch

    monkeypatch.setattr("ptqflow.train.loop.fit", fit_on_a_full_disk)
    with pytest.warns(PtqflowWarning, match="No space left on device") as warned:
        run_stage(small_disk / "run", monkeypatch, flip=None, allowed=True, epochs=5)

    assert len(epochs) == 5
    figures = [str(one.message) for one in warned if "figures of epoch" in str(one.message)]
    assert [figure.partition(" not")[0] for figure in figures] == ["figures of epoch 2", "figures of epoch 3"]
    assert len((small_disk / "run" / "metrics" / "plots" / "train.csv").read_text().splitlines()) == 6


def fill(file: Path) -> None:
    """Fill what is left of a disk."""
    with file.open("wb", buffering=0) as opened, contextlib.suppress(OSError):
        while True:
            opened.write(bytes(512))


def test_val_is_evaluated_in_batches_of_a_number_of_pixels() -> None:
    seen: list[int] = []
    model = network()
    model.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    black = np.zeros((40, 128, 128, 3), np.uint8)
    large = Split(black, np.arange(40) % 6, digests_of(black))
    list(fit(model, miniature.split(4), large, RECIPE, params(epochs=0), CPU))
    assert seen == [16, 16, 8], "2**18 pixels at a time"
