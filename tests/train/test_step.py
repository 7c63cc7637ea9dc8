"""A single step; whole trainings are in test_loop.py."""

import miniature
import torch
from recipes import params
from torch import nn

from ptqflow.core.ranks import ALONE, Ranks
from ptqflow.train.augmentation import draw_epoch
from ptqflow.train.batches import Batch, Batches
from ptqflow.train.step import Recipe, Trainer

CPU = torch.device("cpu")
RECIPE = Recipe(miniature.NORMALIZATION, horizontal_flip=True)


def trainer(**changes: float | bool | str | None) -> Trainer:
    torch.manual_seed(0)
    return Trainer(miniature.residual(len(miniature.CLASSES)), RECIPE, params(**changes), ALONE, CPU)


def batch(padding: int = 2) -> Batch:
    split = miniature.split(16)
    return next(Batches(split, 16, ALONE, CPU).epoch(draw_epoch(16, padding, flip=True, seed=0, epoch=1)))


def moved(first: nn.Module, second: nn.Module) -> set[str]:
    pairs = zip(first.named_parameters(), second.parameters(), strict=True)
    return {name for (name, one), other in pairs if not torch.equal(one, other)}


def test_without_decay_norm_weight_decay_leaves_out_normalization_layers() -> None:
    # With gradients of zero, what changes is what decays.
    everything, spared = (trainer(decay_norm=norm, weight_decay=0.5, momentum=0.0) for norm in (True, False))
    start = trainer().model
    for one in (everything, spared):
        for parameter in one.model.parameters():
            parameter.register_hook(torch.zeros_like)
        one.step(batch(), 1, 0.1)

    norms = {name for name, _ in start.named_parameters() if name.startswith("bn")}
    assert moved(everything.model, start) == {name for name, _ in start.named_parameters()}
    assert moved(spared.model, start) == {name for name, _ in start.named_parameters()} - norms


def test_a_step_returns_the_mean_loss_and_the_number_of_hits() -> None:
    one = trainer(crop_padding=0)
    one.model.eval()  # so that the step and the reference use the same statistics
    drawn = batch(padding=0)
    images = torch.where(drawn.draws.mirrored[:, None, None, None], drawn.images.flip(2), drawn.images)
    mean, std = (
        torch.tensor(channels).view(-1, 1, 1)
        for channels in (miniature.NORMALIZATION.mean, miniature.NORMALIZATION.std)
    )
    inputs = (images.permute(0, 3, 1, 2) / 255 - mean) / std
    logits = one.model(inputs)
    expected = nn.functional.cross_entropy(logits, drawn.labels)

    loss, hits = one.step(drawn, 1, 0.1)

    torch.testing.assert_close(loss, expected.detach())
    assert hits == (logits.argmax(dim=1) == drawn.labels).sum()


def test_bf16_changes_the_loss_by_rounding_and_keeps_fp32_weights() -> None:
    fp32, bf16 = trainer(), trainer(precision="bf16")
    losses = [one.step(batch(), 1, 0.1)[0] for one in (fp32, bf16)]

    assert losses[0] != losses[1]
    torch.testing.assert_close(losses[0], losses[1], rtol=0.05, atol=0)
    assert {parameter.dtype for parameter in bf16.model.parameters()} == {torch.float32}


def test_frozen_parameters_stay() -> None:
    torch.manual_seed(0)
    model = miniature.residual(len(miniature.CLASSES))
    model.conv1.weight.requires_grad_(False)
    before = model.conv1.weight.clone()
    Trainer(model, RECIPE, params(), ALONE, CPU).step(batch(), 1, 0.1)
    assert torch.equal(model.conv1.weight, before)


def test_the_state_is_all_that_a_step_or_a_choice_changes() -> None:
    one = trainer(ema_decay=0.9, select="best")
    before = {name: tensor.clone() for name, tensor in one.state().items()}
    assert {name.partition(".")[0] for name in before} == {"model", "momentum", "average", "kept"}

    one.step(batch(), 1, 0.1)
    one.keep()

    unchanged = {name for name, tensor in one.state().items() if torch.equal(tensor, before[name])}
    assert not unchanged


def test_the_average_of_weights_that_are_shared_moves_once_a_step() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False)
            self.second.weight = self.first.weight
            self.head = nn.Linear(8, len(miniature.CLASSES))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.second(self.first(x.mean(dim=(1, 2)))))

    torch.manual_seed(0)
    one = Trainer(Tied(), RECIPE, params(ema_decay=0.9), ALONE, CPU)
    before = one.average.first.weight.clone()
    one.step(batch(), 91, 0.1)  # from the 91st step on, the decay is 0.9 or less than 91 / 100

    expected = before + 0.1 * (one.model.first.weight - before)
    torch.testing.assert_close(one.average.first.weight, expected)


def test_batch_norm_of_several_ranks_stays_torchs_own_on_cpus() -> None:
    one = Trainer(miniature.residual(len(miniature.CLASSES)), RECIPE, params(sync_batchnorm=True), Ranks(0, 2), CPU)
    assert (type(one.model.bn1), type(one.model.bn2)) == (nn.BatchNorm2d, nn.BatchNorm2d)


def order_of_inputs(stem: nn.Conv2d, **changes: bool) -> tuple[bool, bool]:
    """Return whether weights and inputs have their channels last in a step."""
    model = nn.Sequential(nn.Conv2d(3, 3, 3), stem, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    one, seen = Trainer(model, RECIPE, params(**changes), ALONE, CPU), list[torch.Tensor]()
    model[0].register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    one.step(batch(), 1, 0.1)
    return tuple(value.is_contiguous(memory_format=torch.channels_last) for value in (model[0].weight, seen[0]))


def test_a_step_has_channels_last_unless_they_are_switched_off_or_crash_on_cpus() -> None:
    stem = nn.Conv2d(3, len(miniature.CLASSES), 1, stride=2)  # which ends the process for large images, channels last
    assert order_of_inputs(stem) == (False, False)
    plain = nn.Conv2d(3, len(miniature.CLASSES), 3, stride=2)
    assert order_of_inputs(plain) == (True, True)
    assert order_of_inputs(plain, channels_last=False) == (False, False)
