"""Concatenations whose inputs have ranges of other magnitudes, which one scale for all of them would round away."""

import torch
from torch import nn
from torch.fx import GraphModule

from ptqflow.calib.statistics import Statistics
from ptqflow.fx.graph import name_observed

_RATIO = 4.0
"""Of the largest input's magnitude to the smallest's, which then has two bits less than with a scale of its own."""


def unequal_concatenations(model: nn.Module, prepared: GraphModule, statistics: Statistics) -> tuple[str, ...]:
    """Return the names of the concatenations of a prepared network whose inputs differ in magnitude by more than 4.

    torch quantizes inputs and output of a concatenation with one scale. Where it is FP32, each input has its own.

    Args:
        model: the FP32 network.
        prepared: it with observers.
        statistics: of the FP32 network.
    """
    concatenations = [node for node in prepared.graph.nodes if node.target in (torch.cat, torch.concat, torch.stack)]
    names = name_observed(model, prepared) if concatenations else {}
    found = []
    for node in concatenations:
        inputs = [statistics.tensors.get(names.get(str(argument.target), "")) for argument in node.all_input_nodes]
        magnitudes = [max(abs(seen.minimum), abs(seen.maximum)) for seen in inputs if seen]
        if magnitudes and max(magnitudes) > _RATIO * min(magnitudes):
            found.append(node.name)
    return tuple(found)
