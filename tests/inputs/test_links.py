"""Links to the user's files, and one line where there is no such file."""

import os
import pathlib
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from dvc.utils.hydra import apply_overrides
from samples import data_params

from ptqflow.core.errors import DataError, ModelError
from ptqflow.core.inputs import CODE, DATA, WEIGHTS, given
from ptqflow.fetch.params import DataParams
from ptqflow.inputs.links import link_inputs
from ptqflow.models.params import ModelParams

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _import_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget the current directory, which modules are looked for in, when the test ends."""
    monkeypatch.setattr(sys, "path", list(sys.path))


def data(path: str | None) -> DataParams:
    return data_params(name="cifar10", path=path)


def model(name: str = "resnet18", weights: str | None = None) -> ModelParams:
    return ModelParams(name=name, weights=weights, stem="standard", mean=None, std=None)


def refusal(data_path: str | None = None, **changes: str) -> str:
    with pytest.raises((DataError, ModelError)) as caught:
        link_inputs(data(data_path), model(**changes))
    assert "\n" not in str(caught.value)
    assert not Path("inputs").exists()
    return str(caught.value)


def write(path: str, content: str = "content") -> Path:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(content)
    return Path(path)


def test_null_is_a_plain_file_that_says_so() -> None:
    link_inputs(data(None), model())
    for link in (DATA, WEIGHTS, CODE):
        assert not link.is_symlink()
        assert link.read_text() == "null\n"


def test_links_point_to_the_users_files(tmp_path: Path) -> None:
    write("photos/cat/1.png")
    outside = write(f"{tmp_path.parent}/{tmp_path.name}-weights.pt").resolve()
    write("my_network.py")
    link_inputs(data("photos"), model("my_network:build", str(outside)))
    assert (given(DATA), given(WEIGHTS), given(CODE)) == (DATA, WEIGHTS, CODE)
    assert (DATA / "cat/1.png").read_text() == "content"
    assert WEIGHTS.readlink() == outside
    assert CODE.resolve() == Path("my_network.py").resolve()


def test_links_to_files_of_the_repository_survive_its_move(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write("here/photos.tar")
    monkeypatch.chdir("here")
    link_inputs(data("photos.tar"), model())
    monkeypatch.chdir(tmp_path)
    Path("here").rename("there")
    assert Path("there", DATA).read_text() == "content"


def test_a_link_to_a_link_points_to_the_file_itself() -> None:
    write("photos.tar")
    Path("link").symlink_to("photos.tar")
    link_inputs(data("link"), model())
    Path("link").unlink()
    assert DATA.read_text() == "content"


def test_a_change_of_mind_replaces_the_link_and_leaves_the_users_file_alone() -> None:
    first, second = write("first.pt", "first"), write("second.pt", "second")
    for weights in ("first.pt", "second.pt"):
        link_inputs(data(None), model(weights=weights))
    assert WEIGHTS.resolve() == second.resolve()
    link_inputs(data(None), model())
    assert given(WEIGHTS) is None
    assert (first.read_text(), second.read_text()) == ("first", "second")


@pytest.mark.parametrize("given_now", [None, "weights.pt"])
def test_what_a_killed_run_left_does_no_harm_to_what_it_points_to(given_now: str | None) -> None:
    weights = write("weights.pt")
    WEIGHTS.parent.mkdir()
    Path("inputs/.model.weights.partial").symlink_to(weights.resolve())
    link_inputs(data(None), model(weights=given_now))
    assert weights.read_text() == "content"
    assert sorted(os.listdir("inputs")) == ["data.path", "model.name", "model.weights"]


def test_home_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    write("home/weights.pt")
    link_inputs(data(None), model(weights="~/weights.pt"))
    assert WEIGHTS.read_text() == "content"


@pytest.mark.parametrize("experiment", [".dvc/tmp/exps/standalone/abc", ".dvc/tmp/exps/abc"])
def test_an_experiment_in_a_copy_finds_what_git_does_not_track_in_the_repository(
    experiment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("photos.tar", "outer")
    write("weights.pt", "outer")
    write(f"{experiment}/weights.pt", "inner")
    monkeypatch.chdir(experiment)
    link_inputs(data("photos.tar"), model(weights="weights.pt"))
    assert DATA.read_text() == "outer"
    assert WEIGHTS.read_text() == "inner"


def test_an_experiment_in_a_copy_names_the_repository_where_it_looked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / ".dvc/tmp/exps/abc"
    copy.mkdir(parents=True)
    monkeypatch.chdir(copy)
    assert f"data.path: nowhere does not exist (looked in {tmp_path});" in refusal("nowhere")


@pytest.mark.parametrize("path", ["nowhere", "no/where.tar", "~no-such-user/photos"])
def test_a_missing_data_path_is_named(path: str, tmp_path: Path) -> None:
    assert f"data.path: {path} does not exist (looked in {tmp_path})" in refusal(path)


def test_a_data_path_that_is_neither_file_nor_folder_is_named(tmp_path: Path) -> None:
    os.mkfifo("pipe")
    assert (
        refusal("pipe")
        == f"data.path: {tmp_path}/pipe is neither a file nor a folder; set it to a folder or an archive"
    )


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda odd: odd.symlink_to("nowhere"), "is a link to a file that does not exist; fix or remove it"),
        (lambda odd: odd.symlink_to("odd"), "is a link to a file that does not exist; fix or remove it"),
        (os.mkfifo, "is neither a file nor a folder; remove it"),
    ],
    ids=["dangling link", "link to itself", "FIFO"],
)
def test_what_dvc_fails_on_or_waits_for_is_named_before_it_is_linked(
    make: Callable[[Path], None], words: str, tmp_path: Path
) -> None:
    write("photos/cat/1.png")
    make(Path("photos/cat/odd"))
    assert refusal("photos") == f"data.path: {tmp_path}/photos/cat/odd {words}"


@pytest.mark.parametrize("name", [".dvcignore", "cat/.dvcignore", "cat/.dvc/config"])
def test_what_keeps_files_from_dvc_is_named(name: str, tmp_path: Path) -> None:
    write("photos/cat/1.png")
    write(f"photos/{name}")
    odd = name.removesuffix("/config")
    assert f"data.path: {tmp_path}/photos/{odd} hides files in its folder from DVC; remove it, or" in refusal("photos")


@pytest.mark.parametrize(
    ("path", "output"),
    [
        (".", "data/dataset"),
        ("data", "data/dataset"),
        ("data/dataset", "data/dataset"),
        ("data/logits/int8", "data/logits"),
        ("data/predictions/int8.npy", "data/predictions"),
        ("link", "data/dataset"),
    ],
)
def test_a_data_path_that_overlaps_with_an_output_is_refused_from_the_first_run(
    path: str, output: str, tmp_path: Path
) -> None:
    write("data/cat/1.png")
    write("data/predictions/int8.npy")
    write("data/logits/int8/card.json")
    Path("data/dataset").mkdir()
    Path("link").symlink_to("data")
    assert refusal(path) == (
        f"data.path: {tmp_path / path} overlaps with {tmp_path / output}, which the pipeline writes; move the images "
        "to a folder of their own, such as data/images"
    )
    shutil.rmtree("data/dataset")
    if path == "data":
        assert "overlaps with" in refusal(path)


def test_images_next_to_the_outputs_do_no_harm() -> None:
    write("data/images/cat/1.png")
    write("data/dataset-of-mine/cat/1.png")
    for path in ("data/images", "data/dataset-of-mine"):
        link_inputs(data(path), model())
        assert (DATA / "cat/1.png").read_text() == "content"


def test_links_to_files_and_what_dvc_leaves_out_itself_do_no_harm() -> None:
    write("photos/cat/1.png")
    for name in (".git", ".dvc/tmp/exps/.dvc"):
        write(f"photos/{name}/.dvcignore")
    Path("photos/cat/2.png").symlink_to("1.png")
    Path("photos/dog").symlink_to("cat")
    link_inputs(data("photos"), model())
    assert (DATA / "cat/2.png").read_text() == "content"


def test_weights_that_are_a_folder_are_named(tmp_path: Path) -> None:
    Path("weights").mkdir()
    assert refusal(weights="weights") == (
        f"model.weights: {tmp_path}/weights is not a file; set it to a .pt or .safetensors file"
    )


@pytest.mark.parametrize("weights", ["nowhere.pt", "no/where", "~no-such-user/weights.pt"])
def test_missing_weights_are_named(weights: str, tmp_path: Path) -> None:
    message = refusal(weights=weights)
    assert f"model.weights: {weights} does not exist (looked in {tmp_path}); set it to a .pt or .safetensors" in message
    assert "or the name of published weights for resnet18" in message


def test_a_network_of_the_users_own_has_no_published_weights() -> None:
    assert refusal(name="my_network:build", weights="DEFAULT").endswith("set it to a .pt or .safetensors file")


def test_weights_that_are_not_published_are_reported_with_those_that_are() -> None:
    message = refusal(weights="IMAGENET1K_V9")
    assert "model.weights: 'IMAGENET1K_V9' is neither a file nor published weights of resnet18" in message
    assert "IMAGENET1K_V1" in message


def test_published_weights_of_an_unknown_network_name_the_network() -> None:
    assert "model.name: 'resnet19' is not a torchvision classifier" in refusal(name="resnet19", weights="IMAGENET1K_V1")


def test_published_weights_are_looked_for_in_torchs_cache_and_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    file = write("hub/checkpoints/resnet18-f37072fd.pth")
    message = refusal(weights="IMAGENET1K_V1")
    assert f"model.weights: {tmp_path / file} does not have the SHA-256 of its name (f37072fd…); remove it" in message


def test_weights_that_cannot_be_downloaded_say_what_to_do(tmp_path: Path) -> None:
    shutil.copy(REPOSITORY / "params.yaml", "params.yaml")
    apply_overrides("params.yaml", ["model.weights=IMAGENET1K_V1"])
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        environment = {
            "PYTHONPATH": str(REPOSITORY / "src"),
            "TORCH_HOME": str(tmp_path),
            "https_proxy": f"http://127.0.0.1:{nobody.getsockname()[1]}",
        }
        command = [sys.executable, REPOSITORY / "stages" / "inputs.py"]
        result = subprocess.run(command, env=environment, text=True, capture_output=True, check=False)
    assert result.returncode == 1
    assert result.stderr.startswith(
        "inputs: model.weights: the download of https://download.pytorch.org/models/resnet18"
    )
    assert "Connection refused" in result.stderr
    assert result.stderr.endswith(
        "download the file by other means and set model.weights to its path, whose name says which weights they are\n"
    )
    assert len(result.stderr.splitlines()) == 1


def test_a_module_may_lie_in_a_package_or_be_installed() -> None:
    write("networks/__init__.py", "")
    write("networks/small.py")
    link_inputs(data(None), model("networks.small:build"))
    assert CODE.resolve() == Path("networks/small.py").resolve()
    link_inputs(data(None), model("pathlib:Path"))
    assert CODE.resolve() == Path(pathlib.__file__).resolve()


@pytest.mark.parametrize("name", ["no_such_module", "no_such.module", "", "..relative", "sys", "folder"])
def test_a_module_without_a_file_is_reported(name: str, tmp_path: Path) -> None:
    Path("folder").mkdir()
    assert f"model.name: there is no module '{name}' in {tmp_path} or among" in refusal(name=f"{name}:build")


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("def build(:\n", "(SyntaxError: invalid syntax (__init__.py, line 1))"),
        ("import no_such_dependency\n", "(ModuleNotFoundError: No module named 'no_such_dependency')"),
        ("raise ValueError('no GPU')\n", "(ValueError: no GPU)"),
        ("raise SystemExit(0)\n", "(SystemExit: 0)"),
    ],
)
def test_a_package_that_cannot_be_imported_is_one_line_of_the_stage(code: str, words: str) -> None:
    write("broken/__init__.py", code)
    write("broken/networks.py", "")
    shutil.copy(REPOSITORY / "params.yaml", "params.yaml")
    apply_overrides("params.yaml", ["model.name='broken.networks:build'"])
    command = [sys.executable, REPOSITORY / "stages" / "inputs.py"]
    environment = {"PYTHONPATH": str(REPOSITORY / "src")}
    result = subprocess.run(command, env=environment, text=True, capture_output=True, check=False)
    assert result.returncode == 1
    assert result.stderr == f"inputs: model.name: broken.networks cannot be imported {words}\n"
