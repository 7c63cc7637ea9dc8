"""Seconds that calibration takes with our observers and with torch's, in turns, on the pipeline's network and images.

Run it in a repository whose pipeline has run, from its root: `PYTHONPATH=src python benchmarks/calibration.py`.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.ao.quantization import HistogramObserver, MinMaxObserver, QConfigMapping, get_default_qconfig_mapping
from torch.ao.quantization.quantize_fx import prepare_fx
from torch.fx import GraphModule

from ptqflow.data.dataset import open_dataset
from ptqflow.models.fp32 import load_fp32
from ptqflow.quantization.calibration import CalibParams, draw_images, input_batches
from ptqflow.quantization.graph import observer_nodes
from ptqflow.quantization.prepare import EVERYTHING, prepare, without_torch_warnings
from ptqflow.quantization.statistics import collect_statistics


def main() -> None:
    """Print median, minimum and maximum of each way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=640)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    dataset = open_dataset(Path("data/dataset"))
    model, card = load_fp32(Path("models/fp32"))
    params = CalibParams(batches=arguments.images // arguments.batch_size, batch_size=arguments.batch_size, seed=0)
    rows = draw_images(dataset, params).rows
    batches = list(input_batches(dataset.train, rows, card.mean, card.std))
    example = (torch.zeros(1, 3, card.image_size, card.image_size),)

    def stock(observer: type[HistogramObserver | MinMaxObserver]) -> GraphModule:
        mapping = QConfigMapping()
        default = get_default_qconfig_mapping("x86")
        mapping.set_global(default.global_qconfig._replace(activation=observer.with_args(reduce_range=False)))
        with without_torch_warnings():
            return prepare_fx(model, mapping, example)

    def none() -> GraphModule:
        prepared = prepare(model, card.image_size, EVERYTHING)
        for node in observer_nodes(prepared):
            setattr(prepared, str(node.target), torch.nn.Identity())
        return prepared

    ways: dict[str, tuple[Callable[[], GraphModule], Callable[[GraphModule], object]]] = {
        "no observers": (none, lambda prepared: forward(prepared, batches)),
        "torch MinMaxObserver": (lambda: stock(MinMaxObserver), lambda prepared: forward(prepared, batches)),
        "torch HistogramObserver": (lambda: stock(HistogramObserver), lambda prepared: forward(prepared, batches)),
        "ptqflow StatisticsObserver": (
            lambda: prepare(model, card.image_size, EVERYTHING),
            lambda prepared: collect_statistics(model, prepared, batches, rows),
        ),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(arguments.runs + 1):
        for name, (make, collect) in ways.items():
            prepared = make()
            started = time.perf_counter()
            collect(prepared)
            seconds[name].append(time.perf_counter() - started)

    print(
        f"{card.name}, {rows.size} images of {card.image_size}x{card.image_size} in batches of {rows.shape[1]}, ",
        end="",
    )
    print(f"{arguments.threads} threads, {arguments.runs} runs, torch {torch.__version__}")
    stock_median = statistics.median(seconds["torch HistogramObserver"][1:])
    for name, (_, *timed) in seconds.items():
        median = statistics.median(timed)
        spread = f"{min(timed):.3f} to {max(timed):.3f}"
        print(f"{name:28} {median:.3f} s ({spread}), {stock_median / median:.2f}x as fast as HistogramObserver")


def forward(prepared: GraphModule, batches: list[Tensor]) -> None:
    """Run all batches through a prepared network."""
    with torch.inference_mode():
        for batch in batches:
            prepared(batch)


if __name__ == "__main__":
    main()
