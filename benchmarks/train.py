"""Training beside the loop that people write, in turns: torchvision's transforms for each image, a DataLoader, SGD.

Run it from the root of the repository, on a machine that does nothing else. DATASET is what `fetch` wrote, FOLDER the
same images as files, `train/<class>/…` and `test/<class>/…`; without it, the loop reads them from memory, as
torchvision's CIFAR10 keeps them.

    export PYTHONPATH=src
    python benchmarks/train.py loop data/dataset FOLDER --epochs 20 --seeds 0 1 2
    python benchmarks/train.py step data/dataset FOLDER    # images a second, beside the bare step on one batch
    python benchmarks/train.py input data/dataset          # the input path alone, on one core

`loop` has a process for each run; in `step` and `input` all ways take turns in one.
"""

import argparse
import hashlib
import os
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import count, islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Subset
from torch.utils.data import Dataset as Images

from ptqflow.core.machine import cpu_model, usable_cores
from ptqflow.core.preprocessing import in_pixels
from ptqflow.core.ranks import ALONE
from ptqflow.core.torchvision_shim import ensure_torchvision_imports
from ptqflow.data.dataset import DIGEST_BYTES, Dataset, DatasetCard, Split, open_dataset
from ptqflow.data.preprocessing import to_input
from ptqflow.models.architecture import build_model
from ptqflow.train.augmentation import crop_and_flip, draw_epoch
from ptqflow.train.batches import Batches
from ptqflow.train.checkpoints import Checkpoints
from ptqflow.train.loop import fit, pick_device
from ptqflow.train.params import TrainParams
from ptqflow.train.step import Recipe, Trainer

ensure_torchvision_imports()

from torchvision import transforms  # noqa: E402
from torchvision.datasets import ImageFolder  # noqa: E402

T = TypeVar("T")
LR, MOMENTUM, WEIGHT_DECAY, PADDING = 1e-2, 0.9, 1e-5, 4
LOOK_EVERY = 50  # steps, as in ptqflow.train.loop
STAGE = {"GOMP_SPINCOUNT": "1000"}  # as ptqflow.core.stage sets it for every stage


