"""The preprocessing of the images, from the keys and from the description of the weights."""

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
        ParamsError: a key of `data` contradicts `model.preprocessing`, or the size is stated nowhere.
    """
    if model.preprocessing is None or described is None:
        return data.preprocessing()
    _require_agreement(data, described.preprocessing, f"model.preprocessing={model.preprocessing} ({described.of})")
    return described.preprocessing


def warn_of_other_images(resolved: Preprocessing, model: ModelParams, described: Description | None) -> None:
    """Issue a PtqflowWarning that names both where published weights were trained with another preprocessing."""
    if described is None or described.preprocessing == resolved:
        return
    warnings.warn(
        PtqflowWarning(
            f"{described.of} expect other images ({described.preprocessing}) than the keys of data state ({resolved}), "
            f"which may cost accuracy; model.preprocessing={model.library} and data.image_size=null take the former"
        ),
        stacklevel=1,
    )


def _require_agreement(data: DataParams, described: Preprocessing, whose: str) -> None:
    if wrong := data.contradictions(described):
        null = [f"data.{key}" for key in wrong if key not in ("channels", "channel_order")]
        values = {"channels": described.channels, "channel_order": "RGB"}
        remedies = [f"{', '.join(null)} to null"] if null else []
        remedies += [f"data.{key} to {value}" for key, value in values.items() if key in wrong]
        raise ParamsError(
            f"{' and '.join(wrong.values())}, as {whose} says: {described}; set {' and '.join(remedies)}, or "
            "model.preprocessing to null"
        )
