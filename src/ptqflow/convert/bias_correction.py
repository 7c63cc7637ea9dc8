"""Take the shift that the rounding of weights causes in the output of each layer out of its bias.

Empirical bias correction: M. Nagel et al., Data-Free Quantization Through Weight Equalization and Bias Correction,
ICCV 2019; with three differences, without which it does harm in networks with swish:

- The error of the weights alone is corrected, on the rounded input of the corrected layers before. The mean error of
  the activations is that of a few clipped images, and a bias changes all images.
- The shift is the center that a few images with large errors do not decide: it minimizes the mean over the images of
  the logarithm of the error's power, which is what the SQNR in decibels averages.
- The correction of a group of layers is taken back where the logits of calibration images are nearer to FP32 without
  it, by more than chance: choosing layer by layer by any gain fits to the images, and loses on others what it gains.
"""

import copy
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from ptqflow.convert.criterion import Images, Score
from ptqflow.core.figures import SearchRow
from ptqflow.fx.fake_quant import Simulation, copy_with_rounded_weights
from ptqflow.fx.graph import weighted_modules

_GROUPS = 4
"""Of layers, whose corrections are kept or taken back together: that of one layer gains less than chance does."""
_ITERATIONS = 5
_LEAST_POWER = 0.1  # of an image's error beside the median of them, by which images are weighted


@dataclass(frozen=True)
class Correction:
    """What was corrected."""

    layers: tuple[str, ...]
    """In their order; none where no correction makes the logits nearer to FP32."""
    before_db: float
    """Score of the network, and below of the corrected one, whether or not that is taken."""
    after_db: float


def correct_biases(
    prepared: GraphModule, images: Images, held_out: Images | None = None, least_db: float = 0.0
) -> Correction:
    """Change the biases of a prepared network where that makes its logits nearer to FP32 when quantized.

    The shifts come from one pass, layer by layer: the input of each comes from the corrected ones before it. A layer
    that runs more than once keeps its bias. Then the layers are taken in groups in their order, and a group has its
    correction taken back if the score without it is higher by more than chance. In the end, the network is not worse
    than before by its score, or unchanged.

    Args:
        prepared: with the ranges of its observers set.
        images: that decide.
        held_out: images that decide nothing else, on which all corrections together must gain, too.
        least_db: what they must gain more than, on average of both.
    """
    simulated = copy_with_rounded_weights(prepared)
    layers, rounded = weighted_modules(prepared), weighted_modules(simulated)
    run = Simulation(simulated).run
    before = images.score(run)
    held_before = held_out.score(run) if held_out else None
    biases = _corrected_biases(simulated, layers, _corrected_layers(prepared), images)
    after, kept = _checked(layers, rounded, biases, partial(images.score, run))
    gains = [after.gain(before)]
    if held_out and held_before:
        gains.append(held_out.score(run).gain(held_before))
    wins = min(gains) > 0 and sum(gains) / len(gains) > least_db
    for name in kept if wins else ():
        layers[name].bias = nn.Parameter(biases[name], False)
    return Correction(tuple(kept) if wins else (), before.db, after.db)


def correction_rows(correction: Correction) -> list[SearchRow]:
    """Return what was tried, without and with the correction, in the form of the search of methods."""
    found = {"without bias correction": correction.before_db, "bias correction": correction.after_db}
    return [SearchRow(tensor="", method=method, sqnr_db=round(db, 4)) for method, db in found.items()]


def describe_correction(correction: Correction) -> str:
    """Return one line of what was tried."""
    taken = f"taken for {len(correction.layers)} layers" if correction.layers else "not taken"
    return f"bias correction: {correction.before_db:.2f} dB without, {correction.after_db:.2f} dB with it, {taken}"


