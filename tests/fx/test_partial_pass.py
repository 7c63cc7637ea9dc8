import torch
from torch import Tensor, fx, nn

from ptqflow.fx.partial_pass import output_node, run_again


class Branches(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + 1) * torch.sin(x)


def test_only_what_depends_on_a_change_runs_again_and_no_further_than_asked() -> None:
    network = fx.symbolic_trace(Branches())
    nodes = {node.name: node for node in network.graph.nodes}
    ran: list[str] = []

    class Recording(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Tensor:
            ran.append(n.name)
            return super().run_node(n)

    x = torch.arange(-2.0, 3.0)
    interpreter = Recording(network, garbage_collect_values=False)
    interpreter.run(x)
    kept = dict(interpreter.env)
    ran.clear()

    changes = {nodes["add"]: lambda: x + 2}
    values = run_again(interpreter, kept, changes, [output_node(network.graph)])
    assert ran == ["relu", "mul", "output"]
    assert torch.equal(values[nodes["output"]], torch.relu(x + 2) * torch.sin(x))
    assert set(values.maps[0]) == {nodes[name] for name in ("add", "relu", "mul", "output")}
    assert torch.equal(kept[nodes["add"]], x + 1)

    ran.clear()
    values = run_again(interpreter, kept, changes, [nodes["relu"], nodes["add"]])
    assert ran == ["relu"]
    assert values[nodes["mul"]] is kept[nodes["mul"]]


def test_values_are_freed_after_their_last_use_where_only_the_result_is_asked_for() -> None:
    network = fx.symbolic_trace(Branches())
    nodes = {node.name: node for node in network.graph.nodes}
    interpreter = fx.Interpreter(network)
    last_uses = interpreter.user_to_last_uses
    interpreter.garbage_collect_values = False
    x = torch.arange(-2.0, 3.0)
    interpreter.run(x)

    output = output_node(network.graph)
    values = run_again(interpreter, dict(interpreter.env), {nodes["add"]: lambda: x + 2}, [output], last_uses)
    assert torch.equal(values[output], torch.relu(x + 2) * torch.sin(x))
    assert set(values.maps[0]) == {output}
