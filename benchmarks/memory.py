"""Memory that training and evaluation take on images that are more than it.

Run it from the root of the repository, on Linux. Random images are written to a disk first.

    PYTHONPATH=src python benchmarks/memory.py --gib 8 --limit-gib 2
"""

import argparse
import contextlib
import mmap
import os
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, count, islice
from pathlib import Path
from threading import Event

import numpy as np
import torch
from torch import nn

from ptqflow.core.normalization import Normalization
from ptqflow.core.ranks import ALONE
from ptqflow.data.dataset import Split, digests_of
from ptqflow.models.logits import compute_logits
from ptqflow.train.augmentation import draw_epoch
from ptqflow.train.batches import Batches
from ptqflow.train.step import Recipe, Trainer
from train import LR, PADDING, STAGE, in_fresh_process, print_machine, train_params

GIB, MIB = 1 << 30, 1 << 20


def main() -> None:
    """Print the peaks of training, of training that keeps what it has read, and of an evaluation."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gib", type=float, default=4, help="size of the images")
    parser.add_argument("--limit-gib", type=float, help="memory that the process may have")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--folder", help="where to write the images; must lie on a disk")
    arguments = parser.parse_args()
    print_machine("cpu")
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        path = Path(folder) / "images.npy"
        images = write_images(path, arguments)
        print(
            f"{images} images of {arguments.image_size}x{arguments.image_size}, {path.stat().st_size / MIB:.0f} MiB "
            f"in {folder}, batches of {arguments.batch_size}, {arguments.steps} steps"
        )
        print(f"{'resident, MiB':36}{'before':>8}{'peak':>8}{'of files':>10}{'of no file':>12}{'images/s':>10}")
        for name, watch, lets_go in (
            ("training", watch_training, True),
            ("training, keeping what it has read", watch_training, False),
            ("one evaluation", watch_evaluation, True),
        ):
            try:
                with control_group(arguments.limit_gib) as group:
                    peak = in_fresh_process(watch, arguments, path, lets_go, group, environment=STAGE)
            except RuntimeError as error:  # killed, or torch got no more
                print(f"{name:36}{error or type(error).__name__}")
                continue
            print(
                f"{name:36}{peak['before']:8.0f}{peak['VmHWM']:8.0f}{peak['RssFile']:10.0f}{peak['RssAnon']:12.0f}"
                f"{peak['rate']:10.0f}   {peak['limited']}",
                flush=True,
            )


def write_images(path: Path, arguments: argparse.Namespace) -> int:
    """Write random images to the disk, out of the page cache, and return how many."""
    shape = (arguments.image_size, arguments.image_size, 3)
    images = int(arguments.gib * GIB) // int(np.prod(shape))
    generator = np.random.default_rng(0)
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": (images, *shape)})
        left = images * int(np.prod(shape))
        while left:
            left -= file.write(generator.bytes(min(left, 64 * MIB)))
        file.flush()
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return images


def watch_training(
    arguments: argparse.Namespace, path: Path, lets_go: bool, group: Path | None
) -> dict[str, float | str]:
    """Train a small network, and return resident MiB before and at their peaks, and images a second."""
    if not lets_go:
        del mmap.MADV_DONTNEED  # without which `Batches` keeps what it has read
    limited = limit_memory(arguments.limit_gib, group)
    split, model, recipe = map_images(path)
    params, device = train_params(arguments.batch_size), torch.device("cpu")
    trainer = Trainer(model, recipe, params, ALONE, device)
    batches = Batches(split, params.batch_size, ALONE, device)
    epochs = (batches.epoch(draw_epoch(len(split), PADDING, True, 0, epoch)) for epoch in count(1))
    steps = islice(chain.from_iterable(epochs), arguments.steps)

    def train() -> None:
        for step, batch in enumerate(steps, 1):
            trainer.step(batch, step, LR)

    figures = watch(train)
    return {**figures, "rate": arguments.steps * params.batch_size / figures["seconds"], "limited": limited}


def watch_evaluation(arguments: argparse.Namespace, path: Path, _: bool, group: Path | None) -> dict[str, float | str]:
    """Evaluate a small network on all images, and return the same figures."""
    limited = limit_memory(arguments.limit_gib, group)
    split, model, recipe = map_images(path)
    figures = watch(lambda: compute_logits(model, split, recipe.normalization, 256, "val"))
    return {**figures, "rate": len(split) / figures["seconds"], "limited": limited}


def map_images(path: Path) -> tuple[Split, nn.Module, Recipe]:
    """Return the images, as `open_dataset` does, and a small network for them."""
    images = np.load(path, mmap_mode="r")
    labels = np.random.default_rng(0).integers(0, 10, len(images))
    convolution = nn.Sequential(nn.Conv2d(3, 16, 3, stride=2), nn.BatchNorm2d(16), nn.ReLU())
    model = nn.Sequential(convolution, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))
    recipe = Recipe(Normalization(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)), True)
    split = Split(images, labels, digests_of(images))
    split.release()
    return split, model, recipe


def watch(work: Callable[[], object]) -> dict[str, float]:
    """Return the resident MiB before and at their peaks while a function runs, and its seconds."""
    before = resident()["VmRSS"]
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # VmHWM is the peak from here on
    peak, done = {"RssFile": 0.0, "RssAnon": 0.0}, Event()

    def look() -> None:
        while not done.wait(0.005):
            now = resident()
            peak.update({name: max(highest, now[name]) for name, highest in peak.items()})

    with ThreadPoolExecutor(1) as pool:
        looking = pool.submit(look)
        started = time.perf_counter()
        try:
            work()
        finally:
            done.set()
        seconds = time.perf_counter() - started
        looking.result()
    return {**peak, "VmHWM": resident()["VmHWM"], "before": before, "seconds": seconds}


def resident() -> dict[str, float]:
    """Return what Linux says of this process's memory, in MiB."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    fields = (line.split() for line in lines if line.startswith(("VmHWM", "VmRSS", "RssFile", "RssAnon")))
    return {name.rstrip(":"): int(kib) / 1024 for name, kib, _ in fields}


@contextlib.contextmanager
def control_group(gib: float | None) -> Iterator[Path | None]:
    """Make a control group (v2) with so much memory below our own, or yield None where that is not to be had."""
    own = Path("/proc/self/cgroup").read_text(encoding="utf-8").partition("0::/")[2].strip()
    parent = Path("/sys/fs/cgroup") / own
    handed_down = parent / "cgroup.subtree_control"
    if gib is None or not handed_down.exists() or "memory" not in handed_down.read_text(encoding="ascii").split():
        yield None
        return
    group = parent / f"ptqflow-benchmark-{os.getpid()}"
    group.mkdir()
    try:
        (group / "memory.max").write_text(str(int(gib * GIB)), encoding="ascii")
        yield group
    finally:
        group.rmdir()


def limit_memory(gib: float | None, group: Path | None) -> str:
    """Limit this process to a control group, else what it has in no file, as `ulimit -d` does; say what was done."""
    if gib is None:
        return "no limit"
    if group:
        (group / "cgroup.procs").write_text(str(os.getpid()), encoding="ascii")
        return f"limit {gib:g} GiB, page cache included"
    resource.setrlimit(resource.RLIMIT_DATA, (int(gib * GIB), int(gib * GIB)))
    return f"limit {gib:g} GiB of what is in no file; no control group (v2) to limit pages of files"


if __name__ == "__main__":
    main()