def main() -> None:
    """Measure what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, function in (("loop", loop), ("step", step), ("input", input_path)):
        command = commands.add_parser(name, help=function.__doc__)
        command.set_defaults(function=function)
        command.add_argument("--batch-size", type=int, default=128)
        command.add_argument("dataset", type=Path)
        if name == "input":
            command.add_argument("--images", type=int, default=10_000, help="images in each round")
            command.add_argument("--rounds", type=int, default=7)
            continue
        command.add_argument("folder", type=Path, nargs="?")
        command.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
        command.add_argument("--workers", type=int, default=min(8, usable_cores()), help="of the loop's DataLoader")
        command.add_argument("--model", default="resnet18")
        command.add_argument("--stem", default="standard")
        if name == "step":
            command.add_argument("--steps", type=int, default=60, help="in each round")
            command.add_argument("--rounds", type=int, default=5)
        else:
            command.add_argument("--epochs", type=int, default=20)
            command.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
            command.add_argument("--held-out", choices=["val", "test"], default="test")
            command.add_argument(
                "--calm", action="store_true", help="let the loop's OpenMP threads sleep soon, as ours do"
            )
            command.add_argument("--checkpoint-every", type=int, default=1, help="of ours; the loop has none")
    arguments = parser.parse_args()
    print_machine(getattr(arguments, "device", "cpu"))
    arguments.function(arguments)


def print_machine(device: str) -> None:
    """Print what the figures depend on beside the code."""
    gpu = f"{torch.cuda.get_device_name()}, " if device != "cpu" else ""
    cpu = cpu_model(Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    load = ", ".join(f"{one:.1f}" for one in os.getloadavg())
    print(
        f"{gpu}{usable_cores()} cores of {cpu}, {torch.get_num_threads()} threads, torch {torch.__version__}, "
        f"Python {sys.version.split()[0]}, load average {load}"
    )


def in_fresh_process(function: Callable[..., T], *arguments: object, environment: Mapping[str, str]) -> T:
    """Call a function in a process of its own, where nothing has been set up yet."""
    before = dict(os.environ)
    os.environ.update(environment)
    try:
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            return pool.submit(function, *arguments).result()
    finally:
        os.environ.clear()
        os.environ.update(before)


def spread(values: Sequence[float], form: str) -> str:
    """Return median, minimum and maximum."""
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


# ---------------------------------------------------------------------------------------------------------------- loop


@dataclass(frozen=True)
class Run:
    """One training."""

    epochs: list[float]
    """Seconds of each epoch, evaluation included."""
    trainings: list[float]
    """Seconds of each epoch without its evaluation."""
    total: float
    """Seconds from the imports to the last evaluation."""
    top1: float
    """Of the last epoch, on the images held out."""


def loop(arguments: argparse.Namespace) -> None:
    """Whole trainings of both, with an evaluation after each epoch."""
    dataset = open_dataset(arguments.dataset)
    held_out = getattr(dataset, arguments.held_out)
    rows = [find_rows(arguments.folder, dataset.train, "train")]
    rows.append(find_rows(arguments.folder, held_out, "test" if arguments.held_out == "test" else "train"))
    images = len(dataset.train)
    print(
        f"{arguments.model}, {images} images of {in_pixels(dataset.card.preprocessing.size)}, {len(held_out)} "
        f"held out ({arguments.held_out}), {arguments.epochs} epochs in batches of {arguments.batch_size}; "
        f"the loop: {arguments.workers} workers, images from {arguments.folder or 'memory'}, "
        f"{'calm' if arguments.calm else 'as written'}; ours: a checkpoint every {arguments.checkpoint_every} epochs"
    )
    print(f"{'':5}seed  {'epoch, s':22}{'training alone, s':22}{'images/s':>9}{'total, s':>10}{'top-1 %':>9}")
    runs: dict[str, list[Run]] = {"loop": [], "ours": []}
    for number, seed in enumerate(arguments.seeds):
        for name in ("loop", "ours") if number % 2 == 0 else ("ours", "loop"):
            if name == "loop":
                run = in_fresh_process(run_loop, arguments, seed, rows, environment=STAGE if arguments.calm else {})
            else:
                run = in_fresh_process(run_ours, arguments, seed, environment=STAGE)
            runs[name].append(run)
            print(
                f"{name:5}{seed:4}  {spread(run.epochs, '.2f'):22}{spread(run.trainings, '.2f'):22}"
                f"{images / statistics.median(run.trainings):9.0f}{run.total:10.1f}{100 * run.top1:9.2f}",
                flush=True,
            )
    report_loop(runs)


def report_loop(runs: dict[str, list[Run]]) -> None:
    """Print how many times as fast ours is, and how far apart the accuracies are."""
    seconds: dict[str, Callable[[Run], float]] = {
        "an epoch": lambda run: statistics.median(run.epochs),
        "training alone": lambda run: statistics.median(run.trainings),
        "in all": lambda run: run.total,
    }
    for what, figure in seconds.items():
        ratios = [figure(theirs) / figure(own) for theirs, own in zip(runs["loop"], runs["ours"], strict=True)]
        print(f"{what}: {spread(ratios, '.2f')} times as fast as the loop, by seed")
    top1 = {name: [100 * run.top1 for run in of_name] for name, of_name in runs.items()}
    for name, figures in top1.items():
        deviation = f"± {statistics.stdev(figures):.2f}" if len(figures) > 1 else "(one run)"
        print(f"{name}: top-1 {statistics.mean(figures):.2f} % {deviation}")
    print(f"ours - loop: {statistics.mean(top1['ours']) - statistics.mean(top1['loop']):+.2f} points")


def find_rows(folder: Path | None, split: Split, part: str) -> list[int]:
    """Return which images of a part of an image folder are those of a split, by pixels and class.

    Of images that are equal to the pixel, as many as the split has are taken.
    """
    if folder is None:
        return []
    wanted = Counter(zip(split.digests.tolist(), split.known_labels.tolist(), strict=True))
    rows = []
    for row, (image, label) in enumerate(ImageFolder(str(folder / part))):
        key = (hashlib.blake2b(np.asarray(image).tobytes(), digest_size=DIGEST_BYTES).digest(), label)
        if wanted[key]:
            wanted[key] -= 1
            rows.append(row)
    if missing := wanted.total():
        sys.exit(
            f"{folder / part} lacks {missing} of {len(split)} images: they must have data.image_size, and DATASET must "
            "have been fetched on this machine, for versions of Pillow decode differently"
        )
    return rows


class Decoded(Images[Any]):
    """Images in memory, as `torchvision.datasets.CIFAR10` keeps and reads them."""

    def __init__(self, split: Split, transform: Callable[[Image.Image], Any]) -> None:
        self.images, self.labels, self.transform = np.array(split.images), split.known_labels.tolist(), transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> tuple[Any, int]:
        return self.transform(Image.fromarray(self.images[row])), self.labels[row]


def images_of_loop(
    split: Split, folder: Path | None, part: str, rows: list[int], steps: list[Callable[[Any], Any]]
) -> Images[Any]:
    """Return the images of a split as the loop reads them, with torchvision's transforms."""
    if folder is None:
        return Decoded(split, transforms.Compose(steps))
    return Subset(ImageFolder(str(folder / part), transforms.Compose(steps)), rows)


