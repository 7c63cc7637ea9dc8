"""Classification of image files and of the images in folders."""

import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ptqflow.core.artifacts import naming, read_regular
from ptqflow.core.errors import ArtifactError, DataError, describe_os_error
from ptqflow.fetch.decoding import UnreadableImageError, decode_image, image_suffixes
from ptqflow.fetch.system_files import system_name
from ptqflow.inference.classifier import Classifier, batch_size
from ptqflow.runtime.manifest import Manifest

_MOST_BYTES = 1 << 30
Report = Callable[[str], None]
"""Called with one line about a file or folder; the others are still processed."""


@dataclass(frozen=True)
class Prediction:
    """The most probable classes of one image, equally probable ones in the order of the classes."""

    image: Path
    classes: tuple[str, ...]
    probabilities: tuple[float, ...]

    def as_text(self) -> str:
        """Return one line of text."""
        pairs = zip(self.classes, self.probabilities, strict=True)
        return f"{self.image}: " + ", ".join(f"{name} {100 * probability:.2f} %" for name, probability in pairs)

    def as_json(self) -> dict[str, object]:
        """Return the same with probabilities as fractions, rounded to 6 decimals."""
        pairs = zip(self.classes, self.probabilities, strict=True)
        return {
            "image": str(self.image),
            "top": [{"class": name, "probability": round(probability, 6)} for name, probability in pairs],
        }


def predict(
    classifier: Classifier, paths: Iterable[Path], k: int, complain: Report, note: Report
) -> Iterator[Prediction]:
    """Classify files and the images in folders, in bounded memory and in their order.

    Args:
        classifier: as `ptqflow.load` returns it.
        paths: of files, and of folders, which `find_images` searches.
        k: how many classes of each image, at most.
        complain: called for each file or folder that cannot be classified, with the reason.
        note: called for each folder in which files are skipped.

    Yields:
        A prediction for each image.
    """
    files = (file for path in paths for file in _files(path, complain, note))
    manifest = classifier.manifest
    decoded = _decode(files, manifest, complain)
    while batch := list(islice(decoded, batch_size(manifest))):
        probabilities = classifier.classify_pixels(np.stack([pixels for _, pixels in batch]))
        for (file, _), row in zip(batch, probabilities, strict=True):
            if np.isfinite(row).all():
                best = np.argsort(-row, kind="stable")[:k]
                yield Prediction(file, tuple(classifier.classes[i] for i in best), tuple(row[best].tolist()))
            else:
                complain(f"{file}: the model's output is not finite")


def find_images(folder: Path, complain: Report, note: Report) -> list[Path]:
    """Return the files below a folder that have the suffix of an image format, sorted, without hidden and system ones.

    Args:
        folder: which is searched; links to folders in it are not followed.
        complain: called for each folder in it that cannot be read.
        note: called if files are skipped because of their suffix.

    Raises:
        DataError: there are none.
    """
    suffixes = image_suffixes()
    found = []
    for root, folders, names in os.walk(folder, onerror=lambda error: complain(describe_os_error(error))):
        folders[:] = [name for name in folders if not system_name(name)]
        found += [Path(root, name) for name in names if not system_name(name)]
    images = sorted(file for file in found if file.suffix.lower() in suffixes)
    if not images:
        among = f" among its {len(found)} files" if found else ""
        raise DataError(f"{folder} holds no images{among}; name a file itself if it has another suffix")
    if others := sorted(set(found).difference(images)):
        note(f"{folder}: skipped {len(others)} without the suffix of an image format, the first is {others[0]}")
    return images


def _files(path: Path, complain: Report, note: Report) -> list[Path]:
    try:
        return find_images(path, complain, note) if path.is_dir() else [path]
    except DataError as error:
        complain(str(error))
        return []


def _decode(files: Iterable[Path], manifest: Manifest, complain: Report) -> Iterator[tuple[Path, NDArray[np.uint8]]]:
    for file in files:
        try:
            with naming(file), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of Pillow about oddities in images that it can read
                pixels = decode_image(_read(file), manifest.preprocessing)
        except UnreadableImageError as error:
            complain(f"{file}: not an image that can be read: {error}")
        except OSError as error:
            complain(describe_os_error(error))
        else:
            yield file, pixels


def _read(file: Path) -> bytes:
    try:
        return read_regular(file, _MOST_BYTES)
    except ArtifactError:
        raise UnreadableImageError(f"no file, or one of more than {_MOST_BYTES:,} bytes") from None
