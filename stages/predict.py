"""Compute the logits of one network for the test images: `predict.py fp32`, `int8_uncalibrated` or `int8`."""

import sys
from typing import cast

from ptqflow.core.launch import run_in_ranks
from ptqflow.core.paths import DATASET, LOGITS
from ptqflow.core.stage import run


def main() -> str | None:
    """Write data/logits/<network>."""
    from ptqflow.core.params import read_params
    from ptqflow.core.run_params import RunParams

    params = read_params("run", RunParams)
    if run_in_ranks(params.processes):
        return None

    from ptqflow.core.ranks import joined
    from ptqflow.data.dataset import open_dataset
    from ptqflow.data.logits import NetworkName, save_logits
    from ptqflow.models.logits import compute_logits
    from ptqflow.predict.network import open_network

    dataset, network = open_dataset(DATASET), open_network(cast(NetworkName, sys.argv[1]))
    normalization, batch_size = network.card.normalization, params.batch_size
    with joined(params.threads) as ranks:
        logits = compute_logits(network.module, dataset.test, normalization, batch_size, network.name, ranks)
    if ranks.rank:
        return None
    save_logits(LOGITS / network.name, logits.numpy(), network.describe_logits(dataset.card, batch_size))
    return f"{network.name}, {len(logits):,} test images"


if __name__ == "__main__":
    run("predict", main)
