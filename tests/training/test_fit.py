import copy
import json
from collections.abc import Iterator
from pathlib import Path

import miniature
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.transforms import functional

import train as stage
from ptqflow.data.dataset import DatasetCard, Split
from ptqflow.data.pool import Pool, Source
from ptqflow.data.writing import save_dataset
from ptqflow.errors import DataError, ModelError, ParamsError
from ptqflow.evaluation import compute_logits, evaluate
from ptqflow.models.params import ModelParams
from ptqflow.params import read_params
from ptqflow.train import Epoch, Recipe, TrainParams, describe_model, fit, require_start

CPU = torch.device("cpu")
RECIPE = Recipe(miniature.MEAN, miniature.STD, horizontal_flip=True)
VAL = miniature.split(20, seed=1)


def params(**changes: float | bool | None) -> TrainParams:
    recipe = {
        "epochs": 3,
        "batch_size": 8,
        "lr": 0.05,
        "momentum": 0.9,
        "weight_decay": 0.001,
        "crop_padding": 2,
        "horizontal_flip": None,
        "seed": 4,
    }
    return TrainParams.model_validate(recipe | changes)


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return miniature.residual(len(miniature.CLASSES))


def train(count: int = 30, recipe: Recipe = RECIPE, **changes: float | bool | None) -> tuple[nn.Module, list[Epoch]]:
    model = network()
    return model, list(fit(model, miniature.split(count), VAL, recipe, params(**changes), CPU))


def states_equal(left: nn.Module, right: nn.Module) -> bool:
    return all(torch.equal(tensor, right.state_dict()[name]) for name, tensor in left.state_dict().items())


def plain_loop(split: Split, params: TrainParams, flip: bool) -> tuple[nn.Module, list[float], list[float]]:
    """The recipe image by image with torchvision's transforms; returns loss and accuracy of each epoch, too."""
    model = network().to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=params.lr, momentum=params.momentum, weight_decay=params.weight_decay
    )
    generator = torch.Generator().manual_seed(params.seed)
    losses, accuracies = [], []
    for _ in range(params.epochs):
        model.train()
        seen, loss_sum, hits = 0, 0.0, 0
        for rows in torch.randperm(len(split), generator=generator).split(params.batch_size):
            if len(rows) == 1:
                continue
            images = [functional.to_tensor(split.images[row]) for row in rows]
            if params.crop_padding:
                places = torch.randint(0, 2 * params.crop_padding + 1, (2, len(rows), 1), generator=generator)
                images = [
                    functional.crop(functional.pad(image, [params.crop_padding]), int(top), int(left), *image.shape[1:])
                    for image, top, left in zip(images, *places, strict=True)
                ]
            if flip:
                mirrored = torch.rand(len(rows), generator=generator) < 0.5
                images = [
                    functional.hflip(image) if mirror else image for image, mirror in zip(images, mirrored, strict=True)
                ]
            batch = torch.stack([functional.normalize(image, miniature.MEAN, miniature.STD) for image in images])
            labels = torch.from_numpy(split.labels[rows])
            logits = model(batch.to(memory_format=torch.channels_last))
            loss = nn.CrossEntropyLoss()(logits, labels)
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
@pytest.mark.parametrize(("crop_padding", "flip"), [(2, True), (0, False)])
def test_training_equals_a_plain_torch_loop_bit_for_bit(count: int, crop_padding: int, flip: bool) -> None:
    recipe = Recipe(miniature.MEAN, miniature.STD, flip)
    model, epochs = train(count, recipe, crop_padding=crop_padding)

    expected, losses, accuracies = plain_loop(miniature.split(count), params(crop_padding=crop_padding), flip)
    assert states_equal(model, expected)
    assert [epoch.train_loss for epoch in epochs] == pytest.approx(losses, rel=1e-6)
    assert [epoch.train_top1 for epoch in epochs] == accuracies
    assert [epoch.epoch for epoch in epochs] == [1, 2, 3]


def test_each_epoch_is_evaluated_on_val_as_the_network_then_is() -> None:
    model = network()
    for epoch in fit(model, miniature.split(30), VAL, RECIPE, params(), CPU):
        logits = compute_logits(copy.deepcopy(model), VAL, miniature.MEAN, miniature.STD, 256, "val")
        assert epoch.val == evaluate(logits, VAL.labels)


def test_two_runs_give_equal_weights_and_another_seed_others() -> None:
    first, epochs = train()
    second, epochs_again = train()
    other, _ = train(seed=5)

    assert states_equal(first, second)
    assert epochs == epochs_again
    assert not states_equal(first, other)


def test_training_learns() -> None:
    _, epochs = train(recipe=Recipe(miniature.MEAN, miniature.STD, False), epochs=40, crop_padding=0)

    assert epochs[-1].train_top1 > 0.9 > epochs[0].train_top1


def test_no_epochs_leave_the_weights_and_give_one_evaluation() -> None:
    model, epochs = train(epochs=0)

    assert states_equal(model, network())
    assert [(epoch.epoch, epoch.train_loss, epoch.train_top1) for epoch in epochs] == [(0, None, None)]
    logits = compute_logits(model, VAL, miniature.MEAN, miniature.STD, 256, "val")
    assert epochs[0].val == evaluate(logits, VAL.labels)
    assert str(epochs[0]).startswith("epoch 0: val ")
    assert epochs[0].as_row()["train_loss"] is None


def test_a_row_has_the_figures_rounded_to_six_decimals() -> None:
    _, epochs = train(epochs=1)

    row = epochs[0].as_row()
    assert list(row) == ["epoch", "train_loss", "train_top1", "val_loss", "val_top1"]
    assert row["train_loss"] == round(epochs[0].train_loss, 6)
    assert row["val_loss"] == round(epochs[0].val.loss, 6)


