"""The user's own images without labels, in any folder or archive."""

from functools import partial
from pathlib import Path

import numpy as np

from ptqflow.core.errors import DataError
from ptqflow.core.preprocessing import Preprocessing
from ptqflow.fetch.image_files import list_images, read_images
from ptqflow.fetch.params import DataParams
from ptqflow.fetch.splitting import Pool, Source

FEWEST = 4
"""Images, of which each split has one."""


def load_photos(root: Path, params: DataParams, preprocessing: Preprocessing) -> Source:
    """Find the images below `root` or inside the archive `root`, whatever its folders are.

    Raises:
        DataError: there are fewer than 4.
    """
    listing = list_images(root, params)
    if len(listing.files) < FEWEST:
        raise DataError(
            f"{root.resolve()} holds {len(listing.files)} images, and {FEWEST} are the fewest that can be divided "
            "into those that calibrate and those that are compared; add images"
        )
    return Source(
        origin="image files without labels",
        classes=(),
        train=Pool(np.arange(len(listing.files)), np.full(len(listing.files), -1)),
        test=None,
        horizontal_flip=True,
        read=partial(read_images, root, listing.files, params, preprocessing),
        ignored=listing.ignored.total(),
    )
