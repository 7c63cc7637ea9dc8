"""Take the shift that quantization causes in the mean output of each layer out of its bias.

Empirical bias correction: M. Nagel et al., Data-Free Quantization Through Weight Equalization and Bias Correction,
ICCV 2019.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.fx import GraphModule

from ptqflow.data.batching import images_together
from ptqflow.fx.fake_quant import Simulation, copy_to_simulate, round_weight
from ptqflow.fx.graph import layer_means, weighted_modules

_PIXELS = 1 << 22  # of images at a time: all of them go through each layer together


def correct_biases(prepared: GraphModule, means: Mapping[str, NDArray[np.float32]], batches: Iterable[Tensor]) -> None:
    """Change the biases of a prepared network so that each layer's mean output is that of FP32 when quantized.

    One pass, layer by layer: the input of each comes from the corrected ones before it. A layer that runs more than
    once, and so has more than one mean output, keeps its bias.

    Args:
        prepared: with the ranges of its observers set.
        means: (batches, channels), mean output of each layer of the FP32 network for each batch.
        batches: float32 (N, C, H, W), the same ones in the same order. As many of them are used as have 2**22 pixels,
            and at least one.
    """
    first = next(iterator := iter(batches))
    count = max(1, images_together(first.shape[-1], _PIXELS) // len(first))
    images = [first, *islice(iterator, count - 1)]
    simulated = copy_to_simulate(prepared)
    layers = weighted_modules(prepared)
    runs = Counter(str(node.target) for node in prepared.graph.nodes if node.op == "call_module")
    for name, layer in weighted_modules(simulated).items():
        qconfig = getattr(simulated.get_submodule(name), "qconfig", None)
        round_weight(layer, qconfig)
        if runs[name] == 1 and (layer.bias is not None or qconfig is not None):
            target = torch.from_numpy(means[name][: len(images)].mean(axis=0))
            layer.register_forward_hook(partial(_correct, layers[name], target))
    with torch.inference_mode():
        Simulation(simulated).run(torch.cat(images))


def _correct(layer: nn.Conv2d | nn.Linear, target: Tensor, simulated: nn.Module, _: Any, output: Tensor) -> Tensor:
    shift = target - layer_means(simulated, output)
    layer.bias = nn.Parameter(shift if layer.bias is None else layer.bias.detach() + shift, False)
    return output + (shift[:, None, None] if isinstance(simulated, nn.Conv2d) else shift)