def normalization(card: DatasetCard) -> list[Callable[[Any], Any]]:
    """Return torchvision's transforms of an image to evaluate on."""
    return [transforms.ToTensor(), transforms.Normalize(card.normalization.mean, card.normalization.std)]


def augmentation(card: DatasetCard) -> list[Callable[[Any], Any]]:
    """Return torchvision's transforms of an image to train on."""
    flip = [transforms.RandomHorizontalFlip()] if card.horizontal_flip else []
    return [transforms.RandomCrop(card.preprocessing.size, padding=PADDING), *flip, *normalization(card)]


def build(arguments: argparse.Namespace, card: DatasetCard, seed: int) -> nn.Module:
    """Build the network with the same random weights for every way."""
    torch.manual_seed(seed)
    return build_model(arguments.model, arguments.stem, len(card.classes), card.preprocessing.input_shape)


def plain_sgd(model: nn.Module, fused: bool | None = None) -> torch.optim.Optimizer:
    """Return the optimizer of the recipe."""
    return torch.optim.SGD(model.parameters(), lr=LR, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY, fused=fused)


def run_loop(arguments: argparse.Namespace, seed: int, rows: list[list[int]]) -> Run:
    """Train as the loop that people write."""
    start = time.perf_counter()
    dataset, device = open_dataset(arguments.dataset), torch.device(arguments.device)
    held_out, part = getattr(dataset, arguments.held_out), "test" if arguments.held_out == "test" else "train"
    model = build(arguments, dataset.card, seed).to(device)
    options = loader_options(arguments)
    train = images_of_loop(dataset.train, arguments.folder, "train", rows[0], augmentation(dataset.card))
    test = images_of_loop(held_out, arguments.folder, part, rows[1], normalization(dataset.card))
    train_loader, test_loader = DataLoader(train, shuffle=True, **options), DataLoader(test, **options)
    optimizer = plain_sgd(model)
    epochs, trainings, top1 = [], [], 0.0
    for _ in range(arguments.epochs):
        began = time.perf_counter()
        for _ in loop_epoch(train_loader, model, optimizer, device):
            pass
        trainings.append(time.perf_counter() - began)
        top1 = accuracy(test_loader, model, device)
        epochs.append(time.perf_counter() - began)
    return Run(epochs, trainings, time.perf_counter() - start, top1)


