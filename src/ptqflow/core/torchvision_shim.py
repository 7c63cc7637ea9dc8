"""Import torchvision quickly, and also beside a torch that its compiled operators were not built for."""

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

_COMPILER = "torch._dynamo.utils"


@cache
def ensure_torchvision_imports() -> object:
    """Import torchvision; where its compiled library cannot be loaded, declare its operators first.

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
    declaration = None
    try:
        for library in Path(package.origin).parent.glob("_C*.so"):
            torch.ops.load_library(str(library))
    except OSError:
        declaration = torch.library.Library("torchvision", "DEF")
        for operator in ("nms", "qnms"):
            declaration.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    with _compiler_imported_on_demand():
        import torchvision  # noqa: F401
    return declaration


@contextmanager
def _compiler_imported_on_demand() -> Iterator[None]:
    """Let torchvision import a stand-in for torch's compiler, which takes a second to import.

    What `roi_align` of torchvision 0.28 takes from it, and no other module takes anything, imports the compiler when it
    is called. Any other name is the compiler's own, at once.
    """
    if _COMPILER in sys.modules:
        yield
        return
    stand_in = ModuleType(_COMPILER)
    stand_in.is_compile_supported = _is_compile_supported  # type: ignore[attr-defined]
    stand_in.__getattr__ = _take_from_compiler  # type: ignore[method-assign]
    sys.modules[_COMPILER] = stand_in
    try:
        yield
    finally:
        if sys.modules.get(_COMPILER) is stand_in:
            del sys.modules[_COMPILER]


def _is_compile_supported(device_type: str) -> bool:
    return bool(_take_from_compiler("is_compile_supported")(device_type))


def _take_from_compiler(name: str) -> Any:
    if name.startswith("__"):  # that the import system and `inspect` ask each module for
        raise AttributeError(name)
    if _COMPILER in sys.modules and sys.modules[_COMPILER].__spec__ is None:  # it is the stand-in
        del sys.modules[_COMPILER]
    return getattr(importlib.import_module(_COMPILER), name)
