"""Fidelity by the number of calibration images, with the settings of each folder: does more of them ever harm?

    PYTHONPATH=src python benchmarks/calibration_size.py ../resnet ../vit

Each folder is a clone in which the pipeline has run for one network, by default the current one. For each number, the
images are drawn, the statistics collected, the ranges chosen and the network converted again; a larger draw holds the
smaller ones.
"""

import argparse
import time
from pathlib import Path

import torch
from fidelity import HEADS, evenly, fidelity_cells
from folders import run_in_each

from ptqflow.calib.collection import collect_statistics, observe
from ptqflow.calib.params import CalibParams
from ptqflow.calib.sampling import draw_images, input_batches
from ptqflow.convert.conversion import convert_network
from ptqflow.convert.params import ConvertParams
from ptqflow.core.params import read_params
from ptqflow.core.paths import DATASET, FP32
from ptqflow.data.dataset import Dataset, open_dataset
from ptqflow.data.fidelity import median_sqnr_db
from ptqflow.models.fp32 import Fp32Model, load_fp32
from ptqflow.models.logits import compute_logits

COLUMNS = ("network", "calibration images", *HEADS, "method", "tensors with another", "s")
BATCH = 256


def main() -> None:
    """Print a table, and for each network how many decibels of the median a larger number costs at most."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path, default=[Path()], metavar="FOLDER")
    parser.add_argument("--sizes", type=int, nargs="+", default=[32, 160, 320, 640, 1280])
    parser.add_argument("--images", type=int, default=1000, help="test images, evenly spaced")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}", flush=True)
    largest = dict(run_in_each(arguments.folders, measure_sizes, arguments))
    print()
    for network, loss in largest.items():
        print(f"{network}: more calibration images cost {loss:.2f} dB of the median at most")


def measure_sizes(arguments: argparse.Namespace) -> tuple[str, float]:
    """Print the rows of one network; return its name and the largest loss against any smaller number."""
    torch.set_num_threads(arguments.threads)
    dataset, fp32 = open_dataset(DATASET), load_fp32(FP32)
    normalization = fp32.card.normalization
    test = evenly(dataset.test, arguments.images)
    reference = compute_logits(fp32.module, test, normalization, BATCH, "fp32").numpy()
    best = loss = 0.0
    for size in sorted(arguments.sizes):
        started = time.perf_counter()
        params, network = quantize_on(size, fp32, dataset)
        seconds = time.perf_counter() - started
        logits = compute_logits(network, test, normalization, BATCH, "int8").numpy()
        median = median_sqnr_db(logits, reference)
        best, loss = max(best, median), max(loss, best - median)
        cells = [fp32.card.name, str(size), *fidelity_cells(logits, reference), params.activation.method]
        print(f"| {' | '.join(cells)} | {len(params.overrides)} | {seconds:.0f} |", flush=True)
    return fp32.card.name, loss


def quantize_on(size: int, fp32: Fp32Model, dataset: Dataset) -> tuple[ConvertParams, torch.nn.Module]:
    """Do what the stages calib and convert do on `size` images; return the methods taken and the INT8 network."""
    calib, card = read_params("calib", CalibParams), fp32.card
    rows = draw_images(dataset, size // calib.batch_size, calib.batch_size, calib.seed).rows
    batches = input_batches(dataset.train, rows, card.normalization)
    statistics = collect_statistics(observe(fp32.module, card.input_shape), batches, rows)
    found = convert_network(fp32, read_params("convert", ConvertParams), statistics, dataset, lambda _: None)
    return found.search.params, found.quantized.converted


if __name__ == "__main__":
    main()
