"""Another project gets the exported model by its name, with real dvc."""

import pytest
from repository import Repository

from ptqflow.runtime.manifest import ONNX_FILES, check_file, read_manifest


@pytest.mark.slow
def test_another_project_gets_the_model_from_a_clone_with_a_remote(repository: Repository) -> None:
    home = repository.path.parent
    repository.run("dvc", "remote", "add", "-d", "store", str(home / "store"))
    repository.run("dvc", "push", "models/export")
    repository.commit("with a remote")
    repository.run("git", "tag", "-a", "int8@v1.0.0", "-m", "as gto registers it")
    repository.run("git", "clone", "-q", "--bare", ".", str(home / "server.git"))

    project = Repository(home / "project")
    project.path.mkdir()
    project.run("dvc", "artifacts", "get", str(home / "server.git"), "int8", "--rev", "v1.0.0", "-o", "model")

    manifest = read_manifest(project.path / "model")
    assert manifest.architecture == "tiny:build"
    assert {check_file(project.path / "model", manifest, name).name for name in ONNX_FILES} == set(ONNX_FILES)

    project.run("dvc", "get", str(home / "server.git"), "models/export", "-o", "again")
    assert (project.path / "again/model.json").read_bytes() == (project.path / "model/model.json").read_bytes()


@pytest.mark.slow
def test_a_failed_gate_leaves_no_export_and_says_which_file_failed(repository: Repository) -> None:
    replay = repository.path / "src/ptqflow/export/replay.py"
    replay.write_text(replay.read_text().replace("logits = network(batch)", "logits = 2 * network(batch)"))
    result = repository.try_run("dvc", "repro")
    assert result.status
    assert "export: int8.torchscript.pt returns other logits than the INT8 model" in result.output
    assert not list((repository.path / "models").glob("*export*"))
