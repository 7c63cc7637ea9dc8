"""The `data` section of params.yaml."""

import difflib
import json
import math
from encodings.aliases import aliases
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, Strict, model_validator

from ptqflow.core.errors import ParamsError
from ptqflow.core.params import Params
from ptqflow.core.preprocessing import LARGEST_SIDE, ColorOrder, Interpolation, Preprocessing, Resize, in_pixels

Fraction = Annotated[float, Field(gt=0, lt=1)]


def _extends_ascii(encoding: str) -> bool:
    try:
        return b"/a".decode(encoding) == "/a"
    except (LookupError, ValueError):  # unknown, or not of text
        return False


def _encoding_of_names(encoding: str) -> str:
    """Return the encoding if names of files can have it: archives separate them by ASCII's slash."""
    if _extends_ascii(encoding):
        return encoding
    near = difflib.get_close_matches(encoding.lower(), filter(_extends_ascii, {*aliases, *aliases.values()}))
    advice = f"did you mean {' or '.join(sorted(near))}?" if near else "such as utf-8, gbk, shift_jis or cp866"
    raise ValueError(f"not an encoding of Python's that extends ASCII; {advice}")


_SMALLEST_SIDE = 8


def _is_side(value: object, largest: int = LARGEST_SIDE) -> bool:
    return type(value) is int and _SMALLEST_SIDE <= value <= largest


def _is_image_size(value: Any) -> Any:
    pair = value if isinstance(value, list | tuple) else [value, value]
    if value is None or (len(pair) == 2 and all(map(_is_side, pair))):
        return value
    raise ValueError(
        f"neither an integer from {_SMALLEST_SIDE} to {LARGEST_SIDE} nor [height, width] of two such integers"
    )


def _is_crop(value: Any) -> Any:
    if value is None or (type(value) is float and 0 < value < 1) or _is_side(value, 2 * LARGEST_SIDE):
        return value
    raise ValueError(
        f"neither a number between 0 and 1, such as 0.875, nor an integer from {_SMALLEST_SIDE} to {2 * LARGEST_SIDE}, "
        "the pixels of the short side before the crop"
    )


_Pixels = Annotated[int, Field(ge=_SMALLEST_SIDE, le=LARGEST_SIDE)]


