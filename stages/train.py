"""Train the FP32 network, or keep the user's weights unchanged."""

from ptqflow.core.launch import run_in_ranks
from ptqflow.core.paths import CHECKPOINTS, DATASET, FP32, LIVE
from ptqflow.core.stage import run


def main() -> None:
    """Write models/fp32, metrics/train.json and metrics/plots/train.csv; the last two after every epoch."""
    from ptqflow.core.params import read_params
    from ptqflow.core.run_params import RunParams
    from ptqflow.models.params import ModelParams
    from ptqflow.train.params import TrainParams

    model_params, params = read_params("model", ModelParams), read_params("train", TrainParams)
    run_params = read_params("run", RunParams)
    if params.epochs and run_in_ranks(params.devices, params.nodes):
        return

    from ptqflow.core.artifacts import write_metrics
    from ptqflow.core.figures import EPOCHS
    from ptqflow.core.inputs import WEIGHTS, given
    from ptqflow.core.ranks import joined
    from ptqflow.data.dataset import open_dataset
    from ptqflow.data.preprocessing import first_images
    from ptqflow.models.fp32 import save_fp32
    from ptqflow.train.checkpoints import Checkpoints, or_warn
    from ptqflow.train.live import live_log
    from ptqflow.train.loop import Epoch, fit, pick_device, selected
    from ptqflow.train.setup import (
        build_network,
        describe_model,
        fingerprint,
        require_equal_inputs,
        resolve_recipe,
    )

    dataset = open_dataset(DATASET)
    card = describe_model(model_params, dataset.card)
    weights = given(WEIGHTS)
    start = build_network(card, weights, params)
    recipe = resolve_recipe(card, params, dataset.card)
    device = pick_device()
    epochs: list[Epoch] = []

    def write_figures() -> None:
        EPOCHS.write(epoch.as_row() for epoch in epochs)
        kept = selected(epochs, params).as_row()
        write_metrics("train", kept.model_dump(include={"epoch", "val_loss", "val_top1"}))

    with joined(run_params.threads, device) as ranks, live_log(LIVE, ranks) as log:
        if start.note and not ranks.rank:
            print(start.note, flush=True)
        inputs = fingerprint(card, params, dataset.card, weights)
        require_equal_inputs(ranks, inputs)
        checkpoints = Checkpoints(CHECKPOINTS, inputs, run_params.checkpoint_every)
        for epoch in fit(start.model, dataset.train, dataset.val, recipe, params, device, ranks, checkpoints):
            epochs.append(epoch)
            if ranks.rank:
                continue
            with or_warn(f"figures of epoch {epoch.epoch} not written"):
                log(epoch)
                write_figures()
    if ranks.rank == 0:
        write_figures()  # once more: the disk may have room again, else the stage fails here
        save_fp32(FP32, start.model, card, first_images(dataset.val, card.normalization))
        checkpoints.remove()


if __name__ == "__main__":
    run("train", main)
