"""Exported models with changed keys or bytes, all hashes made right again."""

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mutation import hostile, mutate
from repository import ROOT
from samples import png

from ptqflow.runtime.manifest import INT8_ONNX, MANIFEST_FILE, describe_file

pytestmark = pytest.mark.faults
COST = 5


def places(value: Any) -> list[tuple[Any, Any]]:
    """Return each container of JSON with each of its keys."""
    if not isinstance(value, dict | list):
        return []
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    return [(value, key) for key in keys] + [place for key in keys for place in places(value[key])]


def test_mutated_exports(
    random_: random.Random, record_property: Callable[[str, object], None], export: Path, tmp_path: Path
) -> None:
    manifest = json.loads((export / MANIFEST_FILE).read_text())
    if random_.random() < 0.5:
        container, key = random_.choice(places(manifest))
        container[key] = hostile(random_)
    else:
        file = export / INT8_ONNX
        file.write_bytes(mutate(file.read_bytes(), random_))
        manifest["files"][INT8_ONNX] = describe_file(file).model_dump()
    (export / MANIFEST_FILE).write_text(json.dumps(manifest))
    (tmp_path / "photo.png").write_bytes(png(0))
    command = random_.choice([["predict", export, "photo.png", "--runtime", "onnxruntime"], ["inspect", export]])
    result = subprocess.run(
        [sys.executable, "-m", "ptqflow.cli", *map(str, command)],
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode in (0, 1), result.stderr
    assert "Traceback" not in result.stderr
    assert all(line.isprintable() for line in (result.stdout + result.stderr).split("\n"))
    if result.returncode:
        assert result.stderr.startswith("ptqflow: ")
    record_property("outcome", "one line" if result.returncode else "answered")
