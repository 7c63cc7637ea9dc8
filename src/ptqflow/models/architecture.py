"""Build a classifier by its name."""

import difflib
import importlib
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ptqflow.core.artifacts import sha256_file
from ptqflow.core.errors import ModelError
from ptqflow.core.normalization import COLORS, InputShape
from ptqflow.core.torchvision_shim import ensure_torchvision_imports
from ptqflow.models.outputs import return_logits
from ptqflow.models.params import TIMM, is_user_code
from ptqflow.models.timm_networks import build_timm_network

ensure_torchvision_imports()

from torchvision import models  # noqa: E402

_ANY = (Exception, SystemExit)  # that the user's code may raise


def build_model(name: str, stem: str, num_classes: int, input_shape: InputShape) -> nn.Module:
    """Build a network with random weights from torch's global generator.

    Args:
        name: a torchvision classifier, `timm:NAME`, or `module:function` that is called with `num_classes`.
        stem: `standard`, or `small` for a ResNet whose first convolution is 3x3 with stride 1, without max-pool.
        num_classes: the number of outputs.
        input_shape: channels, height and width of an image.

    Raises:
        ModelError: there is no such network, or it does not map (N, *input_shape) to (N, num_classes).
    """
    with _without_deprecations():
        model = _build(name, num_classes, input_shape)
        if stem == "small":
            _shrink_stem(name, model)
        model.float()  # whatever type the user's function made its weights of
        _check_output(name, model, num_classes, input_shape)
    return model


def count_outputs_of(model: nn.Module, name: str, input_shape: InputShape) -> int:
    """Return how many classes a network has scores for; one that returns a dict or an object returns logits afterwards.

    Raises:
        ModelError: it does not map (N, *input_shape) to (N, classes).
    """
    try:
        with torch.no_grad():
            output = return_logits(model, model(torch.zeros(2, *input_shape)))
    except _ANY as error:
        height, width = input_shape[1:]
        raise ModelError(
            f"{name} cannot take images of {height}x{width} with {input_shape[0]} channels ({type(error).__name__}: "
            f"{error}); set data.image_size and data.channels to what it takes"
        ) from error
    if not isinstance(output, torch.Tensor) or output.ndim != 2 or len(output) != 2 or output.shape[1] < 2:
        found = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
        raise ModelError(f"{name} returns {found} for two images, not one score for each class")
    return int(output.shape[1])


def hash_code(name: str) -> str | None:
    """Return the hex SHA-256 of the user's module in `module:function`, None for a network of torchvision or timm."""
    if not is_user_code(name):
        return None
    file = getattr(_import(name), "__file__", None)
    return sha256_file(Path(file)) if file else None


def _build(name: str, num_classes: int, input_shape: InputShape) -> nn.Module:
    if is_user_code(name):
        return _build_user_model(name, num_classes)
    build = build_timm_network if name.startswith(TIMM) else _build_torchvision
    return build(name, num_classes, input_shape)


def _build_torchvision(name: str, num_classes: int, input_shape: InputShape) -> nn.Module:
    classifiers = models.list_models(module=models)
    if name not in classifiers:
        near = difflib.get_close_matches(name, classifiers, n=3) or ["resnet18", "mobilenet_v2"]
        raise ModelError(
            f"model.name: {name!r} is not a torchvision classifier; similar ones: {', '.join(near)}; "
            f"for a network of timm, set {TIMM}NAME, for one of your own module:function"
        )
    channels, height, width = input_shape
    if channels != 3:
        raise ModelError(
            f"model.name={name} takes images of 3 channels, as all of torchvision's networks, and those of the data "
            f"set have {channels}; set data.channels to 3, or model.name to module:function of your own with "
            f"in_channels={channels}"
        )
    options: dict[str, Any] = {"weights": None, "num_classes": num_classes}
    if name in ("googlenet", "inception_v3"):
        options |= {"aux_logits": False, "init_weights": True}
    if name.startswith("vit_"):
        if height != width:
            raise ModelError(
                f"model.name={name} takes square images, and those of the data set have {height}x{width} pixels; set "
                "data.image_size to one number, or model.name to a network that takes both"
            )
        options["image_size"] = height
    try:
        return _as_module(models.get_model(name, **options))
    except (RuntimeError, ValueError, AssertionError) as error:
        raise ModelError(f"model.name={name} cannot be built for images of {height}x{width}: {error}") from None


def _build_user_model(name: str, num_classes: int) -> nn.Module:
    function = getattr(_import(name), name.partition(":")[2], None)
    if not callable(function):
        raise ModelError(f"model.name: {name} is not a function")
    try:
        model = function(num_classes=num_classes)
    except _ANY as error:
        raise ModelError(
            f"model.name: {name}(num_classes={num_classes}) raised {type(error).__name__}: {error}"
        ) from error
    if not isinstance(model, nn.Module):
        raise ModelError(f"model.name: {name} returned {type(model).__name__}, not a torch.nn.Module")
    return model


def _import(name: str) -> Any:
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        with _without_deprecations():
            return importlib.import_module(name.partition(":")[0])
    except _ANY as error:
        raise ModelError(f"model.name: {name} cannot be imported ({type(error).__name__}: {error})") from error


@contextmanager
def _without_deprecations() -> Iterator[None]:
    """Silence what is deprecated in the user's code, such as torch.nn.utils.weight_norm."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
        yield


def _as_module(model: Any) -> nn.Module:
    assert isinstance(model, nn.Module)
    return model


def _shrink_stem(name: str, model: nn.Module) -> None:
    first = getattr(model, "conv1", None)
    if not isinstance(first, nn.Conv2d) or not isinstance(getattr(model, "maxpool", None), nn.MaxPool2d):
        raise ModelError(f"model.stem=small: {name} has no ResNet stem (conv1 and maxpool); set model.stem=standard")
    model.conv1 = nn.Conv2d(first.in_channels, first.out_channels, 3, stride=1, padding=1, bias=first.bias is not None)
    model.maxpool = nn.Identity()


def _check_output(name: str, model: nn.Module, num_classes: int, input_shape: InputShape) -> None:
    model.eval()
    channels, height, width = input_shape
    try:
        with torch.no_grad():  # parameters of lazy modules that were made in inference mode could not be trained
            output = return_logits(model, model(torch.zeros(2, *input_shape)))
    except _ANY as error:
        first = next(((path, layer) for path, layer in model.named_modules() if isinstance(layer, nn.Conv2d)), None)
        if first and first[1].in_channels != channels:
            expected = first[1].in_channels
            raise ModelError(
                f"model.name={name} takes images with in_channels={expected} ({first[0]}), and those of the data set "
                f"have {channels}; {_channels_remedy(expected)}"
            ) from error
        raise ModelError(
            f"model.name={name} cannot take images of {height}x{width} with data.channels={channels} "
            f"({type(error).__name__}: {error}); try another data.image_size or data.channels"
        ) from error
    if not isinstance(output, torch.Tensor) or output.shape != (2, num_classes):
        found = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
        raise ModelError(
            f"model.name={name} returns {found} for two images, not one score for each of {num_classes} classes; let "
            "it return a tensor (images, classes), or a dict or dataclass with such `logits`"
        )


def _channels_remedy(expected: int) -> str:
    if expected in COLORS:
        return f"set data.channels to {expected}"
    return f"data.channels is 1, 3 or 4: let the network compute its {expected} from them first"
