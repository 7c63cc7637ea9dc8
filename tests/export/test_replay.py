import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from exporting import Exported

from ptqflow.data.preprocessing import to_input
from ptqflow.export.qdq import step_outputs
from ptqflow.export.replay import main
from ptqflow.runtime.manifest import INT8_ONNX, INT8_TORCHSCRIPT


def arguments(exported: Exported, runtime: str, name: str, output: Path, *options: str) -> list[str]:
    given = (runtime, exported.directory, name, exported.dataset_directory, 10, 4, output, *options)
    return [str(argument) for argument in given]


def test_the_logits_of_the_first_images_are_written(exported: Exported, tmp_path: Path) -> None:
    output = tmp_path / "logits.npy"
    main(arguments(exported, "torchscript", INT8_TORCHSCRIPT, output))
    assert np.array_equal(np.load(output), exported.logits.int8[:10])


def test_with_steps_the_outputs_of_all_quantized_steps_are_written(exported: Exported, tmp_path: Path) -> None:
    output = tmp_path / "steps.npz"
    main(arguments(exported, "onnxruntime", INT8_ONNX, output, "steps"))
    found = np.load(output)
    card = exported.networks.card
    images = to_input(torch.from_numpy(np.array(exported.dataset.test.images[:10])), card.normalization)
    expected = step_outputs(exported.networks.int8.module, images)
    assert set(expected) <= set(found.files)
    for name, step in expected.items():
        assert (np.abs(found[name] - step.values) > 1.5 * step.rounding.scale).mean() < 0.01, name


@pytest.mark.slow
def test_onnx_files_run_without_torch(exported: Exported, tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('torch is not to be imported')\n")
    output = tmp_path / "logits.npy"
    program = "import sys; from ptqflow.export.replay import main; main(sys.argv[1:])"
    command = [sys.executable, "-c", program, *arguments(exported, "onnxruntime", INT8_ONNX, output)]
    path = f"{tmp_path}:{os.environ['PYTHONPATH']}"
    subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, check=True)
    assert np.load(output).shape == (10, 6)
