"""Take an untrained network through what follows its training, on two images."""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from ptqflow.calib.collection import collect_statistics, observe
from ptqflow.convert.params import ConvertParams
from ptqflow.convert.quantize import quantize, require_int8_layers
from ptqflow.core.errors import ModelError, one_line
from ptqflow.data.dataset import Split
from ptqflow.data.preprocessing import to_input
from ptqflow.export.export import require_runtimes
from ptqflow.export.onnx import to_onnx
from ptqflow.export.params import ExportParams
from ptqflow.export.qdq import build_qdq
from ptqflow.fx.artifact import save_int8
from ptqflow.fx.layers import Layer, list_layers
from ptqflow.models.architecture import build_model
from ptqflow.models.canonical import canonicalize
from ptqflow.models.fp32 import ModelCard
from ptqflow.models.same_network import require_same_network
from ptqflow.runtime.manifest import INPUT
from ptqflow.runtime.runtimes import onnxruntime_session

_IMAGES = 2


def try_network(card: ModelCard, convert: ConvertParams, export: ExportParams, train: Split) -> list[Layer]:
    """Trace, prepare, convert, write, read and export a network with random weights; return its layers.

    What depends on the values of weights, such as how near INT8 comes to FP32, is not found out. TorchScript is left
    out: what has run can be traced.

    Args:
        card: of the network.
        convert: the section `convert`; the cheapest methods stand for its own, which lead to the same layers.
        export: the section `export`.
        train: the split whose first images are taken.

    Raises:
        ModelError: the network cannot be built, traced, converted or exported, its state_dict does not hold all that it
            computes with, or a runtime is not installed.
        ParamsError: the params do not fit the network, or leave nothing to quantize.
        EngineError: this machine lacks the engine.
    """
    require_runtimes(export)
    torch.manual_seed(0)
    images = to_input(torch.from_numpy(train.read(slice(_IMAGES))), card.normalization)
    fp32 = _trace(card, images)
    rows = np.arange(len(images), dtype=np.int64).reshape(1, -1)
    statistics = collect_statistics(observe(fp32, card.input_shape), [images], rows)
    made = quantize(fp32, card, _cheapest(convert), statistics, train)
    require_int8_layers(made, convert)
    layers = list_layers(fp32, made.converted)
    with TemporaryDirectory() as directory:
        save_int8(Path(directory) / "int8", made.prepared, made.converted, layers, made.card, images)
    if export.onnx:
        _require_runs(to_onnx(build_qdq(made.converted, card.input_shape), card.input_shape, {}), images)
    return layers


def _trace(card: ModelCard, images: Tensor) -> GraphModule:
    """Return the canonical form of the network as it will be read back."""
    model, other = _build(card), _build(card)
    with torch.no_grad():
        if not model(images).isfinite().all():
            raise ModelError(
                f"model.name: {card.name} returns logits that are not finite before it is trained; initialize it with "
                "smaller weights"
            )
    try:
        other.load_state_dict(model.state_dict())
    except RuntimeError as error:
        raise ModelError(
            f"model.name: {card.name} is another network each time that it is built ({one_line(error)[:200]}); let it "
            "depend on num_classes alone"
        ) from None
    canonical = canonicalize(other, card.input_shape)
    require_same_network(model, other, canonical, images)
    return canonical


def _build(card: ModelCard) -> nn.Module:
    return build_model(card.name, card.stem, len(card.classes), card.input_shape).eval()


def _cheapest(convert: ConvertParams) -> ConvertParams:
    return convert.model_copy(
        update={
            "activation": convert.activation.model_copy(update={"method": "minmax"}),
            "weight": convert.weight.model_copy(update={"method": "minmax"}),
            "bias_correction": False,
        }
    )


def _require_runs(file: bytes, images: Tensor) -> None:
    try:
        onnxruntime_session(file).run(None, {INPUT: images.numpy()})
    except Exception as error:  # ONNX Runtime raises classes of its own
        raise ModelError(
            f"the ONNX file of the INT8 network does not run in ONNX Runtime ({one_line(error)[:200]}); set "
            "export.onnx=false"
        ) from None
