import argparse
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from exported import change_manifest, replace_torchscript
from samples import bomb, png, random_pixels, write_folder

import ptqflow
from ptqflow import cli
from ptqflow.runtime.manifest import read_manifest

SOURCE = Path(ptqflow.__file__).parents[1]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "photos", {"b.png": png(0, (8, 8)), "a/c.png": png(1, (8, 8))})


def start(*arguments: object, **options: object) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "ptqflow.cli", *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": str(SOURCE), "PYTHONUTF8": "0", "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,  # type: ignore[call-overload]
    )


def test_predict_prints_a_line_for_each_image_with_the_most_probable_classes(
    pristine: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["predict", str(pristine), str(photos), "-k", "2", "--runtime", "onnxruntime"]) == 0

    output = capsys.readouterr()
    classifier = ptqflow.load(pristine, "onnxruntime")
    expected = []
    for name, seed in (("a/c.png", 1), ("b.png", 0)):
        [row] = classifier(random_pixels(8, 8, 3, seed=seed))
        first, second = np.argsort(row)[::-1][:2]
        names = classifier.classes
        expected.append(
            f"{photos}/{name}: {names[first]} {100 * row[first]:.2f} %, {names[second]} {100 * row[second]:.2f} %"
        )
    assert output.out.splitlines() == expected
    assert output.err == ""


def test_predict_as_json_prints_an_object_a_line(
    pristine: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["predict", str(pristine), str(photos), "--json", "-k", "99"]) == 0

    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["image"] for line in lines] == [f"{photos}/a/c.png", f"{photos}/b.png"]
    for line in lines:
        probabilities = [entry["probability"] for entry in line["top"]]
        assert len(probabilities) == 6
        assert probabilities == sorted(probabilities, reverse=True)
        assert sum(probabilities) == pytest.approx(1, abs=1e-5)


def test_predict_answers_the_other_images_of_a_call_and_exits_with_1(
    pristine: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "bomb.png").write_bytes(bomb())
    (photos / "text.png").write_bytes(b"no image")
    (photos / "empty").mkdir()
    given = [photos, photos / "empty", "absent.png"]

    assert cli.run(["predict", str(pristine), *map(str, given)]) == 1

    output = capsys.readouterr()
    assert len(output.out.splitlines()) == 2
    reported = output.err.splitlines()
    assert len(reported) == 4
    assert all(line.startswith("ptqflow: ") for line in reported)
    for words, line in zip(
        ("bomb.png", "text.png", "holds no images", "No such file .*: absent.png"), reported, strict=True
    ):
        assert re.search(words, line)


def test_predict_takes_the_next_runtime_where_one_is_broken_and_says_so(
    pristine: Path, photos: Path, broken_openvino: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["predict", str(pristine), str(photos)]) == 0

    output = capsys.readouterr()
    assert len(output.out.splitlines()) == 2
    [line] = output.err.splitlines()
    assert line.startswith("ptqflow: skipped openvino: ")
    assert broken_openvino in line


def test_names_that_no_locale_can_print_are_escaped(pristine: Path, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "photos", {"käfer.png": png(0), os.fsdecode(b"\xff.png"): png(1)})
    (folder / os.fsdecode(b"\xfe.png")).write_bytes(b"no image")

    out, err = start("predict", pristine, folder, "--runtime", "onnxruntime").communicate()
    assert len(out.splitlines()) == 2
    assert len(err.splitlines()) == 1
    out, _ = start("predict", pristine, folder, "--runtime", "onnxruntime", "--json").communicate()
    found = {os.fsencode(Path(json.loads(line)["image"]).name) for line in out.splitlines()}
    assert found == {"käfer.png".encode(), b"\xff.png"}


def test_the_end_of_a_reader_such_as_head_ends_the_command_without_a_word(pristine: Path, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "photos", {f"{i}.png": png(i) for i in range(200)})

    process = start("predict", pristine, folder, "--runtime", "onnxruntime")
    assert process.stdout
    assert process.stderr
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait() in (0, -signal.SIGPIPE)


def test_inspect_prints_the_manifest_and_names_a_changed_file(export: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["inspect", str(export)]) == 0
    assert "conv1" in capsys.readouterr().out
    (export / "int8.torchscript.pt").write_bytes(b"changed")

    assert cli.run(["inspect", str(export), "--json"]) == 1

    output = capsys.readouterr()
    assert json.loads(output.out) == json.loads((export / "model.json").read_text())
    [line] = output.err.splitlines()
    assert line.startswith(f"ptqflow: {export}/int8.torchscript.pt has changed")


