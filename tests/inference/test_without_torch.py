"""The runtime extra alone, in an environment of its own."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from samples import png, random_pixels, write_folder

import ptqflow

ROOT = Path(__file__).parents[2]
# The dependencies of the package and of its extra `runtime`, with what they need themselves.
NEEDED = (
    *("numpy", "pillow", "onnxruntime", "flatbuffers", "packaging", "protobuf"),
    *("pydantic", "pydantic_core", "annotated-types", "typing-inspection", "typing_extensions"),
)


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the pinned packages of the runtime and this working tree; return its bin/."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    pins = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "requirements.lock").read_text(), re.MULTILINE))
    pip = [folder / "bin/python", "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps"]
    subprocess.run([*pip, *(f"{name}=={pins[name]}" for name in (*NEEDED, "setuptools"))], check=True)
    subprocess.run([*pip, "--no-build-isolation", "--editable", ROOT], check=True)
    subprocess.run([folder / "bin/python", "-m", "pip", "check"], check=True)
    return folder / "bin"


def run(*command: object, status: int = 0) -> "subprocess.CompletedProcess[str]":
    # Without this process's PYTHONPATH: the environment has ptqflow installed.
    result = subprocess.run([*map(str, command)], capture_output=True, text=True, env={}, check=False)
    assert result.returncode == status, result.stderr
    return result


@pytest.mark.slow
def test_a_model_is_used_where_torch_is_not_installed(environment: Path, pristine: Path, tmp_path: Path) -> None:
    assert "No module named 'torch'" in run(environment / "python", "-c", "import torch", status=1).stderr
    photos = write_folder(tmp_path / "photos", {"a.png": png(0, (8, 8)), "b.png": b"no image"})

    predicted = run(environment / "ptqflow", "predict", pristine, photos, "--json", "-k", "6", status=1)
    [line] = predicted.stdout.splitlines()
    here = ptqflow.load(pristine, "onnxruntime")
    expected = dict(zip(here.classes, here(random_pixels(8, 8, 3))[0], strict=True))
    found = {entry["class"]: entry["probability"] for entry in json.loads(line)["top"]}
    assert found == pytest.approx(expected, abs=1e-5)
    [complaint] = predicted.stderr.splitlines()
    assert complaint.startswith(f"ptqflow: {photos}/b.png: not an image that can be read")

    program = "import sys, numpy, ptqflow; print(ptqflow.load(sys.argv[1])(numpy.zeros((9, 9, 3), numpy.uint8)).shape)"
    assert run(environment / "python", "-c", program, pristine).stdout == "(1, 6)\n"

    assert "conv1" in run(environment / "ptqflow", "inspect", pristine).stdout
    verified = run(environment / "ptqflow", "verify", pristine).stdout
    assert "onnxruntime: passed" in verified
    assert "torchscript: not run: the package torch is not installed" in verified
    compared = run(environment / "ptqflow", "compare", "HEAD~1", "HEAD", status=1)
    assert re.fullmatch(r"ptqflow: the package \w+ is not installed: .*\[pipeline\].*\n", compared.stderr)
    asked = run(environment / "ptqflow", "predict", pristine, photos, "--runtime", "torchscript", status=1)
    assert asked.stderr.startswith("ptqflow: torchscript cannot run the model here: the package torch is not installed")
