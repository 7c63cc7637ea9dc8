"""Train the FP32 network, or take the user's weights as they are."""

from pathlib import Path

from ptqflow.stage import run

DATASET_DIR = Path("data/dataset")
FP32_DIR = Path("models/fp32")


def main() -> None:
    """Write models/fp32, metrics/train.json and the figures of every epoch in metrics/plots/train.csv."""
    from ptqflow.models.params import ModelParams
    from ptqflow.params import read_params

    model_params = read_params("model", ModelParams)

    import torch

    from ptqflow.artifacts import PLOTS_DIR, write_csv, write_metrics
    from ptqflow.data.dataset import open_dataset
    from ptqflow.inputs import WEIGHTS, given
    from ptqflow.models.architecture import build_model
    from ptqflow.models.checkpoint import load_checkpoint
    from ptqflow.models.fp32 import save_fp32
    from ptqflow.train import Recipe, TrainParams, describe_model, fit, pick_device, require_start

    params = read_params("train", TrainParams)
    dataset = open_dataset(DATASET_DIR)
    card = describe_model(model_params, dataset.card)
    torch.manual_seed(params.seed)
    model = build_model(card.name, card.stem, len(card.classes), card.image_size)
    weights = given(WEIGHTS)
    head_is_new = weights is not None and load_checkpoint(model, weights, len(card.classes))
    require_start(params.epochs, weights is not None, head_is_new)

    flip = dataset.card.horizontal_flip if params.horizontal_flip is None else params.horizontal_flip
    recipe = Recipe(card.mean, card.std, flip)
    rows = []
    for epoch in fit(model, dataset.train, dataset.val, recipe, params, pick_device()):
        print(epoch, flush=True)
        rows.append(epoch.as_row())
    save_fp32(FP32_DIR, model, card)
    write_csv(PLOTS_DIR / "train.csv", rows)
    write_metrics("train", rows[-1])


if __name__ == "__main__":
    run("train", main)
