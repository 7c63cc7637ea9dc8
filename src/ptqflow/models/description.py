"""What the publisher of weights says of the images that they were trained with."""

from dataclasses import dataclass

from ptqflow.core.errors import ModelError
from ptqflow.core.normalization import Normalization
from ptqflow.core.preprocessing import Preprocessing
from ptqflow.models.params import TIMM, ModelParams


@dataclass(frozen=True)
class Description:
    """How images were prepared where weights were evaluated."""

    of: str
    """The weights, in words."""
    preprocessing: Preprocessing
    normalization: Normalization


def describe_weights(params: ModelParams) -> Description | None:
    """Return what torchvision or timm publishes with the weights of `model.preprocessing`, else of `model.weights`.

    Nothing is downloaded: the libraries hold the descriptions.

    Returns:
        None if `model.preprocessing` is null and `model.weights` are not published; a file is, if it has the name under
        which torchvision published it.

    Raises:
        ModelError: `model.preprocessing` names weights that the library does not publish for the network, or none while
            `model.weights` is a file or null; or timm is not installed or has no such network.
    """
    library, _, named = (params.preprocessing or "").partition(":")
    weights = named or params.weights
    found = None
    if weights and not params.is_user_code and library in ("", params.library):
        found = _published(params, weights)
    if found or not library:
        return found
    raise ModelError(_refusal(params, library, named))


def _published(params: ModelParams, weights: str) -> Description | None:
    if params.is_timm:
        from ptqflow.models.timm_networks import describe_timm_weights

        return describe_timm_weights(params.name, weights)
    from ptqflow.models.torchvision_weights import describe_torchvision_weights

    return describe_torchvision_weights(params.name, weights)


def _refusal(params: ModelParams, library: str, named: str) -> str:
    found = f"model.preprocessing={params.preprocessing}"
    if params.is_user_code or library != params.library:
        whose = "your own" if params.is_user_code else f"{params.library}'s"
        return (
            f"{found}, and model.name={params.name} is a network of {whose}; set model.preprocessing to null and "
            "data.image_size, data.resize, data.crop and data.interpolation to what the weights expect"
        )
    names = _names(params)
    known = f"{library} publishes for {params.name.removeprefix(TIMM)}: {', '.join(names) or 'none'}"
    if named:
        return f"{found}: there are no such weights; those that {known}"
    what = "is null" if params.weights is None else f"is {params.weights}, of which {library} says nothing"
    example = f"; name the ones that it stems from, such as {library}:{names[0]}" if names else ""
    return f"{found}, and model.weights {what}{example}; those that {known}"


def _names(params: ModelParams) -> list[str]:
    if params.is_timm:
        from ptqflow.models.timm_networks import published_timm_weights

        return published_timm_weights(params.name)
    from ptqflow.models.torchvision_weights import published_weights

    return published_weights(params.name)
