from pathlib import Path

import pytest

from ptqflow.core.errors import ParamsError
from ptqflow.core.params import read_params
from ptqflow.models.params import ModelParams


def read(tmp_path: Path, **changes: str) -> ModelParams:
    keys = {"name": "resnet18", "weights": "null", "stem": "standard", "mean": "null", "std": "null"} | changes
    (tmp_path / "params.yaml").write_text("model:\n" + "".join(f"  {key}: {value}\n" for key, value in keys.items()))
    return read_params("model", ModelParams, tmp_path / "params.yaml")


def test_normalization_is_read_as_numbers_a_channel(tmp_path: Path) -> None:
    params = read(tmp_path, mean="[0.485, 0.456, 0]", std="[0.229, 0.224, 1]")

    assert (params.mean, params.std) == ((0.485, 0.456, 0.0), (0.229, 0.224, 1.0))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mean": "[0.5, 0.5, 0.5]"}, "model.std is null while the other is set"),
        ({"std": "[0.5, 0.5, 0.5]"}, "model.mean is null while the other is set"),
        ({"mean": "[0.5, 0.5, 0.5]", "std": "[0.5, 0, 0.5]"}, "model.std.1 is 0"),
        ({"mean": "[127, 0.5, 0.5]", "std": "[0.5, 0.5, 0.5]"}, "model.mean is [127.0, 0.5, 0.5], beyond the"),
        ({"mean": "[0.5, 0.5, 0.5]", "std": "[0.5, 0.5, 2]"}, "or set model.input_range=255"),
        ({"mean": "[300, 0, 0]", "std": "[1, 1, 1]", "input_range": "255"}, "model.mean.0 is 300"),
        ({"mean": "[0.485, 0.4, 0]", "std": "[0.2, 0.2, 0.2]", "input_range": "255"}, "multiply mean and std by 255"),
        ({"input_range": "100"}, "model.input_range is 100: input should be 1 or 255"),
        ({"preprocessing": "keras"}, "model.preprocessing is 'keras': neither torchvision nor timm"),
        ({"preprocessing": "'timm:'"}, "model.preprocessing is 'timm:': neither"),
        ({"mean": "[0.5]", "std": "[0.5, 0.5]"}, "model.mean has 1 values and model.std 2"),
        ({"mean": "0.5", "std": "0.5"}, "model.mean is 0.5"),
        ({"mean": "[0.5, .nan, 0.5]", "std": "[0.5, 0.5, 0.5]"}, "model.mean.1 is nan"),
        ({"stem": "tiny"}, "model.stem is 'tiny'"),
        ({"name": "null"}, "model.name is None"),
        ({"pretrained": "true"}, "unknown key model.pretrained"),
    ],
)
def test_what_no_network_can_use_is_refused_by_key(tmp_path: Path, changes: dict[str, str], message: str) -> None:
    with pytest.raises(ParamsError) as refusal:
        read(tmp_path, **changes)

    assert message in str(refusal.value)


@pytest.mark.parametrize(
    ("name", "is_user_code"), [("resnet18", False), ("package.module:function", True), ("timm:resnet18", False)]
)
def test_a_colon_makes_the_name_the_users_own_code_but_for_timm(tmp_path: Path, name: str, is_user_code: bool) -> None:
    assert read(tmp_path, name=name).is_user_code is is_user_code
