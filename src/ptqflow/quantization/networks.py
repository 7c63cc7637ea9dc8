"""The FP32 network that a caller passes, or names, with its card."""

import copy
import hashlib
import warnings
from collections.abc import Sequence

import safetensors.torch
from torch import nn

from ptqflow.core.errors import DataError, ModelError, ParamsError, PtqflowWarning
from ptqflow.core.normalization import Normalization
from ptqflow.core.preprocessing import Preprocessing
from ptqflow.fetch.params import DataParams
from ptqflow.inputs.links import find_weights
from ptqflow.inputs.preprocessing import resolve_preprocessing, warn_of_other_images
from ptqflow.models.architecture import count_outputs_of, hash_code
from ptqflow.models.canonical import canonicalize
from ptqflow.models.class_names import find_class_names
from ptqflow.models.description import describe_weights
from ptqflow.models.fp32 import Fp32Model, ModelCard, build_from_card
from ptqflow.models.params import ModelParams
from ptqflow.models.pretrained import load_checkpoint


def named_network(data: DataParams, params: ModelParams, classes: Sequence[str] | None) -> tuple[Fp32Model, int]:
    """Build the network of `model.name` with the weights of `model.weights`.

    Returns:
        It, and the bytes of its weights.

    Raises:
        ModelError: there is no such network, or the weights do not fit it.
        ParamsError: keys contradict each other, or the size of the images is stated nowhere.
    """
    if params.weights is None:
        raise ModelError("pass weights: a file, or the name of published weights; a network without is untrained")
    described = describe_weights(params)
    preprocessing = resolve_preprocessing(data, params, described)
    warn_of_other_images(preprocessing, params, described)
    weights = find_weights(params)
    names = tuple(classes or find_class_names(params, weights, preprocessing.input_shape))
    card = ModelCard(
        name=params.name,
        stem=params.stem,
        classes=names,
        preprocessing=preprocessing,
        normalization=_normalization(params, described.normalization if described else None, preprocessing),
        code_sha256=hash_code(params.name),
    )
    model = build_from_card(card)
    loaded = load_checkpoint(model, weights, len(names))
    if loaded.replaces_head:
        raise ModelError(f"weights has another number of classes than the {len(names)} that were passed")
    return _fp32(model, card)


def passed_network(
    model: nn.Module, data: DataParams, params: ModelParams, classes: Sequence[str] | None, size: tuple[int, int] | None
) -> tuple[Fp32Model, int]:
    """Describe a network that the caller has built; it stays unchanged.

    Args:
        model: on any device, in any mode.
        data: the section, whose `image_size` is null where `size` counts.
        params: the section.
        classes: names of the outputs; None: numbers.
        size: height and width of the images.

    Returns:
        A copy, and the bytes of its weights.

    Raises:
        ModelError: it cannot be copied or traced, or returns no logits.
        DataError: the size of the images is not known.
    """
    if data.size is None and size is None:
        raise DataError("the images have several sizes, or are files; set data.image_size to what the network takes")
    preprocessing = (
        data.preprocessing() if data.size else DataParams.preprocessing(data.model_copy(update={"image_size": size}))
    )
    try:
        copied = copy.deepcopy(model).cpu().eval()
    except Exception as error:  # of the user's own attributes
        raise ModelError(f"{type(model).__name__} cannot be copied ({type(error).__name__}: {error})") from None
    count = count_outputs_of(copied.float(), type(model).__name__, preprocessing.input_shape)
    names = tuple(classes or map(str, range(count)))
    if len(names) != count:
        raise ModelError(f"{len(names)} classes were passed, and {type(model).__name__} has {count} outputs")
    card = ModelCard(
        name=type(model).__name__,
        stem="standard",
        classes=names,
        preprocessing=preprocessing,
        normalization=_normalization(params, _own_normalization(model), preprocessing),
        code_sha256=None,
    )
    return _fp32(copied, card)


def _fp32(model: nn.Module, card: ModelCard) -> tuple[Fp32Model, int]:
    state = {name: tensor.detach().clone().contiguous() for name, tensor in model.state_dict().items()}
    data = safetensors.torch.save(state)
    card = card.model_copy(update={"weights_sha256": hashlib.sha256(data).hexdigest()})
    return Fp32Model(canonicalize(model, card.input_shape), card), len(data)


def _own_normalization(model: nn.Module) -> Normalization | None:
    """Return what timm's networks say of their weights."""
    config = getattr(model, "pretrained_cfg", None) or {}
    if not config.get("mean") or not config.get("std"):
        return None
    return Normalization(mean=tuple(map(float, config["mean"])), std=tuple(map(float, config["std"])))


def _normalization(params: ModelParams, described: Normalization | None, preprocessing: Preprocessing) -> Normalization:
    channels = preprocessing.channels
    if params.mean is not None and params.std is not None:
        if len(params.mean) != channels:
            raise ParamsError(f"model.mean has {len(params.mean)} values, and the images have {channels} channels")
        return Normalization(mean=params.mean, std=params.std, input_range=params.input_range)
    if described is not None and described.channels == channels:
        return described
    warnings.warn(
        PtqflowWarning(
            "model.mean and model.std are not set: pixels are scaled to 0..1 and no more; set them to what the network "
            "was trained with, or all figures are of images that it does not expect"
        ),
        stacklevel=2,
    )
    return Normalization(mean=(0.0,) * channels, std=(1.0,) * channels)
