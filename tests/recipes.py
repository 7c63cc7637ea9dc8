"""Recipes for tests."""

from ptqflow.train.params import TrainParams

RECIPE = {
    "epochs": 3,
    "batch_size": 8,
    "lr": 0.05,
    "momentum": 0.9,
    "weight_decay": 0.001,
    "decay_norm": True,
    "schedule": "constant",
    "warmup_epochs": None,
    "label_smoothing": 0.0,
    "ema_decay": 0.0,
    "select": "last",
    "crop_padding": 2,
    "horizontal_flip": None,
    "cutout": 0,
    "seed": 4,
    "devices": 1,
    "nodes": 1,
    "precision": None,
    "sync_batchnorm": True,
    "channels_last": True,
}


def params(**changes: float | bool | str | None) -> TrainParams:
    """Return the recipe with some values changed."""
    return TrainParams.model_validate(RECIPE | changes)
