"""The card of the network, from the params and the data set."""

import warnings

from ptqflow.core.errors import ParamsError, PtqflowWarning
from ptqflow.core.normalization import Normalization
from ptqflow.data.dataset import DatasetCard
from ptqflow.models.architecture import hash_code
from ptqflow.models.description import Description, describe_weights
from ptqflow.models.fp32 import ModelCard
from ptqflow.models.params import ModelParams


def describe_model(params: ModelParams, dataset: DatasetCard, names: tuple[str, ...] = ()) -> ModelCard:
    """Return the card of the network, with the size of the data set and its classes, or those of `names`.

    The normalization is that of the params, else what `model.preprocessing` says, else of weights that timm publishes,
    else of the data set.

    Warns:
        PtqflowWarning: published weights were trained with another mean or std than the params state.

    Raises:
        ParamsError: `model.mean` has not one value per channel of the images, or contradicts `model.preprocessing`.
        ModelError: the user's module cannot be imported, or timm has no such network.
    """
    return ModelCard(
        name=params.name,
        stem=params.stem,
        classes=dataset.classes or names,
        preprocessing=dataset.preprocessing,
        normalization=_normalization(params, dataset),
        code_sha256=hash_code(params.name),
    )


def _normalization(params: ModelParams, dataset: DatasetCard) -> Normalization:
    described = describe_weights(params)
    if params.mean is not None and params.std is not None:
        if len(params.mean) != dataset.channels:
            raise ParamsError(
                f"model.mean and model.std have {len(params.mean)} values each, and data.channels is "
                f"{dataset.channels}; set one value per channel, or change data.channels"
            )
        stated = Normalization(mean=params.mean, std=params.std, input_range=params.input_range)
        _require_agreement(params, stated, described)
        return stated
    if described and (params.preprocessing or (params.is_timm and described.preprocessing.color == dataset.color)):
        return _in_range(described.normalization, params)
    return _in_range(dataset.normalization, params)


def _in_range(normalization: Normalization, params: ModelParams) -> Normalization:
    """Return the same normalization of pixels in 0..1 as one of pixels in the range of the params."""
    if params.input_range == normalization.input_range:
        return normalization
    mean, std = (
        tuple(value * params.input_range for value in part) for part in (normalization.mean, normalization.std)
    )
    return Normalization(mean=mean, std=std, input_range=params.input_range)


def _require_agreement(params: ModelParams, stated: Normalization, described: Description | None) -> None:
    """Refuse a mean or std other than what `model.preprocessing` says; warn where that is null."""
    if described is None or stated == described.normalization:
        return
    found = f"model.mean and model.std make {_as_text(stated)}, and {described.of} {_as_text(described.normalization)}"
    if params.preprocessing:
        raise ParamsError(f"{found}, which model.preprocessing={params.preprocessing} takes; set mean and std to null")
    warnings.warn(
        PtqflowWarning(f"{found}, which may cost accuracy; model.preprocessing={params.library} takes the latter"),
        stacklevel=1,
    )


def _as_text(normalization: Normalization) -> str:
    return f"mean {list(normalization.mean)}, std {list(normalization.std)}, {normalization.formula}"
