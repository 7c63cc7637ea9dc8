"""The `data` section of params.yaml."""

import difflib
from encodings.aliases import aliases
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from ptqflow.core.params import Params

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


class DataParams(Params):
    """Which images, at what size, and how they are split."""

    name: Literal["digits", "cifar10", "cifar100", "fashion_mnist", "image_folder"]
    """Where the images come from: `digits` is embedded in scikit-learn, torchvision downloads the next three,
    `image_folder` is your own folder or archive."""
    path: Annotated[str, Field(min_length=1)] | None
    """Folder or archive with the images; null downloads a torchvision set. Only its bytes count: the same bytes at
    another path rerun nothing."""
    encoding: Annotated[str, AfterValidator(_encoding_of_names)] | None
    """Encoding of the names in an archive that does not state it, as Python calls it: `utf-8`, `gbk`, `cp866` etc.;
    null: a zip with such names is refused."""
    image_size: Annotated[int, Field(ge=8, le=4096)]
    """Height and width in pixels: images are scaled to it on the short side and cropped at the center."""
    channels: Literal[1, 3, 4]
    """What images are decoded to: 1 is grey, 3 is RGB, 4 is RGBA. 1 and 4 need a network of your own."""
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
        if self.name == "image_folder" and self.path is None:
            raise ValueError("data.name=image_folder needs data.path: the folder or archive that holds the images")
        if self.name == "digits" and self.path is not None:
            raise ValueError(
                f"data.path={self.path} is not used with data.name=digits; set data.name=image_folder for your own "
                "images"
            )
        return self
