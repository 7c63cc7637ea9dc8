"""An INT8 model on disk that comes back bit for bit."""

import io
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field, NonNegativeInt, PositiveFloat
from torch import Tensor
from torch.fx import GraphModule

from ptqflow.core.artifacts import REMEDY, Card, HashedFile, new_directory, write_text
from ptqflow.core.errors import ArtifactError, EngineError, ModelError
from ptqflow.fx.convert import convert
from ptqflow.fx.layers import Layer, count_layers, describe_layers
from ptqflow.fx.prepare import Scheme, prepare, without_torch_warnings
from ptqflow.fx.qparams import TensorQParams, restore_ranges
from ptqflow.fx.values import step_values
from ptqflow.models.canonical import canonicalize
from ptqflow.models.fp32 import ModelCard, build_from_card


class Int8Card(Card):
    """What a converted model is, beside its state."""

    format_version: Literal[5] = 5
    scheme: Scheme
    """The engine that its weights are packed for, and what else determines its graph."""
    model: ModelCard
    calibration_images: NonNegativeInt
    """How many images the ranges come from, 0 for the control."""
    calibration_sha256: str
    """Hash of their rows in the train split, little-endian int64, in the order in which they were seen."""
    qparams: dict[str, TensorQParams]
    """Scale and zero point that `convert` chose for each tensor, by its name; none for the control."""
    smooth_quant: float = 0.0
    """SmoothQuant's alpha that `convert` took; 0: off."""
    scales: dict[str, tuple[PositiveFloat, ...]] = Field(default_factory=dict)
    """What it divided the channels by, by the names of the normalizations whose output they are."""
    min_sqnr_db: float | None = None
    """The least median SQNR to FP32, in decibels, that `convert` required and `evaluate` does; None: no limit."""
    fp32_layers: NonNegativeInt = 0
    """How many layers run in FP32; `save_int8` counts them."""
    state_sha256: str = ""


@dataclass(frozen=True)
class Int8Model:
    """A converted network, ready to run on its engine."""

    module: GraphModule
    card: Int8Card


STATE = HashedFile("state.pt", Int8Card, "state_sha256", "convert")


def save_int8(
    directory: Path, prepared: GraphModule, converted: GraphModule, layers: list[Layer], card: Int8Card, images: Tensor
) -> None:
    """Write the state, its card, both graphs and the list of layers as text; whole or not at all, deterministic.

    What was written is read back and compared with the network on `images`, float32 (N, C, H, W), first.

    Raises:
        ModelError: the network that is read back computes something else; or its logits are not finite.
    """
    buffer = io.BytesIO()
    torch.save(converted.state_dict(), buffer)
    with new_directory(directory) as partial:
        write_text(partial / "prepared.txt", f"{prepared.graph}\n")
        write_text(partial / "converted.txt", f"{converted.graph}\n")
        write_text(partial / "layers.txt", describe_layers(layers))
        counted = card.model_copy(update={"fp32_layers": count_layers(layers)["fp32"]})
        STATE.write(partial, buffer.getvalue(), counted)
        _require_equal(converted, load_int8(partial).module, images)


def _require_equal(converted: GraphModule, reloaded: GraphModule, images: Tensor) -> None:
    with without_torch_warnings(), torch.inference_mode():
        logits = converted(images)
        if not logits.isfinite().all():
            raise ModelError("the INT8 network returns logits that are not finite")
        if torch.equal(logits, reloaded(images)):
            return
    steps, others = step_values(converted, images), step_values(reloaded, images)
    first = next((name for name, value in steps.items() if not torch.equal(value, others[name])), "its output")
    raise ModelError(
        f"the INT8 network computes something else once it is read back, first in {first}, which keeps something "
        "outside the state_dict; name it in convert.keep_fp32"
    )


def load_int8(directory: Path, engine: str | None = None) -> Int8Model:
    """Rebuild the network from its card, load the state into it and select its engine for this process.

    Args:
        directory: what `save_int8` wrote.
        engine: the engine that the caller means to run; None takes the model's own.

    Raises:
        EngineError: the model was converted for another engine, or this machine lacks it or what it needs of a CPU.
        ArtifactError: a file is missing or changed, or the user's code has changed.
    """
    data, card = STATE.read(directory)
    if engine is not None and engine != card.scheme.engine:
        raise EngineError(
            f"{directory} was converted for {card.scheme.engine} and would compute other results on {engine}; "
            f"set convert.engine={engine} and run `dvc repro`"
        )
    input_shape = card.model.input_shape
    model = canonicalize(build_from_card(card.model), input_shape)
    prepared = prepare(model, input_shape, card.scheme)
    restore_ranges(model, prepared, card.qparams)  # some kernels keep them outside of the state
    module = convert(prepared, card.scheme, input_shape)
    try:
        with without_torch_warnings():
            module.load_state_dict(torch.load(io.BytesIO(data), weights_only=True))
    except (pickle.UnpicklingError, RuntimeError, KeyError) as error:
        raise ArtifactError(f"{STATE.path(directory)} does not fit {card.model.name} ({error}); {REMEDY}") from None
    return Int8Model(module, card)
