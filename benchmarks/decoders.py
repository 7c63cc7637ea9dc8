"""Images per second of `fetch`'s decoder in threads and in processes, a plain Pillow loop and torchvision's decoder.

    PYTHONPATH=src python benchmarks/decoders.py --photos 1000 --folder /data/photos

The photos are made first, in the folder. All of them crop to a square and scale to `--size`, and none writes anything.
"""

import argparse
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from photos import write_photos
from PIL import Image, ImageOps

from ptqflow.core.machine import usable_cores
from ptqflow.core.preprocessing import Preprocessing
from ptqflow.core.torchvision_shim import ensure_torchvision_imports
from ptqflow.fetch.decoding import decode_image

_CHUNK = 16  # files of a process at a time


def main() -> None:
    """Print images per second of each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=1000)
    parser.add_argument("--folder", type=Path, required=True, help="where the photos are made and kept")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=3, help="of which the fastest counts")
    arguments = parser.parse_args()
    files = sorted(write_photos(arguments.folder / f"{arguments.photos} photos", arguments.photos, 100).rglob("*.jpg"))
    cores = usable_cores()
    print(f"{len(files)} photos to {arguments.size}x{arguments.size}, {cores} cores, fastest of {arguments.rounds}")
    ours, plain, torchvision = (
        partial(decode, size=arguments.size) for decode in (decode_file, decode_in_full, decode_in_torchvision)
    )
    processes = ProcessPoolExecutor(cores, get_context("spawn"))
    with ThreadPoolExecutor(cores) as threads, processes:
        runs: dict[str, Callable[[], object]] = {
            "Pillow, one thread": lambda: list(map(plain, files)),
            f"Pillow, {cores} threads": lambda: list(threads.map(plain, files)),
            f"torchvision, {cores} threads": lambda: list(threads.map(torchvision, files)),
            "ptqflow, one thread": lambda: list(map(ours, files)),
            f"ptqflow, {cores} threads": lambda: list(threads.map(ours, files)),
            f"ptqflow, {cores} processes": lambda: list(processes.map(ours, files, chunksize=_CHUNK)),
        }
        list(processes.map(ours, files[: cores * _CHUNK]))  # which imports what they need
        try:
            torchvision(files[0])
        except RuntimeError as error:  # its library for images is built for another torch
            print(f"torchvision: {str(error).partition('.')[0]}")
            del runs[f"torchvision, {cores} threads"]
        for name, run in runs.items():
            print(
                f"{name:28}{len(files) / min(_seconds(run) for _ in range(arguments.rounds)):8.0f} images/s", flush=True
            )


def decode_file(file: Path, size: int) -> NDArray[np.uint8]:
    """Decode as `fetch` and `ptqflow predict` do."""
    return decode_image(file.read_bytes(), Preprocessing.default((size, size)))


def decode_in_full(file: Path, size: int) -> NDArray[np.uint8]:
    """Decode all pixels with Pillow."""
    with Image.open(file) as image:
        return np.asarray(ImageOps.fit(image.convert("RGB"), (size, size), Image.Resampling.BILINEAR))


def decode_in_torchvision(file: Path, size: int) -> NDArray[np.uint8]:
    """Decode all pixels with torchvision, and scale them as its recipes do."""
    ensure_torchvision_imports()
    import torch
    from torchvision.io import ImageReadMode, decode_jpeg, read_file
    from torchvision.transforms.v2 import functional

    torch.set_num_threads(1)  # each photo is one thread's
    image = decode_jpeg(read_file(str(file)), ImageReadMode.RGB)
    scaled = functional.resize(image, [size], antialias=True)
    pixels: NDArray[np.uint8] = functional.center_crop(scaled, [size, size]).permute(1, 2, 0).numpy()
    return pixels


def _seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
