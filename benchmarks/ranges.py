"""Accuracy and fidelity of every engine and range method, from one calibration: a table in Markdown.

Run it in a repository whose pipeline has run, from its root: `PYTHONPATH=src python benchmarks/ranges.py --split val`.
It reads data/dataset, models/fp32 and models/statistics; `-S` changes params, such as `-S weight.method=mse`.
"""

import argparse
import platform
import time
from pathlib import Path
from typing import Any, get_args

import torch
from ruamel.yaml import YAML
from tqdm import tqdm

from ptqflow.calib.statistics import load_statistics
from ptqflow.convert.params import ConvertParams
from ptqflow.convert.quantize import quantize
from ptqflow.convert.ranges import Method
from ptqflow.core.engines import available_engines
from ptqflow.core.params import read_params
from ptqflow.data.accuracy import predictions
from ptqflow.data.dataset import open_dataset
from ptqflow.data.fidelity import sqnr_db
from ptqflow.evaluate.metrics import agreement
from ptqflow.evaluate.significance import count_pairs, mcnemar
from ptqflow.models.fp32 import load_fp32
from ptqflow.models.logits import compute_logits

COLUMNS = ("engine", "method", "top-1 %", "agreement %", "SQNR dB", "only FP32 right", "only INT8 right", "p", "s")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--split", choices=("val", "test"), default="val")
    parser.add_argument("--engines", nargs="+", default=available_engines())
    parser.add_argument("--methods", nargs="+", default=get_args(Method))
    parser.add_argument("-S", "--set", action="append", default=[], metavar="KEY=VALUE", help="a key of `convert`")
    arguments = parser.parse_args()

    dataset = open_dataset(Path("data/dataset"))
    split = getattr(dataset, arguments.split)
    fp32 = load_fp32(Path("models/fp32"))
    statistics = load_statistics(Path("models/statistics"), fp32.card)
    reference = compute_logits(fp32.module, split, fp32.card.normalization, 256, "fp32")
    right = predictions(reference) == split.labels
    print(
        f"{fp32.card.name}, {len(split)} images of {arguments.split}, FP32 top-1 {100 * right.mean():.2f} %, ", end=""
    )
    print(f"calibrated on {statistics.rows.size} images, {' '.join(arguments.set)}")
    print(f"torch {torch.__version__}, {platform.processor() or platform.machine()}\n")
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
    for engine in arguments.engines:
        for method in arguments.methods:
            started = time.perf_counter()
            params = with_settings([f"engine={engine}", f"activation.method={method}", *arguments.set])
            int8 = quantize(fp32.module, fp32.card, params, statistics, dataset.train).converted
            seconds = time.perf_counter() - started
            logits = compute_logits(int8, split, fp32.card.normalization, 256, "int8")
            pairs = count_pairs(right, predictions(logits) == split.labels)
            figures = (f"{100 * (right.mean() - pairs.drop):.2f}", f"{100 * agreement(logits, reference):.2f}")
            lost, won = pairs.only_reference_right, pairs.only_candidate_right
            tqdm.write(
                f"| {engine} | {method} | {' | '.join(figures)} | {sqnr_db(logits, reference):.1f} "
                f"| {lost} | {won} | {mcnemar(pairs):.2f} | {seconds:.1f} |"
            )


def with_settings(settings: list[str]) -> ConvertParams:
    """Return the `convert` section of params.yaml with some keys set."""
    values: dict[str, Any] = read_params("convert", ConvertParams).model_dump()
    for setting in settings:
        path, _, text = setting.partition("=")
        *sections, key = path.split(".")
        section = values
        for name in sections:
            section = section[name]
        section[key] = YAML(typ="safe").load(text)
    return ConvertParams.model_validate(values)


if __name__ == "__main__":
    main()
