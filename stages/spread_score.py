"""Convert with the statistics of one draw at one size and evaluate on val: `spread_score.py SEED SIZE`."""

import sys

from ptqflow.core.paths import DATASET, FP32, SPREAD, SPREAD_SCORES
from ptqflow.core.stage import run


def main() -> None:
    """Write models/spread_scores/SEED-SIZE.json."""
    from torch import Tensor, nn

    from ptqflow.calib.statistics import load_statistics
    from ptqflow.convert.method_search import search_methods
    from ptqflow.convert.params import ConvertParams
    from ptqflow.convert.quantize import quantize
    from ptqflow.core.artifacts import write_json
    from ptqflow.core.params import read_params
    from ptqflow.core.run_params import RunParams
    from ptqflow.data.accuracy import evaluate, predictions
    from ptqflow.data.dataset import open_dataset
    from ptqflow.models.fp32 import load_fp32
    from ptqflow.models.logits import compute_logits

    batch_size = read_params("run", RunParams).batch_size
    seed, size = sys.argv[1:]
    dataset = open_dataset(DATASET)
    fp32 = load_fp32(FP32)
    statistics = load_statistics(SPREAD / seed / size, fp32.card)
    params = read_params("convert", ConvertParams)
    params = search_methods(fp32, params, statistics, dataset.train, lambda line: None).params
    int8 = quantize(fp32.module, fp32.card, params, statistics, dataset.train).converted

    def on_val(network: nn.Module, label: str) -> Tensor:
        return compute_logits(network, dataset.val, fp32.card.normalization, batch_size, label)

    logits, labels = on_val(int8, "val"), dataset.val.labels
    if labels is None:
        score = {"agreement": float((predictions(logits) == predictions(on_val(fp32.module, "fp32"))).mean())}
    else:
        score = evaluate(logits, labels).as_metrics()
    write_json(SPREAD_SCORES / f"{seed}-{size}.json", score)


if __name__ == "__main__":
    run("spread_score", main)
