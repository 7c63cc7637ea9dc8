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

from ptqflow.runtime.manifest import MANIFEST_FILE, describe_file

pytestmark = pytest.mark.faults


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
        file = export / random_.choice(sorted(manifest["files"]))
        file.write_bytes(mutate(file.read_bytes(), random_))
        manifest["files"][file.name] = describe_file(file).model_dump()
    (export / MANIFEST_FILE).write_text(json.dumps(manifest))
    (tmp_path / "photo.png").write_bytes(png(0))
    runtime = random_.choice(["onnxruntime", "openvino", "torchscript"])
    command = random_.choices(
        [["predict", export, "photo.png", "--runtime", runtime], ["inspect", export], ["verify", export]], [5, 4, 1]
    )[0]
    result = subprocess.run(
        [sys.executable, "-m", "ptqflow.cli", *map(str, command)],
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        timeout=120,
        check=False,
    )
    printed = (result.stdout + result.stderr).decode()
    assert result.returncode in (0, 1), printed
    assert "Traceback" not in printed
    assert all(line.isprintable() for line in printed.split("\n"))
    if result.returncode:
        assert result.stderr.startswith(b"ptqflow: ")
    record_property("outcome", "one line" if result.returncode else "answered")
