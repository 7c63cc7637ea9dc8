import json
from pathlib import Path

import pytest
from recipes import params

from ptqflow.core.errors import ParamsError
from ptqflow.core.params import read_params
from ptqflow.train.params import TrainParams


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("epochs", "-1"),
        ("batch_size", "1"),
        ("lr", "0"),
        ("lr", ".inf"),
        ("momentum", "1"),
        ("weight_decay", "-0.1"),
        ("crop_padding", "257"),
        ("horizontal_flip", "sometimes"),
        ("cutout", "-1"),
        ("cutout", "513"),
        ("seed", "0.5"),
        ("seed", str(2**64)),
        ("schedule", "cosine"),
        ("warmup_epochs", "-1"),
        ("label_smoothing", "1"),
        ("ema_decay", "1.0"),
        ("select", "first"),
        ("devices", "0"),
        ("nodes", "0"),
        ("precision", "fp16"),
    ],
)
def test_a_value_that_trains_nothing_is_refused_by_key(tmp_path: Path, key: str, value: str) -> None:
    lines = [f"  {name}: {json.dumps(given)}" for name, given in params().model_dump().items() if name != key]
    (tmp_path / "params.yaml").write_text("\n".join(["train:", *lines, f"  {key}: {value}"]))

    with pytest.raises(ParamsError, match=rf"train\.{key} is "):
        read_params("train", TrainParams, tmp_path / "params.yaml")


@pytest.mark.parametrize(("devices", "nodes", "fewest"), [(1, 1, 2), (4, 1, 8), (2, 2, 8), (1, 3, 6)])
def test_every_device_needs_two_images_of_a_batch(tmp_path: Path, devices: int, nodes: int, fewest: int) -> None:
    values = params(batch_size=fewest, devices=devices, nodes=nodes).model_dump()
    (tmp_path / "params.yaml").write_text(json.dumps({"train": values}))
    assert read_params("train", TrainParams, tmp_path / "params.yaml").batch_size == fewest

    (tmp_path / "params.yaml").write_text(json.dumps({"train": values | {"batch_size": fewest - 1}}))
    with pytest.raises(ParamsError, match=rf"train\.batch_size is {fewest - 1}: "):
        read_params("train", TrainParams, tmp_path / "params.yaml")


def test_a_batch_of_too_few_images_is_refused_with_the_fewest(tmp_path: Path) -> None:
    values = params().model_dump() | {"batch_size": 7, "devices": 2, "nodes": 2}
    (tmp_path / "params.yaml").write_text(json.dumps({"train": values}))

    line = r"train\.batch_size is 7: each of 4 devices needs 2 images, so it must be 8 at least$"
    with pytest.raises(ParamsError, match=line):
        read_params("train", TrainParams, tmp_path / "params.yaml")


def test_a_warm_up_longer_than_the_training_is_refused(tmp_path: Path) -> None:
    values = params().model_dump() | {"epochs": 2, "warmup_epochs": 2.5}
    (tmp_path / "params.yaml").write_text(json.dumps({"train": values}))

    with pytest.raises(ParamsError, match=r"train\.warmup_epochs is 2\.5, and train\.epochs 2: it may not be more"):
        read_params("train", TrainParams, tmp_path / "params.yaml")
