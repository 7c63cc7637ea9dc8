"""The image files of a folder or an archive, by their names."""

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from ptqflow.core.errors import DataError
from ptqflow.core.preprocessing import Preprocessing
from ptqflow.fetch.archives import Listing, list_files, read_files
from ptqflow.fetch.decoding import MissingDecoderError, UnreadableImageError, decode_image, image_suffixes
from ptqflow.fetch.params import DataParams
from ptqflow.fetch.splitting import Decode, Rows

_NAMED = 5  # names in the line about files that are left out


def list_images(root: Path, params: DataParams) -> Listing:
    """List the images of a folder or an archive, and print a line about what is left out, and why.

    An image is a file whose name ends as those of an image format, or has no suffix. Hidden files and those of
    operating systems and network storage are none.

    Raises:
        DataError: as `list_files`.
    """
    listing = list_files(root, params.encoding)
    known = image_suffixes()
    suffix_of = {name: PurePosixPath(name).suffix.lower() for name in listing.files}
    strange = Counter(suffix for suffix in suffix_of.values() if suffix and suffix not in known)
    if listing.ignored:
        _report(root, listing.ignored, "hidden or system files are ignored")
    if strange:
        _report(root, strange, "files that are no images by their names are left out")
    files = [name for name, suffix in suffix_of.items() if suffix not in strange]
    return Listing(files, listing.folders, listing.ignored + strange)


def _report(root: Path, counts: Counter[str], what: str) -> None:
    named = [f"{name!r} ({count:,})" for name, count in counts.most_common(_NAMED)]
    others = [f"{len(counts) - _NAMED} others"] if len(counts) > _NAMED else []
    print(f"{root.resolve()}: {counts.total():,} {what}: {', '.join(named + others)}", flush=True)


def read_images(
    root: Path, names: Sequence[str], params: DataParams, preprocessing: Preprocessing, rows: Rows
) -> Iterator[tuple[Rows, Decode]]:
    """Read the images with these numbers in `names`, as `Source.read`; raise a DataError for an unreadable one, unless
    `data.on_bad_image` is `skip`.
    """
    row_of = {names[row]: row for row in rows.tolist()}
    for name, data in read_files(root, row_of, params.encoding, params.max_megapixels):
        where = f"{root.resolve()}: {name}"
        yield np.array([row_of[name]]), partial(decode_file, where, data, params, preprocessing)


def decode_file(where: str, data: bytes, params: DataParams, preprocessing: Preprocessing) -> NDArray[np.uint8] | None:
    """Decode an image file of a data set to (1, height, width, channels).

    Args:
        where: it is, for an error.
        data: its content.
        params: the `data` section.
        preprocessing: of the images.

    Returns:
        None if it is unreadable and `data.on_bad_image` is `skip`.

    Raises:
        DataError: it is unreadable and `data.on_bad_image` is `error`, or needs a package that is not installed.
    """
    try:
        return decode_image(data, preprocessing, params.max_megapixels)[np.newaxis]
    except MissingDecoderError as error:
        raise DataError(f"{where}: {error}") from None
    except UnreadableImageError as error:
        if params.on_bad_image == "skip":
            return None
        raise DataError(
            f"{where} is no readable image ({error}); fix or remove it, or set data.on_bad_image=skip"
        ) from None