def loader_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return batch size and workers, which are forked as is usual: in a spawned process, spawning is the default."""
    workers, context = arguments.workers, "fork" if arguments.workers else None
    return {"batch_size": arguments.batch_size, "num_workers": workers, "multiprocessing_context": context}


def loop_epoch(
    loader: DataLoader[Any], model: nn.Module, optimizer: torch.optim.Optimizer, device: torch.device
) -> Iterator[None]:
    """Train an epoch, and yield after each step."""
    criterion = nn.CrossEntropyLoss()
    model.train()
    running_loss, hits = 0.0, 0
    for images, labels in loader:
        images, labels = images.to(device), labels.to(device)
        optimizer.zero_grad()
        outputs = model(images)
        loss = criterion(outputs, labels)
        loss.backward()
        optimizer.step()
        running_loss += loss.item() * labels.size(0)
        hits += (outputs.argmax(dim=1) == labels).sum().item()
        yield


@torch.no_grad()
def accuracy(loader: DataLoader[Any], model: nn.Module, device: torch.device) -> float:
    """Return top-1, as a fraction."""
    model.eval()
    hits, images = 0, 0
    for batch, labels in loader:
        predicted = model(batch.to(device)).argmax(dim=1)
        hits += (predicted == labels.to(device)).sum().item()
        images += labels.size(0)
    return hits / images


def train_params(batch_size: int, epochs: int = 1, seed: int = 0) -> TrainParams:
    """Return the loop's recipe; all else is as in params.yaml."""
    return TrainParams(
        epochs=epochs,
        batch_size=batch_size,
        lr=LR,
        momentum=MOMENTUM,
        weight_decay=WEIGHT_DECAY,
        decay_norm=True,
        schedule="constant",
        warmup_epochs=None,
        label_smoothing=0.0,
        ema_decay=0.0,
        select="last",
        crop_padding=PADDING,
        horizontal_flip=None,
        cutout=0,
        seed=seed,
        devices=1,
        nodes=1,
        precision=None,
        sync_batchnorm=True,
        channels_last=True,
    )


def run_ours(arguments: argparse.Namespace, seed: int) -> Run:
    """Train as the stage `train` does, checkpoints included."""
    start = time.perf_counter()
    dataset, device = open_dataset(arguments.dataset), torch.device(arguments.device)
    pick_device()  # which determines what kernels may be chosen
    model = build(arguments, dataset.card, seed)
    params = train_params(arguments.batch_size, arguments.epochs, seed)
    recipe = Recipe(dataset.card.normalization, dataset.card.horizontal_flip)
    epochs, trainings, top1 = [], [], 0.0
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = Checkpoints(Path(folder), {}, arguments.checkpoint_every)
        began = time.perf_counter()
        for epoch in fit(
            model, dataset.train, getattr(dataset, arguments.held_out), recipe, params, device, ALONE, checkpoints
        ):
            epochs.append(time.perf_counter() - began)
            trainings.append(len(dataset.train) / (epoch.images_per_second or 1))
            top1 = epoch.val.top1  # type: ignore[union-attr]
            began = time.perf_counter()
        total = time.perf_counter() - start
    return Run(epochs, trainings, total, top1)


# ---------------------------------------------------------------------------------------------------------------- step


