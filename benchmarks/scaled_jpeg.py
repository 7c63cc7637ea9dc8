"""What decoding a JPEG at a scale changes, against decoding it in full: PSNR of what a network gets, in decibels.

    PYTHONPATH=src python benchmarks/scaled_jpeg.py

Two photos of scikit-learn, 640x427. Columns are how much larger than the result, at least, the decoded image is.
"""

import io
from pathlib import Path

import numpy as np
import sklearn.datasets
from numpy.typing import NDArray
from PIL import Image, ImageOps

from ptqflow.core.preprocessing import Preprocessing
from ptqflow.fetch import decoding

SIZES = (24, 32, 48, 53, 64, 96, 100, 106, 128, 150, 180)
SPARE = (1, 1.5, 2, 3, 4)


def main() -> None:
    """Print a row for each photo and size, and the least of each column."""
    used, least = decoding._SPARE, dict.fromkeys(SPARE, np.inf)
    print(f"{'photo':12}{'size':>5}" + "".join(f"{spare:>8g}" for spare in SPARE) + f"{'bicubic':>9}{'quality 90':>12}")
    for path in sorted((Path(sklearn.datasets.__file__).parent / "images").glob("*.jpg")):
        data = path.read_bytes()
        for size in SIZES:
            expected = in_full(data, size)
            row = ""
            for spare in SPARE:
                decoding._SPARE = spare
                found = psnr(decoding.decode_image(data, Preprocessing.default((size, size))), expected)
                least[spare] = min(least[spare], found)
                row += f"{found:8.1f}" if np.isfinite(found) else f"{'equal':>8}"
            bicubic = psnr(in_full(data, size, Image.Resampling.BICUBIC), expected)
            again = psnr(in_full(encode_again(data), size), expected)
            print(f"{path.stem:12}{size:5}{row}{bicubic:9.1f}{again:12.1f}")
    print(f"{'least':12}{'':5}" + "".join(f"{least[spare]:8.1f}" for spare in SPARE))
    print(f"{used} is used")


def in_full(data: bytes, size: int, filter_: Image.Resampling = Image.Resampling.BILINEAR) -> NDArray[np.uint8]:
    """Decode all pixels, then crop and scale."""
    return np.asarray(ImageOps.fit(Image.open(io.BytesIO(data)), (size, size), filter_))


def encode_again(data: bytes) -> bytes:
    """Return the photo as a JPEG of quality 90."""
    buffer = io.BytesIO()
    Image.open(io.BytesIO(data)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def psnr(found: NDArray[np.uint8], expected: NDArray[np.uint8]) -> float:
    """Return decibels, infinity for equal pixels."""
    power = float(np.square(found.astype(float) - expected).mean())
    return 10 * float(np.log10(255**2 / power)) if power else float(np.inf)


if __name__ == "__main__":
    main()
