"""Train the FP32 network, or keep the user's weights unchanged."""

from ptqflow.core.launch import run_in_ranks
from ptqflow.core.paths import CHECKPOINTS, DATASET, FP32, LIVE, NETWORK
from ptqflow.core.stage import run


def main() -> None:
    """Write models/fp32 and, after every epoch, metrics/plots/train.csv."""
    from ptqflow.core.params import read_params
    from ptqflow.core.run_params import RunParams
    from ptqflow.train.params import TrainParams

    params, run_params = read_params("train", TrainParams), read_params("run", RunParams)
    if params.epochs and run_in_ranks(params.devices, params.nodes):
        return

    from ptqflow.core.artifacts import read_card
    from ptqflow.core.inputs import WEIGHTS, given
    from ptqflow.core.ranks import joined
    from ptqflow.data.dataset import open_dataset
    from ptqflow.data.preprocessing import first_images
    from ptqflow.models.fp32 import ModelCard, save_fp32
    from ptqflow.train.checkpoints import Checkpoints
    from ptqflow.train.live import live_log
    from ptqflow.train.loop import fit, pick_device
    from ptqflow.train.record import record
    from ptqflow.train.setup import fingerprint, prepare, require_equal_inputs

    dataset, weights = open_dataset(DATASET), given(WEIGHTS)
    card = read_card(NETWORK, ModelCard)
    start = prepare(card, params, dataset.card, weights)
    model, device = start.network.model, pick_device()
    with joined(run_params.threads, device) as ranks, live_log(LIVE, ranks, start.network.note) as log:
        inputs = require_equal_inputs(ranks, fingerprint(card, params, dataset.card, weights))
        checkpoints = Checkpoints(CHECKPOINTS, inputs, run_params.checkpoint_every)
        epochs = fit(model, dataset.train, dataset.val, start.recipe, params, device, ranks, checkpoints)
        record(epochs, log, ranks)
    if ranks.rank == 0:
        save_fp32(FP32, model, card, first_images(dataset.val, card.normalization))
        checkpoints.remove()


if __name__ == "__main__":
    run("train", main)
