import miniature
import torch
from torch import nn

from ptqflow.fx.graph import name_observed
from ptqflow.fx.observer import RangeObserver
from ptqflow.fx.prepare import EVERYTHING, prepare
from ptqflow.fx.qparams import TensorQParams, observed_together, restore_ranges


def prepared_residual() -> tuple[nn.Module, torch.fx.GraphModule]:
    model = miniature.residual(6).eval()
    return model, prepare(model, miniature.INPUT_SHAPE, EVERYTHING)


def test_tensors_around_a_pooling_have_one_observer() -> None:
    model, prepared = prepared_residual()
    together = observed_together(prepared, name_observed(model, prepared))

    assert sorted(map(sorted, together.values())) == [
        ["avgpool", "flatten", "relu"],
        ["conv1", "maxpool"],
        ["conv2"],
        ["fc"],
        ["x"],
    ]


def test_what_is_restored_stands_on_the_observers_and_what_is_not_named_stays() -> None:
    model, prepared = prepared_residual()
    restore_ranges(model, prepared, {"maxpool": TensorQParams(scale=0.5, zero_point=3)})

    names = name_observed(model, prepared)
    found = {name: prepared.get_submodule(target) for target, name in names.items()}
    assert all(isinstance(observer, RangeObserver) for observer in found.values())
    assert (found["conv1"].scale, found["conv1"].zero_point) == (0.5, 3)
    assert (found["conv2"].scale, found["conv2"].zero_point) == (1.0, 0)