def step(arguments: argparse.Namespace) -> None:
    """Steps of both, and the bare step on a batch in memory."""
    rows = find_rows(arguments.folder, open_dataset(arguments.dataset).train, "train")
    timed = in_fresh_process(time_steps, arguments, rows, environment=STAGE)
    images = arguments.batch_size * arguments.steps
    print(
        f"{arguments.model}, batches of {arguments.batch_size}, {arguments.rounds} rounds of {arguments.steps} steps; "
        f"the loop: {arguments.workers} workers, images from {arguments.folder or 'memory'}"
    )
    for name, seconds in timed.items():
        print(
            f"{name:35}{spread([images / one for one in seconds], '.0f'):26} images/s   "
            f"{spread([1000 * one / arguments.steps for one in seconds], '.1f')} ms a step"
        )
    limit = min((name for name in timed if name.startswith("bare")), key=lambda name: statistics.median(timed[name]))
    for other in (limit, "loop"):
        ratios = [theirs / own for theirs, own in zip(timed[other], timed["ours"], strict=True)]
        print(f"ours / {other}: {spread(ratios, '.3f')}, of the same rounds")


def time_steps(arguments: argparse.Namespace, rows: list[int]) -> dict[str, list[float]]:
    """Return the seconds of each round of each way; the order of the ways changes from round to round."""
    dataset, device = open_dataset(arguments.dataset), torch.device(arguments.device)
    pick_device()
    precise, fast = torch.contiguous_format, torch.channels_last
    types = {"fp32": torch.float32} | ({"bf16": torch.bfloat16} if device.type == "cuda" else {})
    ways: dict[str, Iterator[None]] = {}
    for name, dtype in types.items():
        ways[f"bare, {name}, contiguous, fused"] = bare_steps(arguments, dataset, device, precise, dtype, True)
        ways[f"bare, {name}, channels_last, plain"] = bare_steps(arguments, dataset, device, fast, dtype, None)
        ways[f"bare, {name}, channels_last, fused"] = bare_steps(arguments, dataset, device, fast, dtype, True)
    ways["ours"] = our_steps(arguments, dataset, device)
    ways["loop"] = loop_steps(arguments, dataset, device, rows)

    def seconds(name: str, steps: int) -> float:
        torch.use_deterministic_algorithms(name == "ours", warn_only=True)  # as the stage has it; the others have not
        started = time.perf_counter()
        for _ in islice(ways[name], steps):
            pass
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - started

    timed: dict[str, list[float]] = {name: [] for name in ways}
    for name in ways:
        seconds(name, max(5, arguments.steps // 6))  # kernels are chosen, workers started, the CUDA graph recorded
    for turn in range(arguments.rounds):
        for name in list(ways)[turn % len(ways) :] + list(ways)[: turn % len(ways)]:
            timed[name].append(seconds(name, arguments.steps))
    return timed


def bare_steps(
    arguments: argparse.Namespace,
    dataset: Dataset,
    device: torch.device,
    memory_format: torch.memory_format,
    dtype: torch.dtype,
    fused: bool | None,
) -> Iterator[None]:
    """Train on one batch that is ready for the network, and yield after each step."""
    card = dataset.card
    stored = torch.from_numpy(np.array(dataset.train.images[: arguments.batch_size]))
    images = to_input(stored, card.normalization).to(device, memory_format=memory_format)
    labels = torch.from_numpy(np.array(dataset.train.known_labels[: arguments.batch_size])).to(device)
    model = build(arguments, card, 0).to(device, memory_format=memory_format)  # type: ignore[call-overload]
    optimizer = plain_sgd(model, fused)
    model.train()
    while True:
        optimizer.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
            outputs = model(images)
        nn.functional.cross_entropy(outputs.float(), labels).backward()
        optimizer.step()
        yield


def our_steps(arguments: argparse.Namespace, dataset: Dataset, device: torch.device) -> Iterator[None]:
    """Train as `ptqflow.train.loop` does, epoch after epoch, and yield after each step."""
    card, params = dataset.card, train_params(arguments.batch_size)
    recipe = Recipe(card.normalization, card.horizontal_flip)
    trainer = Trainer(build(arguments, card, 0), recipe, params, ALONE, device)
    batches = Batches(dataset.train, params.batch_size, ALONE, device)
    trainer.model.train()
    for epoch in count(1):
        draws = draw_epoch(batches.images, params.crop_padding, recipe.horizontal_flip, params.seed, epoch)
        figures = torch.zeros(len(batches), 2, device=device)
        for number, batch in enumerate(batches.epoch(draws), 1):
            figures[number - 1].copy_(trainer.step(batch, (epoch - 1) * len(batches) + number, params.lr))
            if number % LOOK_EVERY == 0 or number == len(batches):
                figures.double().cpu()
            yield


def loop_steps(
    arguments: argparse.Namespace, dataset: Dataset, device: torch.device, rows: list[int]
) -> Iterator[None]:
    """Train as the loop, epoch after epoch, and yield after each step."""
    images = images_of_loop(dataset.train, arguments.folder, "train", rows, augmentation(dataset.card))
    loader = DataLoader(images, shuffle=True, **loader_options(arguments))
    model = build(arguments, dataset.card, 0).to(device)
    optimizer = plain_sgd(model)
    while True:
        yield from loop_epoch(loader, model, optimizer, device)


# --------------------------------------------------------------------------------------------------------------- input


def input_path(arguments: argparse.Namespace) -> None:
    """From images in memory to augmented, normalized batches, on one core."""
    timed = in_fresh_process(time_inputs, arguments, environment=STAGE)
    print(f"batches of {arguments.batch_size}, {arguments.rounds} rounds of {arguments.images} images, one core")
    for name, seconds in timed.items():
        print(f"{name:45}{spread([arguments.images / one for one in seconds], '.0f')} images/s")
    for own in (name for name in timed if name.startswith("ours")):
        for other in (name for name in timed if name.startswith("torchvision")):
            ratios = [theirs / mine for theirs, mine in zip(timed[other], timed[own], strict=True)]
            print(f"{own} / {other}: {spread(ratios, '.1f')}, of the same rounds")


def time_inputs(arguments: argparse.Namespace) -> dict[str, list[float]]:
    """Return the seconds of each round of each way."""
    if sys.platform == "linux":
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # the thread that reads ahead shares the core
    torch.set_num_threads(1)
    dataset = open_dataset(arguments.dataset)
    arguments.images = min(arguments.images, len(dataset.train))
    transform = transforms.Compose(augmentation(dataset.card))
    some = np.random.default_rng(0).permutation(len(dataset.train))[: arguments.images]
    decoded = [Image.fromarray(dataset.train.images[row]) for row in some]
    in_memory = Split(np.array(dataset.train.images), np.array(dataset.train.labels), dataset.train.digests)

    def torchvision_images() -> None:
        for image in decoded:
            transform(image)

    def torchvision_batches() -> None:
        for start in range(0, len(decoded), arguments.batch_size):
            torch.stack([transform(image) for image in decoded[start : start + arguments.batch_size]])

    ways: dict[str, Callable[[], None]] = {
        "torchvision, image by image": torchvision_images,
        "torchvision, stacked to batches": torchvision_batches,
        "ours, images mapped from the disk": lambda: our_inputs(arguments, dataset.train, dataset.card),
        "ours, images in memory": lambda: our_inputs(arguments, in_memory, dataset.card),
    }
    timed: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(arguments.rounds + 1):
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            timed[name].append(time.perf_counter() - started)
    return {name: seconds[1:] for name, seconds in timed.items()}


def our_inputs(arguments: argparse.Namespace, split: Split, card: DatasetCard) -> None:
    """Make the first batches of an epoch, as `Batches` and `Trainer` do."""
    batches = Batches(split, arguments.batch_size, ALONE, torch.device("cpu"))
    draws = draw_epoch(len(split), PADDING, card.horizontal_flip, 0, 1)
    left = arguments.images
    for batch in batches.epoch(draws):
        images = crop_and_flip(batch.images, batch.draws.places, batch.draws.mirrored, PADDING)
        to_input(images, card.normalization, torch.channels_last)
        left -= len(images)
        if left <= 0:
            break


if __name__ == "__main__":
    main()
