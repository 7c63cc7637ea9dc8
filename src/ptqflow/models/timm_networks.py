"""The networks of timm, and the weights that it publishes.

timm is imported where a network is one of its own: it is an extra.
"""

import difflib
import logging
import math
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

from torch import nn

from ptqflow.core.errors import ModelError, one_line
from ptqflow.core.normalization import InputShape, Normalization
from ptqflow.core.preprocessing import Interpolation, Preprocessing, Resize
from ptqflow.core.torchvision_shim import ensure_torchvision_imports
from ptqflow.models.description import Description
from ptqflow.models.params import TIMM

_COMMON = ("resnet18", "mobilenetv3_small_100", "vit_tiny_patch16_224")

_RESIZES: Mapping[str, Resize] = {"center": "short_side", "squash": "squash", "border": "letterbox"}
"""By what timm calls them."""


def build_timm_network(name: str, num_classes: int, input_shape: InputShape) -> nn.Module:
    """Build a network of timm with random weights.

    Args:
        name: `timm:NAME`.
        num_classes: the number of outputs.
        input_shape: channels, height and width of an image. Networks with position embeddings are built for this size.

    Raises:
        ModelError: timm is not installed, has no such network, or cannot build it for such images.
    """
    timm, architecture = _import_timm(name), _architecture(name)
    channels, height, width = input_shape
    options: dict[str, Any] = {"num_classes": num_classes, "in_chans": channels}
    config = timm.get_pretrained_cfg(architecture)
    if config is not None and config.fixed_input_size:
        options["img_size"] = (height, width)
    try:
        model = timm.create_model(architecture, **options)
    except Exception as error:  # each network raises what its code does
        raise ModelError(
            f"model.name={name} cannot be built for images of {height}x{width} with data.channels={channels} "
            f"({type(error).__name__}: {one_line(error)[:200]}); try another data.image_size or "
            "data.channels"
        ) from None
    assert isinstance(model, nn.Module)
    return model


def describe_timm_weights(name: str, weights: str) -> Description | None:
    """Return how timm prepares images for the weights that it publishes under a name, None for other weights.

    Args:
        name: `timm:NAME`.
        weights: the name of published weights, or a path.

    Raises:
        ModelError: timm is not installed or has no such network.
    """
    timm, architecture = _import_timm(name), _architecture(name)
    if weights not in _published(timm, architecture):
        return None
    from timm.data.config import resolve_data_config

    published = timm.get_pretrained_cfg(f"{architecture}.{weights}").to_dict()
    config: dict[str, Any] = resolve_data_config(pretrained_cfg=published)
    channels, height, width = config["input_size"]
    mode, mean = config["crop_mode"], tuple(config["mean"])
    if channels != 3 or mode not in _RESIZES or config["interpolation"] not in get_args(Interpolation):
        raise ModelError(
            f"model.weights={weights} of {name} have a description that this version cannot apply: {config}; set "
            "model.weights to the path of their file"
        )
    preprocessing = Preprocessing(
        height=height,
        width=width,
        color="RGB",
        resize=_RESIZES[mode],
        resized=(math.floor(height / config["crop_pct"]), math.floor(width / config["crop_pct"])),
        interpolation=config["interpolation"],
        antialias=True,
        fill=tuple(round(255 * value) if mode == "border" else 0 for value in mean),
    )
    return Description(
        f"timm's weights {architecture}.{weights}", preprocessing, Normalization(mean=mean, std=tuple(config["std"]))
    )


def imagenet_names(count: int) -> tuple[str, ...]:
    """Return timm's names of ImageNet's classes if there are 1,000, none for other numbers."""
    if count != 1000:
        return ()
    ensure_torchvision_imports()
    from timm.data.imagenet_info import ImageNetInfo

    info = ImageNetInfo("imagenet-1k")
    return tuple(f"{info.index_to_description(number)} ({number})" for number in range(count))


def published_timm_weights(name: str) -> list[str]:
    """Return the names of the weights that timm publishes for a network, `timm:NAME`.

    Raises:
        ModelError: timm is not installed or has no such network.
    """
    return _published(_import_timm(name), _architecture(name))


def download_timm_weights(name: str, weights: str) -> Path:
    """Return the file of published weights in Hugging Face's cache, downloaded where it is not there yet.

    Raises:
        ModelError: timm is not installed, has no such network or no such weights, or the download fails.
    """
    timm, architecture = _import_timm(name), _architecture(name)
    published = _published(timm, architecture)
    if weights not in published:
        raise ModelError(
            f"model.weights: {weights!r} is neither a file nor weights that timm publishes for {architecture}: "
            f"{', '.join(published) or 'there are none'}"
        )
    repository = timm.get_pretrained_cfg(f"{architecture}.{weights}").hf_hub_id
    from huggingface_hub import hf_hub_download

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # else each attempt is a line
    try:
        return Path(hf_hub_download(repository, "model.safetensors"))
    except Exception as error:  # of the hub, of HTTP and of sockets
        raise ModelError(
            f"model.weights: the download of model.safetensors from https://huggingface.co/{repository} failed "
            f"({one_line(error)[:200]}); download the file by other means and set model.weights to its "
            f"path, and model.preprocessing to {TIMM}{weights}"
        ) from None


def _import_timm(name: str) -> Any:
    if find_spec("timm") is None:
        raise ModelError(f"model.name: {name} needs timm, which is not installed: `pip install timm`")
    ensure_torchvision_imports()
    import timm

    architecture = _architecture(name)
    if "." in architecture and timm.is_model(architecture):
        network, _, weights = architecture.partition(".")
        raise ModelError(
            f"model.name: {name} names weights too; set model.name to {TIMM}{network} and model.weights to {weights}"
        )
    if not timm.is_model(architecture):
        near = difflib.get_close_matches(architecture, timm.list_models(), n=3) or _COMMON
        raise ModelError(
            f"model.name: timm has no network {architecture!r}; similar ones: "
            f"{', '.join(f'{TIMM}{one}' for one in near)}"
        )
    return timm


def _architecture(name: str) -> str:
    return name.removeprefix(TIMM)


def _published(timm: Any, architecture: str) -> list[str]:
    """Return the names of the weights that Hugging Face hosts for a network."""
    names = timm.list_pretrained(f"{architecture}.*")
    return [name.partition(".")[2] for name in names if timm.get_pretrained_cfg(name).hf_hub_id]
