"""The names of a network's classes where the images have no labels."""

from collections import Counter
from pathlib import Path

from ptqflow.core.artifacts import Card, read_regular
from ptqflow.core.errors import ArtifactError, ModelError
from ptqflow.core.normalization import InputShape
from ptqflow.models.params import ModelParams

_PROBE = 997
"""Number of classes of a network that is built to find its last layer, by which the user's weights are counted."""
_MOST_BYTES = 1 << 24


class ClassNames(Card):
    """inputs/classes.json."""

    names: tuple[str, ...] = ()
    """In the order of the network's outputs; none where they are those of the data set."""


def find_class_names(params: ModelParams, weights: Path, input_shape: InputShape) -> tuple[str, ...]:
    """Return the names in `model.classes`, else those that are published with the weights, else numbers from 0.

    Args:
        params: the section `model`.
        weights: the file of the weights, whose last layer says how many classes there are.
        input_shape: channels, height and width of an image.

    Raises:
        ModelError: the file is no list of two or more names, each once, or as many as the network has outputs; or the
            network has no last layer whose outputs can be counted.
    """
    count = _count_classes(params, weights, input_shape)
    names = _read_names(params.classes) if params.classes else _published_names(params, count)
    if len(names) != count:
        raise ModelError(
            f"model.classes: {params.classes} holds {len(names)} names, and the weights are of {count} classes; write "
            "one name a line for each, in the order of the outputs"
        )
    return names


def _count_classes(params: ModelParams, weights: Path, input_shape: InputShape) -> int:
    from ptqflow.models.architecture import build_model
    from ptqflow.models.pretrained import count_outputs

    return count_outputs(build_model(params.name, params.stem, _PROBE, input_shape), weights, _PROBE)


def _read_names(path: str) -> tuple[str, ...]:
    remedy = "set it to a text file, or to null"
    try:
        text = read_regular(Path(path).expanduser(), _MOST_BYTES, remedy).decode()
    except FileNotFoundError:
        raise ModelError(f"model.classes: {path} does not exist; {remedy}") from None
    except ArtifactError as error:
        raise ModelError(f"model.classes: {error}") from None
    except UnicodeDecodeError as error:
        raise ModelError(f"model.classes: {path} is not UTF-8 text ({error}); save it so") from None
    names = tuple(line.strip() for line in text.splitlines() if line.strip())
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise ModelError(f"model.classes: {path} holds {twice[0]!r} more than once; name each class once")
    return names


def _published_names(params: ModelParams, count: int) -> tuple[str, ...]:
    named = (params.preprocessing or "").partition(":")[2]
    found: tuple[str, ...] = ()
    if params.is_timm:
        from ptqflow.models.timm_networks import imagenet_names

        found = imagenet_names(count)
    elif not params.is_user_code:
        from ptqflow.models.torchvision_weights import published_classes

        found = published_classes(params.name, named or str(params.weights))
    return found if len(found) == count else tuple(str(number) for number in range(count))
