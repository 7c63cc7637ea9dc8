"""The card of the network, from the params and the data set."""

from ptqflow.core.errors import ParamsError
from ptqflow.core.normalization import Normalization
from ptqflow.data.dataset import DatasetCard
from ptqflow.models.architecture import hash_code
from ptqflow.models.description import describe_weights
from ptqflow.models.fp32 import ModelCard
from ptqflow.models.params import ModelParams


def describe_model(params: ModelParams, dataset: DatasetCard, names: tuple[str, ...] = ()) -> ModelCard:
    """Return the card of the network, with the size of the data set and its classes, or those of `names`.

    The normalization is that of the params, else what `model.preprocessing` says, else of weights that timm publishes,
    else of the data set.

    Raises:
        ParamsError: `model.mean` has not one value per channel of the images.
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
    if params.mean is not None and params.std is not None:
        if len(params.mean) != dataset.channels:
            raise ParamsError(
                f"model.mean and model.std have {len(params.mean)} values each, and data.channels is "
                f"{dataset.channels}; set one value per channel, or change data.channels"
            )
        return Normalization(mean=params.mean, std=params.std, input_range=params.input_range)
    described = describe_weights(params)
    if described and (params.preprocessing or (params.is_timm and described.preprocessing.color == dataset.color)):
        return described.normalization.in_range(params.input_range)
    return dataset.normalization.in_range(params.input_range)
