"""The preprocessing of the images, from the keys and from the description of the weights."""

import math
import warnings

from ptqflow.core.errors import ParamsError, PtqflowWarning
from ptqflow.core.preprocessing import Preprocessing
from ptqflow.fetch.params import DataParams
from ptqflow.models.description import Description
from ptqflow.models.params import ModelParams


def resolve_preprocessing(data: DataParams, model: ModelParams, described: Description | None) -> Preprocessing:
    """Return what `model.preprocessing` says, or what the keys of `data` state where that is null.

    Args:
        data: the section.
        model: the section.
        described: what `describe_weights` returns for it.

    Raises:
        ParamsError: a key contradicts `model.preprocessing`, or the size is stated nowhere.
    """
    if model.preprocessing is None or described is None:
        return data.preprocessing()
    _require_agreement(data, model, described)
    return described.preprocessing


def warn_of_other_images(resolved: Preprocessing, model: ModelParams, described: Description | None) -> None:
    """Issue a PtqflowWarning that names both where published weights were trained with other images or another mean."""
    if described is None:
        return
    other = []
    if described.preprocessing != resolved:
        other.append(f"images ({described.preprocessing}) than the keys of data state ({resolved})")
    if is_other := _other_normalization(model, described):
        other.append(f"values than the keys of model state: {is_other}")
    if other:
        warnings.warn(
            PtqflowWarning(
                f"{described.of} expect other {', and other '.join(other)}, which may cost accuracy; "
                f"model.preprocessing={model.library}, with the keys that contradict it null, takes what they expect"
            ),
            stacklevel=1,
        )


def _require_agreement(data: DataParams, model: ModelParams, described: Description) -> None:
    wrong, source = data.contradictions(described.preprocessing), f"model.preprocessing={model.preprocessing}"
    if wrong:
        null = [f"data.{key}" for key in wrong if key not in ("channels", "channel_order")]
        values = {"channels": described.preprocessing.channels, "channel_order": described.preprocessing.color}
        remedies = [f"{', '.join(null)} to null"] if null else []
        remedies += [f"data.{key} to {value}" for key, value in values.items() if key in wrong]
        raise ParamsError(
            f"{' and '.join(wrong.values())}, as {source} ({described.of}) says: {described.preprocessing}; set "
            f"{' and '.join(remedies)}, or model.preprocessing to null"
        )
    if other := _other_normalization(model, described):
        raise ParamsError(
            f"{source} ({described.of}) says otherwise than model.mean and model.std: {other}; set mean "
            "and std to null, or model.preprocessing to null"
        )


def _other_normalization(model: ModelParams, described: Description) -> str | None:
    """Return both where mean or std are stated and others than those of the weights, else None."""
    if model.mean is None or model.std is None:
        return None
    own, theirs = (*model.mean, *model.std), described.normalization.in_range(model.input_range)
    expected = (*theirs.mean, *theirs.std)
    if len(own) == len(expected) and all(map(_is_near, own, expected)):
        return None
    return " not ".join(
        f"mean {_listed(mean)}, std {_listed(std)}{end}"
        for mean, std, end in ((theirs.mean, theirs.std, ","), (model.mean, model.std, ""))
    )


def _is_near(own: float, expected: float) -> bool:
    return math.isclose(own, expected, rel_tol=1e-4)  # as rounded for a web page


def _listed(values: tuple[float, ...]) -> str:
    return f"[{', '.join(f'{value:.6g}' for value in values)}]"
