from pathlib import Path

import torch

from ptqflow.report.machine import cpu_model, versions


def test_the_cpu_is_named_as_linux_names_it(tmp_path: Path) -> None:
    info = tmp_path / "cpuinfo"
    info.write_text("processor\t: 0\nmodel\t\t: 1\nmodel name\t: AMD EPYC 9B14: fast\n\nmodel name\t: other\n")
    assert cpu_model(info) == "AMD EPYC 9B14: fast"


def test_where_linux_does_not_name_it_python_does(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("processor\t: 0\n")
    assert cpu_model(tmp_path / "cpuinfo") == cpu_model(tmp_path / "missing") != ""


def test_versions_are_those_installed() -> None:
    assert versions()["torch"] == torch.__version__
    assert list(versions())[:2] == ["Python", "ptqflow"]