@pytest.mark.parametrize("batch_size", [4, 30], ids=["many steps", "one step"])
@pytest.mark.parametrize("lr", [1e6, 1e38])
def test_a_learning_rate_that_is_too_high_is_told_in_one_line(batch_size: int, lr: float) -> None:
    with pytest.raises(ModelError, match=r"^training diverged in epoch \d+: .* at train.lr=.*; lower train.lr$"):
        train(lr=lr, batch_size=batch_size, epochs=20)


def test_weights_that_are_not_finite_are_told_in_the_first_epoch() -> None:
    model = network()
    nn.init.constant_(model.fc.bias, float("nan"))

    with pytest.raises(ModelError, match="training diverged in epoch 1: the loss is nan"):
        list(fit(model, miniature.split(30), VAL, RECIPE, params(), CPU))


@pytest.mark.parametrize("epochs", [0, 1])
def test_one_image_is_too_few_to_train_on(epochs: int) -> None:
    with pytest.raises(DataError, match="training needs two images or more, the train split has 1"):
        train(1, epochs=epochs)


def test_two_images_are_enough_to_train_on() -> None:
    _, epochs = train(2, epochs=1)

    assert np.isfinite(epochs[0].train_loss)


@pytest.mark.parametrize(
    ("epochs", "has_weights", "head_is_new"), [(1, False, False), (1, True, True), (0, True, False)]
)
def test_a_network_that_has_learned_or_will_may_go_on(epochs: int, has_weights: bool, head_is_new: bool) -> None:
    require_start(epochs, has_weights, head_is_new)


def test_without_epochs_weights_are_needed_with_a_head_that_fits() -> None:
    with pytest.raises(ModelError, match=r"train.epochs=0 takes model.weights as they are, and model.weights is null"):
        require_start(0, has_weights=False, head_is_new=False)
    with pytest.raises(ModelError, match=r"head for another number of classes, .* set train.epochs to 1 or more"):
        require_start(0, has_weights=True, head_is_new=True)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("epochs", "-1"),
        ("batch_size", "1"),
        ("lr", "0"),
        ("lr", ".inf"),
        ("momentum", "1"),
        ("weight_decay", "-0.1"),
        ("crop_padding", "257"),
        ("horizontal_flip", "sometimes"),
        ("seed", "0.5"),
    ],
)
def test_a_value_that_trains_nothing_is_refused_by_key(tmp_path: Path, key: str, value: str) -> None:
    lines = [f"  {name}: {json.dumps(given)}" for name, given in params().model_dump().items() if name != key]
    (tmp_path / "params.yaml").write_text("\n".join(["train:", *lines, f"  {key}: {value}"]))

    with pytest.raises(ParamsError, match=rf"train\.{key} is "):
        read_params("train", TrainParams, tmp_path / "params.yaml")


DATASET_CARD = DatasetCard(
    name="digits",
    source="synthetic",
    classes=miniature.CLASSES,
    image_size=miniature.SIZE,
    sizes={"train": 30, "val": 20, "test": 20},
    mean=(0.1, 0.2, 0.3),
    std=(0.4, 0.5, 0.6),
    normalization=((0.11, 0.22, 0.33), (0.44, 0.55, 0.66)),
    horizontal_flip=True,
    skipped=0,
    sha256={},
)


@pytest.mark.parametrize(
    ("given", "settled"),
    [
        ((None, None), DATASET_CARD.normalization),
        (((0.5, 0.5, 0.5), (0.1, 0.1, 0.1)), ((0.5, 0.5, 0.5), (0.1, 0.1, 0.1))),
        (((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)), ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))),
    ],
    ids=["of the data set", "of the weights", "none"],
)
def test_normalization_comes_from_the_params_or_the_data_set(given: tuple, settled: tuple) -> None:
    mean, std = given
    model = ModelParams(name="miniature:residual", weights=None, stem="standard", mean=mean, std=std)

    card = describe_model(model, DATASET_CARD)

    assert (card.mean, card.std) == settled
    expected = miniature.card().model_dump(exclude={"mean", "std"})
    assert card.model_dump(exclude={"mean", "std"}) == expected


def run_stage(directory: Path, monkeypatch: pytest.MonkeyPatch, flip: str, allowed: bool) -> dict[str, Tensor]:
    """Train as the pipeline does, on a data set that allows mirrored images or not."""
    pools = {
        split: Pool(miniature.images(count), np.arange(count), np.arange(count) % len(miniature.CLASSES))
        for split, count in (("train", 30), ("val", 12), ("test", 12))
    }
    (directory / "data" / "dataset").mkdir(parents=True)
    source = Source("synthetic", miniature.CLASSES, pools["train"], None, horizontal_flip=allowed)
    save_dataset(directory / "data" / "dataset", "noise", source, pools)
    (directory / "params.yaml").write_text(
        "model: {name: miniature:residual, weights: null, stem: standard, mean: null, std: null}\n"
        "train: {epochs: 1, batch_size: 8, lr: 0.1, momentum: 0.9, weight_decay: 0, crop_padding: 0, "
        f"horizontal_flip: {flip}, seed: 0}}\n"
    )
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
    weights = {flip: run_stage(tmp_path / flip, monkeypatch, flip, allowed) for flip in ("null", "true", "false")}

    same, other = ("true", "false") if allowed else ("false", "true")
    assert torch.equal(weights["null"]["conv1.weight"], weights[same]["conv1.weight"])
    assert not torch.equal(weights["null"]["conv1.weight"], weights[other]["conv1.weight"])
