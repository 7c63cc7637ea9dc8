"""What flows through a network."""

from typing import Any

import torch
from torch import Tensor, fx
from torch.fx import GraphModule, Node

from ptqflow.fx.graph import step_name
from ptqflow.fx.prepare import without_torch_warnings


def step_values(network: GraphModule, images: Tensor) -> dict[str, Tensor]:
    """Return what each step of a network returns, dequantized, by the name of its module or its node."""
    recorder = _Recorder(network)
    with without_torch_warnings(), torch.inference_mode():
        recorder.run(images)
    return recorder.values


class _Recorder(fx.Interpreter):
    def __init__(self, network: GraphModule) -> None:
        super().__init__(network)
        self.values: dict[str, Tensor] = {}

    def run_node(self, n: Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, Tensor) and n.op != "output":
            self.values[step_name(n)] = result.dequantize().clone()
        return result
