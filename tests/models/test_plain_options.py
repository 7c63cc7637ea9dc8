"""Options without an INT8 kernel or an ONNX operator: the same values without them."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from bodies import IMAGES, INPUT_SHAPE, SIZE, Body, built, called, logits, normed
from torch import Tensor, nn
from torch.nn import functional as F

from ptqflow.export.onnx import to_onnx
from ptqflow.models.canonical import canonicalize
from ptqflow.runtime.runtimes import onnxruntime_session


@pytest.mark.parametrize(
    ("norm", "kind"),
    [
        (lambda: normed(nn.InstanceNorm2d(6, affine=True, track_running_stats=True)), "BatchNorm2d"),
        (lambda: normed(nn.InstanceNorm2d(6, track_running_stats=True)), "BatchNorm2d"),
        (lambda: nn.BatchNorm2d(6, track_running_stats=False), "normalize_by_batch"),
        (lambda: nn.BatchNorm2d(6, affine=False, track_running_stats=False), "normalize_by_batch"),
    ],
)
def test_statistics_are_what_the_layer_uses_in_evaluation_mode(norm: Callable[[], nn.Module], kind: str) -> None:
    network = built(lambda x, n: n(x), norm())

    canonical = canonicalize(network, INPUT_SHAPE)

    torch.testing.assert_close(logits(canonical), logits(network))
    assert kind in called(canonical)


@pytest.mark.parametrize(
    "pool",
    [
        nn.AvgPool2d(3, 2, ceil_mode=True),
        nn.AvgPool2d((2, 3), (2, 1), (1, 0), ceil_mode=True, count_include_pad=False),
        nn.AvgPool2d(2, 3, divisor_override=3),
        nn.AvgPool2d(3, 2, 1, ceil_mode=True, divisor_override=5),
    ],
    ids=repr,
)
def test_average_pooling_with_a_count_of_its_own_averages_over_whole_windows(pool: nn.AvgPool2d) -> None:
    network = nn.Sequential(nn.Conv2d(3, 6, 3), pool, nn.Flatten()).eval()
    canonical = canonicalize(network, INPUT_SHAPE)
    images = torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(canonical(images), network(images))
    plain = canonical.get_submodule("1")
    assert (plain.ceil_mode, plain.padding, plain.divisor_override) == (False, 0, None)


def test_average_pooling_that_is_called_twice_fits_the_size_of_each_input() -> None:
    network = Body(lambda x, p: F.pad(p(p(x)), (0, 5, 0, 5)), nn.AvgPool2d(3, 2, ceil_mode=True)).eval()

    torch.testing.assert_close(logits(canonicalize(network, INPUT_SHAPE)), logits(network))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: F.avg_pool2d(x, 3, 2, ceil_mode=True),
        lambda x: F.avg_pool2d(x, (2, 3), (2, 1), (1, 0), True, False),
        lambda x: F.avg_pool2d(input=x, kernel_size=[2], divisor_override=3),
        lambda x: x.mean() * F.avg_pool2d(x, x.shape[2:], divisor_override=7),
    ],
)
def test_functional_average_pooling_is_rewritten_as_the_module_is(function: Callable[[Tensor], Tensor]) -> None:
    network = built(lambda x: F.interpolate(function(x), SIZE))

    canonical = canonicalize(network, INPUT_SHAPE)

    torch.testing.assert_close(logits(canonical), logits(network))
    plain = next(module for module in canonical.modules() if isinstance(module, nn.AvgPool2d))
    assert (plain.ceil_mode, plain.padding, plain.divisor_override) == (False, 0, None)


class Scaled(nn.Module):
    """Root mean square normalization with a weight that is not 1, as a function."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(0.5, 2, SIZE))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, (SIZE,), weight=self.weight, eps=1e-3)


WRITTEN: dict[str, tuple[Callable[..., Tensor], list[nn.Module]]] = {
    "threshold": (lambda x, m: m(x), [nn.Threshold(0.1, 0.5)]),
    "threshold in place, read again": (lambda x, m: m(x) + x, [nn.Threshold(-0.1, 3, inplace=True)]),
    "functional threshold": (lambda x: F.threshold(x, threshold=0.1, value=20), []),
    "functional threshold in place": (lambda x: F.threshold_(x, 0.1, 20) + x, []),
    "channel shuffle": (lambda x, m: m(x), [nn.ChannelShuffle(3)]),
    "functional channel shuffle": (lambda x: F.channel_shuffle(x, groups=2), []),
    "transpose": (lambda x: x.mT, []),
    "root mean square": (lambda x, m: m(x), [nn.RMSNorm(SIZE)]),
    "root mean square of three dimensions": (lambda x, m: m(x), [nn.RMSNorm((6, SIZE, SIZE), eps=0.1)]),
    "root mean square without weights": (lambda x, m: m(x), [nn.RMSNorm(SIZE, elementwise_affine=False)]),
    "functional root mean square": (lambda x, m: m(x), [Scaled()]),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_what_onnx_lacks_is_written_with_what_it_has_for_any_number_of_images(name: str) -> None:
    function, parts = WRITTEN[name]
    network = built(function, *parts)

    canonical = canonicalize(network, INPUT_SHAPE)

    torch.testing.assert_close(logits(canonical), logits(network))
    session = onnxruntime_session(to_onnx(canonical, INPUT_SHAPE, {}))
    for count in (1, 2, 3):
        images = IMAGES[:count]
        found = session.run(None, {"images": images.numpy()})[0]
        np.testing.assert_allclose(found, logits(network, images).numpy(), rtol=1e-4, atol=1e-5)
