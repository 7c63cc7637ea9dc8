"""Seconds that calibration takes with our observers and with torch's, in turns, on the pipeline's network and images.

Run it in a repository whose pipeline has run, from its root: `PYTHONPATH=src python benchmarks/calibration.py`. On one
thread it counts CPU seconds, which other processes do not lengthen.
"""

import argparse
import gc
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.ao.quantization import HistogramObserver, MinMaxObserver, QConfigMapping, get_default_qconfig_mapping
from torch.ao.quantization.quantize_fx import prepare_fx
from torch.fx import GraphModule

from ptqflow.calib.collection import collect_statistics, observe
from ptqflow.calib.sampling import draw_images, input_batches
from ptqflow.core.preprocessing import in_pixels
from ptqflow.data.dataset import open_dataset
from ptqflow.fx.graph import observer_nodes
from ptqflow.fx.prepare import without_torch_warnings
from ptqflow.models.fp32 import load_fp32


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
    fp32 = load_fp32(Path("models/fp32"))
    rows = draw_images(dataset, arguments.images // arguments.batch_size, arguments.batch_size, seed=0).rows
    batches = list(input_batches(dataset.train, rows, fp32.card.normalization))
    example = (torch.zeros(1, *fp32.card.input_shape),)

    def stock(observer: type[HistogramObserver | MinMaxObserver]) -> GraphModule:
        mapping = QConfigMapping()
        default = get_default_qconfig_mapping("x86").global_qconfig
        assert default
        mapping.set_global(default._replace(activation=observer.with_args(reduce_range=False)))
        with without_torch_warnings():
            return prepare_fx(fp32.module, mapping, example)

    def none() -> GraphModule:
        prepared = observe(fp32.module, fp32.card.input_shape).prepared
        for node in observer_nodes(prepared):
            setattr(prepared, str(node.target), torch.nn.Identity())
        return prepared

    def forward_together(prepared: GraphModule) -> None:
        images = torch.cat(batches).contiguous(memory_format=torch.channels_last)
        forward(prepared, list(images.split(256)))  # as we do it at 32x32

    ways: dict[str, tuple[Callable[[], Any], Callable[[Any], object]]] = {
        "no observers": (none, lambda prepared: forward(prepared, batches)),
        "no observers, 256 images": (none, forward_together),
        "torch MinMaxObserver": (lambda: stock(MinMaxObserver), lambda prepared: forward(prepared, batches)),
        "torch HistogramObserver": (lambda: stock(HistogramObserver), lambda prepared: forward(prepared, batches)),
        "ptqflow StatisticsObserver": (
            lambda: observe(fp32.module, fp32.card.input_shape),
            lambda observed: collect_statistics(observed, batches, rows),
        ),
    }
    timed: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(arguments.runs + 1):
        for name, way in ways.items():
            timed[name].append(seconds(*way, time.process_time if arguments.threads == 1 else time.perf_counter))

    print(
        f"{fp32.card.name}, {rows.size} images of {in_pixels(fp32.card.preprocessing.size)} "
        f"in batches of {rows.shape[1]}, ",
        end="",
    )
    print(f"{arguments.threads} threads, {arguments.runs} runs, torch {torch.__version__}")
    stock_median = statistics.median(calibration for _, calibration in timed["torch HistogramObserver"][1:])
    for name, (_, *runs) in timed.items():
        preparations, calibrations = zip(*runs, strict=True)
        median = statistics.median(calibrations)
        print(
            f"{name:28} prepare {statistics.median(preparations):.3f} s, calibrate {median:.3f} s "
            f"({min(calibrations):.3f} to {max(calibrations):.3f}), {stock_median / median:.2f} times as fast"
        )


def seconds(
    prepare: Callable[[], Any], calibrate: Callable[[Any], object], clock: Callable[[], float]
) -> tuple[float, float]:
    """Time both steps."""
    gc.collect()
    gc.disable()  # as timeit does: it would search the networks of the runs before
    started = clock()
    prepared = prepare()
    ready = clock()
    calibrate(prepared)
    ended = clock()
    gc.enable()
    return ready - started, ended - ready


def forward(prepared: GraphModule, batches: list[Tensor]) -> None:
    """Run all batches through a prepared network."""
    with torch.inference_mode():
        for batch in batches:
            prepared(batch)


if __name__ == "__main__":
    main()
