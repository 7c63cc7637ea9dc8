from pathlib import Path

import pytest
from exporting import ROOT
from ruamel.yaml import YAML

from ptqflow.core.errors import ParamsError
from ptqflow.core.params import read_params
from ptqflow.export.params import ExportParams


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"onxx": True}, r"unknown key export\.onxx; did you mean onnx\?"),
        ({"onnx": "yes"}, r"export\.onnx is 'yes'"),
        ({"openvino": None}, r"export\.openvino is None|export\.openvino is null"),
        ({"margin": -0.1}, r"export\.margin is -0\.1"),
        ({"margin": 1.5}, r"export\.margin is 1\.5"),
    ],
)
def test_a_bad_param_is_one_line_that_names_it(changes: dict[str, object], message: str) -> None:
    valid = {"onnx": True, "openvino": False, "margin": 0.005}
    YAML().dump({"export": valid | changes}, Path("params.yaml"))
    with pytest.raises(ParamsError, match=message) as caught:
        read_params("export", ExportParams)
    assert "\n" not in str(caught.value)


def test_no_undeclared_package_is_needed_by_the_defaults() -> None:
    params = read_params("export", ExportParams, ROOT / "params.yaml")
    assert params == ExportParams(onnx=True, openvino=False, margin=0.005)