class DataParams(Params):
    """Which images, at what size, and how they are split."""

    name: Literal[
        "digits", "cifar10", "cifar100", "fashion_mnist", "image_folder", "image_list", "hugging_face", "photos"
    ]
    """Where the images come from: `digits` is embedded in scikit-learn, torchvision downloads the next three,
    `image_folder` is your own folder or archive with a folder a class, `image_list` one with a CSV or parquet file of
    paths, labels and splits, `hugging_face` a folder that `save_to_disk` of `datasets` wrote, `photos` a folder or an
    archive of images without labels."""
    path: Annotated[str, Field(min_length=1)] | None
    """Folder or archive with the images; null downloads a torchvision set. Only its bytes count: the same bytes at
    another path rerun nothing."""
    encoding: Annotated[str, AfterValidator(_encoding_of_names)] | None
    """Encoding of the names in an archive that does not state it, as Python calls it: `utf-8`, `gbk`, `cp866` etc.;
    null: a zip with such names is refused."""
    image_size: Annotated[
        _Pixels | Annotated[tuple[_Pixels, _Pixels], Strict(False)] | None, BeforeValidator(_is_image_size)
    ]
    """Height and width of what the network takes, in pixels: one number, or `[height, width]`; null: what
    `model.preprocessing` says."""
    resize: Resize | None = None
    """How an image of other proportions is resized: `fit` takes the largest part at its center, in one step;
    `short_side` scales the image until it covers the size, as torchvision and timm do, then crops the center; `squash`
    ignores its proportions; `letterbox` scales it into the size and surrounds it with black. null: what
    `model.preprocessing` says, else `fit`."""
    crop: Annotated[
        Annotated[float, Field(gt=0, lt=1)] | Annotated[int, Field(ge=_SMALLEST_SIDE, le=2 * LARGEST_SIDE)] | None,
        BeforeValidator(_is_crop),
    ] = None
    """What the image is resized to before its center is cropped to `image_size`: pixels of the short side, such as 256,
    torchvision's `resize_size`; or the share of it that is kept, such as 0.875, timm's `crop_pct`. null: what
    `model.preprocessing` says, else no more is cropped than `resize` needs."""
    interpolation: Interpolation | None = None
    """Filter of the resize; null: what `model.preprocessing` says, else bilinear."""
    antialias: bool | None = None
    """Whether the filter grows with the scale, as for PIL images in torchvision and timm; false: as in OpenCV, and for
    tensors in older versions of torchvision. null: true."""
    channels: Literal[1, 3, 4]
    """What images are decoded to: 1 is grey, 3 is RGB, 4 is RGBA. 1 and 4 need a network of your own."""
    channel_order: Literal["RGB", "BGR"] = "RGB"
    """Order of 3 channels in the network's input, and of `model.mean` and `model.std`: `BGR` for weights from Caffe or
    of training with OpenCV."""
    max_megapixels: Annotated[int, Field(ge=1, le=178)] = 50
    """Largest image of a folder or an archive, in millions of pixels; its file may have 4 bytes for each. Larger ones
    are refused before they take memory."""
    limit: Annotated[int, Field(ge=2)] | None
    """Keep at most so many images of train (val included) and of test, stratified by class; of an image folder without
    `test/`, of all images. null: all."""
    val_fraction: Fraction
    """Share of train that becomes val."""
    test_fraction: Fraction
    """Share of all images that becomes test where the source has no test split."""
    seed: Annotated[int, Field(ge=0, lt=2**32)]
    """Seed of the draws of `limit`, val and test."""
    on_bad_image: Literal["error", "skip"]
    """What an unreadable image does: `error` stops and names the file, `skip` leaves it out and counts it in
    `data/dataset/card.json`."""

    @model_validator(mode="after")
    def _path_fits_name(self) -> Self:
        if self.name in ("image_folder", "image_list", "hugging_face", "photos") and self.path is None:
            raise ValueError(f"data.name={self.name} needs data.path: the folder or archive that holds the images")
        if self.name == "digits" and self.path is not None:
            raise ValueError(
                f"data.path={self.path} is not used with data.name=digits; set data.name=image_folder for your own "
                "images"
            )
        return self

    @model_validator(mode="after")
    def _preprocessing_is_possible(self) -> Self:
        if self.channel_order == "BGR" and self.channels != 3:
            raise ValueError(
                f"data.channel_order=BGR is of 3 channels, and data.channels is {self.channels}; set it to RGB, or "
                "data.channels to 3"
            )
        if self.interpolation == "lanczos" and self.antialias is False:
            raise ValueError(
                "data.interpolation=lanczos does not exist with data.antialias=false; set antialias to null, or "
                "interpolation to bilinear or bicubic"
            )
        if type(self.crop) is int and self.size is not None and self.crop <= min(self.size):
            raise ValueError(
                f"data.crop is {self.crop}, the pixels of the short side before {in_pixels(self.size)} are cropped "
                "from it, so it must be more; set data.image_size to the size after the crop, or data.crop to null"
            )
        return self

    @property
    def size(self) -> tuple[int, int] | None:
        """`image_size` as height and width."""
        return (self.image_size, self.image_size) if isinstance(self.image_size, int) else self.image_size

    @property
    def color(self) -> ColorOrder:
        """The channels in their order."""
        return "L" if self.channels == 1 else "RGBA" if self.channels == 4 else self.channel_order

    def preprocessing(self) -> Preprocessing:
        """Return the preprocessing that the keys state, with the defaults of those that are null.

        Raises:
            ParamsError: `image_size` is null.
        """
        if self.size is None:
            raise ParamsError(
                "data.image_size is null, and so is model.preprocessing, from which it would be taken; set one of them"
            )
        stated = {
            "resize": self.resize,
            "resized": self.crop and _before_crop(self.size, self.crop),
            "interpolation": self.interpolation,
            "antialias": self.antialias,
        }
        changes = {key: value for key, value in stated.items() if value is not None}
        return Preprocessing.default(self.size, self.color).model_copy(update=changes)

    def contradictions(self, described: Preprocessing) -> dict[str, str]:
        """Return the keys that are not null and state another preprocessing, each with what it says and the other."""
        stated = {
            "channels": (self.channels, described.channels),
            "channel_order": (self.color if self.channels == described.channels else None, described.color),
            "image_size": (self.size, described.size),
            "resize": (self.resize, described.resize),
            "crop": (self.crop and _before_crop(described.size, self.crop), described.resized),
            "interpolation": (self.interpolation, described.interpolation),
            "antialias": (self.antialias, described.antialias),
        }
        return {
            key: f"data.{key} is {_as_yaml(getattr(self, key))}, not {_as_yaml(_as_key(key, described))}"
            for key, (own, other) in stated.items()
            if own is not None and own != other
        }


def _as_yaml(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _as_key(key: str, described: Preprocessing) -> object:
    """Return what a key would be to say the same as a description."""
    height, width = described.size
    match key:
        case "image_size":
            return height if height == width else [height, width]
        case "crop":
            return None if described.keeps_its_size else min(described.resized)
        case "channel_order":
            return described.color
    return getattr(described, key)


def _before_crop(size: tuple[int, int], crop: float) -> tuple[int, int]:
    """Return what images are resized to: rounded down for a share, as in timm."""
    height, width = size
    if isinstance(crop, float):
        return math.floor(height / crop), math.floor(width / crop)
    return round(height * crop / min(size)), round(width * crop / min(size))
