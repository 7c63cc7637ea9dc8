"""torchvision imports beside a torch that its compiled operators were not built for."""

import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).parents[2] / "src"
DECLARE = "from ptqflow.core.torchvision_shim import ensure_torchvision_imports\ne = ensure_torchvision_imports\n"


def run(script: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", script], env={"PYTHONPATH": str(SOURCE)}, text=True, capture_output=True, check=False
    )


def test_torchvision_imports_builds_a_network_and_transforms_once_the_operators_are_ensured() -> None:
    result = run(
        DECLARE + "e()\nimport torch, torchvision\n"
        "assert torchvision.models.resnet18(num_classes=3).eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 3)\n"
        "assert torchvision.transforms.functional.hflip(torch.arange(2.)[None]).tolist() == [[1.0, 0.0]]\n"
    )
    assert result.returncode == 0, result.stderr


def test_operators_are_declared_exactly_where_torchvision_cannot_be_imported_without() -> None:
    fails_alone = run("import torchvision").returncode != 0
    declares = run(DECLARE + "import sys\nsys.exit(0 if e() is None else 7)").returncode == 7
    assert declares == fails_alone


def test_a_second_call_does_no_harm() -> None:
    result = run(DECLARE + "assert e() is e()\nimport torchvision\ne()")
    assert result.returncode == 0, result.stderr


def test_torchs_compiler_is_imported_when_it_is_asked_and_not_before() -> None:
    result = run(
        DECLARE + "e()\nimport sys, torch, torchvision\n"
        "assert not {'torch._dynamo', 'torch._dynamo.utils'} & set(sys.modules)\n"
        "supported = torchvision.ops.roi_align.__globals__['is_compile_supported']\n"
        "assert supported('cpu') == torch._dynamo.utils.is_compile_supported('cpu')\n"
        "assert sys.modules['torch._dynamo.utils'].__file__\n"
    )
    assert result.returncode == 0, result.stderr


def test_another_name_of_the_compiler_is_its_own() -> None:
    result = run(
        "import sys\nfrom ptqflow.core import torchvision_shim as shim\n"
        "with shim._compiler_imported_on_demand():\n"
        "    from torch._dynamo.utils import istype\n"
        "assert istype(1, int) and sys.modules['torch._dynamo.utils'].istype is istype\n"
    )
    assert result.returncode == 0, result.stderr