def typical_shift(parts: Iterable[Tensor]) -> Tensor:
    """Return the b for which the mean over images of log |error - b|² is least, by reweighted means.

    Args:
        parts: errors of some images each, (N, P, C): of N images, at P positions, of C channels; P and C are equal.

    Returns:
        (C,). Images with little error count most, but none more than ten times as much as the median one.
    """
    sums = [(errors.mean(1), errors.square().sum((1, 2)), errors.shape[1]) for errors in parts]
    means, powers, positions = torch.cat([one[0] for one in sums]), torch.cat([one[1] for one in sums]), sums[0][2]
    shift = torch.zeros_like(means[0])
    for _ in range(_ITERATIONS):
        left = powers - 2 * positions * (means * shift).sum(1) + positions * shift.square().sum()
        left = left.clamp(min=max(_LEAST_POWER * float(left.median()), torch.finfo(left.dtype).tiny))
        weights = 1 / left
        shift = (weights[:, None] * means).sum(0) / weights.sum()
    return shift


def _corrected_layers(prepared: GraphModule) -> list[str]:
    """Return the layers with rounded weights that run once, in their order."""
    runs = Counter(str(node.target) for node in prepared.graph.nodes if node.op == "call_module")
    return [
        name
        for name in weighted_modules(prepared)
        if runs[name] == 1 and getattr(prepared.get_submodule(name), "qconfig", None) is not None
    ]


_Layers = dict[str, nn.Conv2d | nn.Linear]


def _corrected_biases(
    simulated: GraphModule, layers: _Layers, names: Sequence[str], images: Images
) -> dict[str, Tensor]:
    """Set the bias of each layer of the simulated network during one pass, and return them.

    All images are at the same node, so that its shift is that of all; they go through it in parts.
    """
    passes = [Simulation(simulated) for _ in images.inputs.split(images.together)]
    for one, part in zip(passes, images.inputs.split(images.together), strict=True):
        one.args_iter = iter([part])
    rounded, biases = weighted_modules(simulated), {}
    with torch.inference_mode():
        for node in simulated.graph.nodes:
            if node.op == "call_module" and node.target in names:
                read = node.all_input_nodes[0]  # the second of a fused addition is the other summand
                values = [one.env[read] for one in passes]
                biases[node.target] = _correct(rounded[node.target], layers[node.target], values)
            for one in passes:
                one.env[node] = one.run_node(node)
                for unread in one.user_to_last_uses.get(node, ()):
                    del one.env[unread]
    return {name: bias.clone() for name, bias in biases.items()}  # for use outside of inference mode


def _correct(rounded: nn.Conv2d | nn.Linear, exact: nn.Conv2d | nn.Linear, values: Sequence[Tensor]) -> Tensor:
    """Add to the bias of a layer the shift that the rounding of its weights causes on these values, and return it."""
    rounding = copy.deepcopy(exact)
    rounding.weight, rounding.bias = nn.Parameter(exact.weight - rounded.weight, False), None

    def errors(part: Tensor) -> Tensor:
        found: Tensor = rounding(part)
        is_convolution = isinstance(exact, nn.Conv2d)
        return found.flatten(2).mT if is_convolution else found.reshape(len(found), -1, found.shape[-1])

    shift = typical_shift(map(errors, values))
    bias: Tensor = shift if rounded.bias is None else rounded.bias + shift
    rounded.bias = nn.Parameter(bias, False)
    return bias


def _checked(
    layers: _Layers, rounded: _Layers, corrected: dict[str, Tensor], score: Callable[[], Score]
) -> tuple[Score, list[str]]:
    """Take back corrections in the simulated network; return its score then, and the layers that stay corrected."""
    kept = list(corrected)
    current = score()
    for group in _groups(kept):
        for name in group:
            rounded[name].bias = layers[name].bias
        without = score()
        if without.is_better(current):
            current, kept = without, [name for name in kept if name not in group]
        else:
            for name in group:
                rounded[name].bias = nn.Parameter(corrected[name], False)
    return current, kept


def _groups(names: Sequence[str]) -> list[Sequence[str]]:
    """Return the layers in their order, in groups of about equal size."""
    size = -(-len(names) // _GROUPS)
    return [names[start : start + size] for start in range(0, len(names), size)] if names else []
