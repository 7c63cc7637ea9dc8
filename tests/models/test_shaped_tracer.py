"""Which sizes are numbers while a network is traced, and which code on them is refused."""

from collections.abc import Callable

import pytest
import torch
from bodies import IMAGES, INPUT_SHAPE, SIZE, built, called, holding, logits
from torch import Tensor
from torch.nn import functional as F

from ptqflow.core.errors import ModelError
from ptqflow.models.canonical import canonicalize

BATCHES = (1, 2, 3, 4)


def shuffled(x: Tensor) -> Tensor:
    batch, channels, height, width = x.shape
    return x.view(batch, 2, channels // 2, height, width).transpose(1, 2).reshape(batch, channels, height, width)


def merged(x: Tensor) -> Tensor:
    planes = x.reshape(-1, *x.shape[2:])
    return (planes / planes.shape[0]).view(x.shape) * x.size(0)


def counted(x: Tensor) -> Tensor:
    return x * len(x[0]) if x.dim() == 4 and x.ndim == 4 else x


NETWORKS: dict[str, Callable[[Tensor], Tensor]] = {
    "a branch on channels": lambda x: x * 2 if x.shape[1] == 6 else x,
    "a branch on a size of the image": lambda x: F.pad(x, (0, 1)) if x.size(-1) % 2 else F.pad(x, (1, 1)),
    "int() of a size": lambda x: x.reshape(-1, int(x.size(1)), int(x.shape[2]), int(x.shape[3])),
    "equal shapes": lambda x: x * 2 if x.shape == torch.relu(x).shape else x,
    "equal numbers of images": lambda x: x * 2 if x.shape[0] == torch.relu(x).size(0) else x,
    "shapes of the image": lambda x: x * 2 if x.shape[2:] == (SIZE, SIZE) else x,
    "the number of elements of an image": lambda x: x.view(x.shape[0], x.shape[1:].numel()).view(x.size()),
    "a loop over channels": lambda x: torch.stack([x[:, i] * i for i in range(x.shape[1])], 1),
    "a loop over chunks": lambda x: torch.cat([chunk * i for i, chunk in enumerate(x.chunk(3, 1))], 1),
    "len() of chunks": lambda x: x * len(x.chunk(3, 1)),
    "unpacked chunks": lambda x: torch.cat([*x.chunk(3, 1)], 1),
    "sizes of a shape that is unpacked": shuffled,
    "a size that grows with the number of images": merged,
    "ranks": counted,
    "type": lambda x: x * 2 if x.dtype == torch.float32 else x,
    "device": lambda x: x * 2 if x.device.type == "cpu" else x,
    "zeros on a device": lambda x: x + torch.ones(1, device=x.device),
    "zeros of a shape": lambda x: x + torch.zeros(x.shape) + x.new_ones(x.shape[0], 1, 1, 1),
    "positions": lambda x: x + torch.arange(x.shape[-1], dtype=x.dtype),
    "an attribute that tensors lack": lambda x: x * 2 if hasattr(x, "tensors") else x,
    "a named result": lambda x: x * x.flatten(2).topk(3).values.mean(2)[..., None, None],
    "a tensor without dimensions": lambda x: x * x.mean() if x.mean().shape == () else x,
    "an attribute of an attribute": lambda x: x * x.mT.shape[1],
}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_logits_are_the_same_to_the_bit_for_any_number_of_images(name: str) -> None:
    network = built(NETWORKS[name])

    canonical = canonicalize(network, INPUT_SHAPE)

    for count in BATCHES:
        assert torch.equal(logits(canonical, IMAGES[:count]), logits(network, IMAGES[:count])), count


def test_sizes_are_numbers_of_the_graph_except_the_number_of_images() -> None:
    assert called(canonicalize(built(shuffled), INPUT_SHAPE)) == [
        *("size", "Conv2d", "view", "transpose", "reshape", "Conv2d", "flatten"),
    ]


def test_the_number_of_images_is_no_step_of_a_network_that_does_not_read_it() -> None:
    assert called(canonicalize(built(lambda x: x * 2), INPUT_SHAPE)) == ["Conv2d", "mul", "Conv2d", "flatten"]


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda x: x if x.shape[0] > 1 else x * 2, "a branch on the number of images"),
        (lambda x: x if x.shape[0] > 8 else x * 2, "a branch on the number of images"),
        (lambda x: x if x.view(-1, SIZE, SIZE).shape[0] > 6 else x * 2, "a branch on the number of images"),
        (lambda x: x.view(int(x.size(0)), -1).view(x.shape), "int() of the number of images"),
        (lambda x: x / float(x.shape[0]), "float() of the number of images"),
        (lambda x: x.view(len(x), 6, SIZE, SIZE), "len() of a batch"),
        (lambda x: torch.stack([x[i] for i in range(x.shape[0])]), "an integer of the number of images"),
    ],
)
def test_code_that_needs_the_number_of_images_is_refused_with_what_to_write(
    function: Callable[[Tensor], Tensor], reason: str
) -> None:
    with pytest.raises(ModelError, match=r"^torch\.fx cannot trace Body: .* needs the number of images ") as refusal:
        canonicalize(built(function), INPUT_SHAPE)

    assert reason in str(refusal.value)
    assert "or write -1 there" in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x if x.mean() > 0 else -x,
        lambda x: x if x.mean().item() > 0 else -x,
        lambda x: x * int(x.max()),
        lambda x: sum(x for _ in range(x.argmax())),
        lambda x: x if (x > 0).nonzero().shape[0] > 3 else -x,
    ],
)
def test_code_that_depends_on_values_is_refused(function: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(ModelError, match=r"^torch\.fx cannot trace Body: "):
        canonicalize(built(function), INPUT_SHAPE)


def test_code_that_does_not_run_for_any_number_of_images_is_refused() -> None:
    with pytest.raises(ModelError, match=r"for 3 images, add raises RuntimeError .*; let it run for any number of"):
        canonicalize(holding((2, 6, SIZE, SIZE), lambda x, held: x + held), INPUT_SHAPE)


def test_tracing_draws_no_random_numbers() -> None:
    network = built(lambda x: x * 2)
    state = torch.get_rng_state()

    canonicalize(network, INPUT_SHAPE)

    assert torch.equal(torch.get_rng_state(), state)
