"""Export of an INT8 network as TorchScript."""

import io
import re
import zipfile

import torch
from torch import nn

from ptqflow.core.normalization import InputShape
from ptqflow.fx.prepare import without_torch_warnings


def to_torchscript(model: nn.Module, input_shape: InputShape) -> bytes:
    """Return a network, traced and frozen, as a TorchScript file for any number of images.

    Bytes are equal for equal networks. As every TorchScript file it is a program, to be treated as code of its author.
    """
    buffer = io.BytesIO()
    with without_torch_warnings(), torch.inference_mode():
        traced = torch.jit.trace(model.eval(), torch.zeros(2, *input_shape), check_trace=False)
        torch.jit.save(torch.jit.freeze(traced), buffer)
    return _reproducible(buffer)


def _reproducible(archive: io.BytesIO) -> bytes:
    """Return an archive without debug information, which holds paths of this machine, its hash, and a counter.

    The counter, of the classes that the process has made, is part of the name of the network's class, the only one that
    is left after freezing. In data.pkl the name ends in a line break, so that it may be shorter.
    """
    stripped = io.BytesIO()
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(stripped, "w") as new:
        for name in old.namelist():
            if not name.endswith((".debug_pkl", "/.data/serialization_id")):
                content = re.sub(rb"\.___torch_mangle_\d+", b"", old.read(name))
                new.writestr(zipfile.ZipInfo(re.sub(r"/___torch_mangle_\d+", "", name)), content)
    return stripped.getvalue()
