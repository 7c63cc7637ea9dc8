"""The `data` section of params.yaml."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from ptqflow.core.params import Params

Fraction = Annotated[float, Field(gt=0, lt=1)]


class DataParams(Params):
    """Which images, at what size, and how they are split."""

    name: Literal["digits", "cifar10", "cifar100", "fashion_mnist", "image_folder"]
    """`digits` is part of scikit-learn, torchvision downloads the next three, `image_folder` holds the user's own."""
    path: Annotated[str, Field(min_length=1)] | None
    """Folder or archive that holds the images. `fetch` depends on its content, not on the path."""
    image_size: Annotated[int, Field(ge=8, le=4096)]
    """Height and width in pixels."""
    limit: Annotated[int, Field(ge=2)] | None
    """Maximum number of images of train (with val) and of test, stratified by class; of an image folder without test,
    of all images."""
    val_fraction: Fraction
    """Share of train that becomes val."""
    test_fraction: Fraction
    """Share of all images that becomes test, if the source has no test split."""
    seed: Annotated[int, Field(ge=0, lt=2**32)]
    """Draws `limit`, val and test."""
    on_bad_image: Literal["error", "skip"]
    """Whether an unreadable image is an error or is left out and counted."""

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
