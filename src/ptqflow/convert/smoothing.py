"""The scales of SmoothQuant: channels of activations that are large are made smaller, and those of weights larger.

G. Xiao et al., SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language Models, ICML 2023,
arXiv:2211.10438.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ptqflow.calib.statistics import Statistics
from ptqflow.core.errors import ModelError
from ptqflow.fx.fp32_modules import is_kept
from ptqflow.fx.smoothing import Pair, find_pairs, scale_channels
from ptqflow.models.fp32 import Fp32Model

_LARGEST = 1000.0  # scale
_DIGITS = 4  # of a scale
_TOLERANCE = 1e-4  # as a share of the largest logit: float32 rounding over the layers of a deep network


@dataclass(frozen=True)
class Smoothed:
    """A network with scaled channels, which computes the same as without, and its statistics."""

    fp32: Fp32Model
    statistics: Statistics
    scales: dict[str, tuple[float, ...]]
    """What the channels are divided by; none where nothing is scaled."""


def smoothable_pairs(fp32: Fp32Model, kept: Sequence[str]) -> list[Pair]:
    """Return the pairs of a network of which not all layers stay FP32.

    Args:
        fp32: the network.
        kept: modules that stay FP32.
    """
    found = find_pairs(fp32.module, fp32.card.input_shape)
    return [pair for pair in found if not all(is_kept(layer, kept) for layer in pair.layers)]


def smooth_network(fp32: Fp32Model, statistics: Statistics, pairs: Sequence[Pair], alpha: float) -> Smoothed:
    """Divide the channels c of what the normalizations return by max|x_c|**alpha / max|w_c|**(1 - alpha).

    x_c are the values of the calibration images and w_c the weights that they are multiplied by. Only the ratios of the
    scales of a normalization matter, so their geometric mean is made 1. Channels without values or weights are not
    scaled.

    Args:
        fp32: the network.
        statistics: of it.
        pairs: of it.
        alpha: up to 1; 0 for no change, which the formula would not be.

    Raises:
        ArtifactError: the statistics belong to another network.
    """
    scales: dict[str, tuple[float, ...]] = {}
    tensors = dict(statistics.tensors)
    for pair in pairs if alpha else ():
        seen = {name: found for name in pair.tensors if (found := tensors.get(name))}
        values = [found.require_channels().magnitudes for found in seen.values()]
        if values:
            chosen = _choose(np.max(values, axis=0), _weight_magnitudes(fp32.module, pair), alpha)
            scales[pair.normalization] = tuple(chosen.tolist())
            tensors |= {name: found.divided(chosen.astype(np.float32)) for name, found in seen.items()}
    if not scales:
        return Smoothed(fp32, statistics, {})
    module = scale_channels(fp32.module, pairs, scales)
    return Smoothed(Fp32Model(module, fp32.card), replace(statistics, tensors=tensors), scales)


def require_equal(fp32: Fp32Model, smoothed: Smoothed, images: Tensor) -> None:
    """Require that a network with scaled channels computes what it does without.

    Args:
        fp32: without.
        smoothed: with.
        images: float32 (N, C, H, W), normalized.

    Raises:
        ModelError: the logits differ by more than float32 rounding.
    """
    if not smoothed.scales:
        return
    with torch.inference_mode():
        exact, found = fp32.module(images), smoothed.fp32.module(images)
    if not bool((exact - found).abs().max() <= _TOLERANCE * exact.abs().max()):
        raise ModelError(
            f"SmoothQuant changes the logits of the FP32 network by up to {float((exact - found).abs().max()):.2g} of "
            f"{float(exact.abs().max()):.2g}; set convert.smooth_quant=0"
        )


def _choose(values: NDArray[np.float32], weights: NDArray[np.float64], alpha: float) -> NDArray[np.float64]:
    live = (values > 0) & (weights > 0)
    scales = np.ones(len(live))
    if live.any():
        logarithms = alpha * np.log(values[live].astype(np.float64)) - (1 - alpha) * np.log(weights[live])
        scales[live] = np.exp(logarithms - logarithms.mean()).clip(1 / _LARGEST, _LARGEST)
    return np.array([float(f"{scale:.{_DIGITS}g}") for scale in scales])


def _weight_magnitudes(model: nn.Module, pair: Pair) -> NDArray[np.float64]:
    """Return the largest absolute weight that each channel is multiplied by, (channels,)."""
    weights: list[Any] = [model.get_submodule(layer).weight for layer in pair.layers]
    largest = [weight.detach().abs().transpose(0, 1).flatten(1).amax(dim=1) for weight in weights]
    found: NDArray[np.float64] = torch.stack(largest).amax(dim=0).double().numpy()
    return found
