"""The card of the network, from the params and the data set."""

from ptqflow.core.errors import ParamsError
from ptqflow.core.normalization import Normalization
from ptqflow.data.dataset import DatasetCard
from ptqflow.models.architecture import hash_code
from ptqflow.models.fp32 import ModelCard
from ptqflow.models.params import ModelParams
from ptqflow.models.timm_networks import timm_normalization


def describe_model(params: ModelParams, dataset: DatasetCard) -> ModelCard:
    """Return the card of the network, with the classes and size of the data set.

    The normalization is that of the params, else of weights that timm publishes, else of the data set.

    Raises:
        ParamsError: `model.mean` has not one value per channel of the images.
        ModelError: the user's module cannot be imported, or timm has no such network.
    """
    return ModelCard(
        name=params.name,
        stem=params.stem,
        classes=dataset.classes,
        image_size=dataset.image_size,
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
        return Normalization(mean=params.mean, std=params.std)
    published = timm_normalization(params.name, params.weights) if params.is_timm and params.weights else None
    return published if published and published.channels == dataset.channels else dataset.normalization
