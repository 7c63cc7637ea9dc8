"""An INT8 network as TorchScript."""

import io
import re
import zipfile

import torch
from torch import nn

from ptqflow.fx.prepare import without_torch_warnings


def to_torchscript(model: nn.Module, image_size: int) -> bytes:
    """Trace and freeze a network that takes any number of images; equal bytes each time.

    The archive has a data.pkl, as every TorchScript file: it is in TorchScript's restricted format, which names no
    Python code, and torch.jit.load runs none.
    """
    buffer = io.BytesIO()
    with without_torch_warnings(), torch.inference_mode():
        traced = torch.jit.trace(model.eval(), torch.zeros(2, 3, image_size, image_size), check_trace=False)
        torch.jit.save(torch.jit.freeze(traced), buffer)
    return _without_chance(buffer)


def _without_chance(archive: io.BytesIO) -> bytes:
    """Leave out where the code lay on this machine, which is debug information, a hash of it, and a counter.

    The name of the network's class, the only one that freezing leaves, counts the classes that the process has made. It
    ends in a line break in data.pkl, so that another length does no harm.
    """
    stripped = io.BytesIO()
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(stripped, "w") as new:
        for name in old.namelist():
            if not name.endswith((".debug_pkl", "/.data/serialization_id")):
                content = re.sub(rb"\.___torch_mangle_\d+", b"", old.read(name))
                new.writestr(zipfile.ZipInfo(re.sub(r"/___torch_mangle_\d+", "", name)), content)
    return stripped.getvalue()
