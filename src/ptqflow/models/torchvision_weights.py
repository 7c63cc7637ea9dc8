"""The weights that torchvision publishes."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from http.client import HTTPException
from pathlib import Path
from urllib.error import URLError

import torch

from ptqflow.core.errors import ModelError
from ptqflow.core.normalization import Normalization
from ptqflow.core.preprocessing import Preprocessing
from ptqflow.core.torchvision_shim import ensure_torchvision_imports
from ptqflow.models.description import Description

ensure_torchvision_imports()

from torchvision import models  # noqa: E402


def is_published(architecture: str, name: str) -> bool:
    """Return whether torchvision publishes weights of this name for an architecture."""
    return name in published_weights(architecture)


def published_weights(architecture: str) -> list[str]:
    """Return the names of the weights that torchvision publishes for an architecture; none if it has no such one."""
    return (
        list(models.get_model_weights(architecture).__members__)
        if architecture in models.list_models(module=models)
        else []
    )


def published_classes(architecture: str, name: str) -> tuple[str, ...]:
    """Return the names of the classes of published weights, none if there are no such weights."""
    if not is_published(architecture, name):
        return ()
    return _distinct(models.get_model_weights(architecture)[name].meta["categories"])


def _distinct(names: Sequence[str]) -> tuple[str, ...]:
    """Add the number to each name that occurs twice, as two of ImageNet's do."""
    counts = Counter(names)
    return tuple(name if counts[name] == 1 else f"{name} ({number})" for number, name in enumerate(names))


def describe_torchvision_weights(architecture: str, name: str) -> Description | None:
    """Return how torchvision prepares images for the weights that it publishes.

    Args:
        architecture: of torchvision's.
        name: of the weights, or path of a file with the name that torchvision published it under.

    Returns:
        None for other weights.
    """
    file = Path(name).name
    members = models.get_model_weights(architecture).__members__ if published_weights(architecture) else {}
    found = next((one for one, weights in members.items() if name == one or file == Path(weights.url).name), None)
    if found is None:
        return None
    preset = members[found].transforms()
    (side,), (short,) = preset.crop_size, preset.resize_size
    preprocessing = Preprocessing(
        height=side,
        width=side,
        color="RGB",
        resize="short_side",
        resized=(short, short),
        interpolation=preset.interpolation.value,
        antialias=True,  # images come from files, where torchvision has no other
        fill=(0, 0, 0),
    )
    normalization = Normalization(mean=tuple(preset.mean), std=tuple(preset.std))
    return Description(f"torchvision's weights {architecture}.{found}", preprocessing, normalization)


def download_weights(architecture: str, name: str) -> Path:
    """Return the file of published weights in torch's hub cache, downloaded and verified where it is not there yet.

    Raises:
        ModelError: there are no such weights, the download fails, or the file has another checksum.
    """
    try:
        published = models.get_model_weights(architecture)
    except ValueError:
        raise ModelError(
            f"model.name: {architecture!r} is not a torchvision classifier, so it has no published weights"
        ) from None
    if name not in published.__members__:
        raise ModelError(
            f"model.weights: {name!r} is neither a file nor published weights of {architecture}, "
            f"which are {', '.join(published.__members__)}"
        )
    url = published[name].url
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(url).name
    expected = file.stem.rpartition("-")[2]  # torchvision puts the start of the SHA-256 into the name
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(url, str(file), hash_prefix=expected)
        except (URLError, HTTPException, RuntimeError, TimeoutError, ConnectionError) as error:
            raise ModelError(
                f"model.weights: the download of {url} failed ({error}); download the file by other means and set "
                "model.weights to its path, whose name says which weights they are"
            ) from None
    if not hashlib.sha256(file.read_bytes()).hexdigest().startswith(expected):
        raise ModelError(
            f"model.weights: {file} does not have the SHA-256 of its name ({expected}…); remove it and run again"
        )
    return file
