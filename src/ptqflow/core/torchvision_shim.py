"""Make `import torchvision` work beside a torch that its compiled operators were not built for."""

import importlib.util
from functools import cache
from pathlib import Path


@cache
def ensure_torchvision_imports() -> object:
    """Declare torchvision's operators where its compiled library cannot be loaded; call before `import torchvision`.

    PyPI's torchvision links to CUDA; beside a CPU-only torch its library does not load and `import torchvision` fails
    on the missing operator `nms` (pytorch/vision#9077, #9085). No classifier and no transform calls these operators:
    that they are declared is enough.

    Returns:
        The declaration, which holds as long as the object lives: the cache of this function keeps it.
    """
    import torch

    package = importlib.util.find_spec("torchvision")
    if package is None or package.origin is None:
        raise ModuleNotFoundError("torchvision is not installed")
    try:
        for library in Path(package.origin).parent.glob("_C*.so"):
            torch.ops.load_library(str(library))
    except OSError:
        declaration = torch.library.Library("torchvision", "DEF")
        for operator in ("nms", "qnms"):
            declaration.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        return declaration
    return None
