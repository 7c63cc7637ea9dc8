import zipfile

import miniature
import pytest
import torch
from exporting import ROOT, Exported, make_networks
from torch import Tensor

from ptqflow.core.errors import ModelError
from ptqflow.export.torchscript import to_torchscript
from ptqflow.runtime.manifest import INT8_TORCHSCRIPT


def test_torchscript_has_equal_bytes_also_where_a_process_writes_it_again(exported: Exported) -> None:
    again = [to_torchscript(exported.networks.int8.module, miniature.INPUT_SHAPE) for _ in range(2)]
    assert {(exported.directory / INT8_TORCHSCRIPT).read_bytes(), *again} == {again[0]}


def test_torchscript_of_another_network_fails_the_gate(exported: Exported, inputs: list[Tensor]) -> None:
    torch.manual_seed(1)
    other = make_networks(miniature.residual(6).eval(), miniature.card(), inputs)
    script = to_torchscript(other.int8.module, miniature.INPUT_SHAPE)
    (exported.directory / INT8_TORCHSCRIPT).write_bytes(script)
    exported.describe()
    with pytest.raises(ModelError, match="returns other logits than the INT8 model, first for test image 0"):
        exported.check()


def test_the_file_holds_no_path_of_this_machine(exported: Exported) -> None:
    assert str(ROOT).encode() not in (exported.directory / INT8_TORCHSCRIPT).read_bytes()
    with zipfile.ZipFile(exported.directory / INT8_TORCHSCRIPT) as archive:
        assert not [name for name in archive.namelist() if name.endswith(".debug_pkl")]
