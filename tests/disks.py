"""Real file systems of a given size."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


def mounted(disk: Path, size: str) -> Iterator[Path]:
    """Yield a new folder that is a file system of its own, of a size as `mount` takes it, such as `1m`."""
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", disk]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a file system needs root, or `unshare --map-root-user --mount` before the command")
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)