def test_verify_checks_every_runtime_and_exits_with_1_after_a_failure(
    export: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["verify", str(export)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert {line.split(":")[0] for line in lines} == {"openvino", "onnxruntime", "torchscript"}

    replace_torchscript(export)
    assert cli.run(["verify", str(export)]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("ptqflow: torchscript: FAILED: predicts what torch predicted for ")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"format_version": 3}, "is of format 3, and this ptqflow reads format 2: install a newer ptqflow"),
        ({"files": {}}, "no runtime can run the model here|has no reference.npz"),
    ],
)
@pytest.mark.parametrize("command", ["predict", "verify"])
def test_a_manifest_of_another_format_or_without_files_is_one_line(
    export: Path, photos: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, object], words: str, command: str
) -> None:
    change_manifest(export, **changes)
    assert cli.run([command, str(export), *([str(photos)] if command == "predict" else [])]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert re.search(words, line)


def test_predict_runs_torchscript_on_request_alone(
    export: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = read_manifest(export).model_dump(mode="json")["files"]
    change_manifest(export, files={"int8.torchscript.pt": files["int8.torchscript.pt"]})
    assert cli.run(["predict", str(export), str(photos)]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert "torchscript runs only on request" in line
    assert cli.run(["predict", str(export), str(photos), "--runtime", "torchscript"]) == 0


@pytest.mark.parametrize("command", [["predict", "no/model", "a.png"], ["inspect", "no/model"], ["verify", "no/model"]])
def test_a_model_that_is_not_there_is_one_line(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(command) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("ptqflow: no/model/model.json is missing")
    assert line.endswith("or copy the whole directory again")


def test_a_package_of_the_pipeline_that_is_missing_is_reported_with_what_brings_it() -> None:
    program = (
        "import sys; sys.modules['safetensors'] = None; from ptqflow import cli; print(cli.run(['compare', 'a', 'b']))"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | {"PYTHONPATH": str(SOURCE)}, capture_output=True, text=True
    )
    assert result.stdout == "1\n"
    [line] = result.stderr.splitlines()
    assert line.startswith("ptqflow: the package safetensors is not installed: `pip install '.[pipeline]'`")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "COMMAND"),
        (["quantise"], "invalid choice: 'quantise'"),
        (["predict", "model"], "IMAGE"),
        (["predict", "model", "a.png", "-k", "0"], "'0' is not a whole number of 1 or more"),
        (["predict", "model", "a.png", "-k", "x"], "'x' is not a whole number of 1 or more"),
        (["predict", "model", "a.png", "--runtime", "tensorrt"], "openvino"),
    ],
)
def test_wrong_usage_is_reported_and_exits_with_2(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.run(arguments)
    assert caught.value.code == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("command", ["predict", "inspect", "verify"])
def test_every_command_has_help_with_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.run([command, "--help"])
    assert caught.value.code == 0
    assert f"  ptqflow {command} models/export" in capsys.readouterr().out


def test_help_and_version_are_reported_before_anything_large_is_imported() -> None:
    program = """
import sys
from ptqflow import cli
for arguments in (["--help"], ["--version"], ["predict", "--help"]):
    try:
        cli.run(arguments)
    except SystemExit as end:
        assert end.code == 0
print({"numpy", "torch", "pydantic", "PIL"} & set(sys.modules))
"""
    output = subprocess.check_output(
        [sys.executable, "-c", program], env=os.environ | {"PYTHONPATH": str(SOURCE)}, text=True
    )
    assert "ptqflow 0.1.0" in output
    assert all(command in output for command in ("predict", "inspect", "verify"))
    assert output.splitlines()[-1] == "set()"


COMPLETE = """
source "$1"
complete -p ptqflow | grep -q ' -F _shtab_ptqflow ptqflow$' || exit 9
shift
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
_shtab_ptqflow ptqflow "${@: -1}" "${@: -2:1}" 2>/dev/null
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def completion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    script = tmp_path_factory.mktemp("completion") / "ptqflow"
    with script.open("w") as file, contextlib.redirect_stdout(file):
        assert cli.run(["completion", "bash"]) == 0
    return script


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        (["in"], {"inspect", "init"}),
        (["com"], {"compare", "completion"}),
        (["completion", ""], {"bash", "zsh", "fish"}),
        (["predict", "--run"], {"--runtime"}),
        (["predict", "models", "--runtime", ""], {"onnxruntime", "openvino", "torchscript"}),
        (["predict", "pho"], {"photos", "photo.jpg"}),
        (["predict", "models", "photos/a.jpg", "photos/"], {"photos/a.jpg", "photos/b.jpg"}),
        (["quantize", "--weights", "w"], {"w.safetensors"}),
        (["quantize", "photos", "-o", "mod"], {"models"}),
        (["verify", "models", "--timeout", ""], set()),
    ],
)
def test_bash_completes_commands_options_choices_and_paths(
    words: list[str], completed: set[str], completion: Path, tmp_path: Path
) -> None:
    write_folder(
        tmp_path, dict.fromkeys(["photos/a.jpg", "photos/b.jpg", "photo.jpg", "w.safetensors", "models/"], b"")
    )
    done = subprocess.run(
        ["bash", "--norc", "-c", COMPLETE, "bash", completion, "ptqflow", *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert set(done.stdout.split()) == completed


def test_completion_of_other_shells_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    commands = next(action for action in cli._parser()._actions if isinstance(action, argparse._SubParsersAction))
    for shell in ("zsh", "fish"):
        assert cli.run(["completion", shell]) == 0
        script = capsys.readouterr().out
        assert [name for name in commands.choices if name not in script] == []


def test_completion_without_shtab_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert cli.run(["completion", "bash"]) == 1
    line = "ptqflow: completion needs shtab, which is not installed: `pip install shtab`\n"
    assert capsys.readouterr() == ("", line)
