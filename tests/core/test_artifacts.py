"""Files appear whole or not at all."""

import errno
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ptqflow.core.artifacts import (
    Card,
    naming,
    new_directory,
    read_card,
    sha256_file,
    write_bytes,
    write_card,
    write_csv,
    write_json,
    write_metrics,
)
from ptqflow.core.errors import ArtifactError
from ptqflow.core.figures import BenchmarkMetrics

SOURCE = Path(__file__).parents[2] / "src"


class Example(Card):
    format_version: int = 1
    pair: tuple[float, float]


def test_a_write_to_a_full_disk_keeps_the_old_file_and_leaves_nothing_beside_it(small_disk: Path) -> None:
    file = small_disk / "file"
    write_bytes(file, b"old")
    with pytest.raises(OSError, match="No space left on device") as caught:
        write_bytes(file, bytes(2_000_000))
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(file))
    assert file.read_bytes() == b"old"
    assert os.listdir(small_disk) == ["file"]


def test_a_writer_killed_in_the_middle_leaves_the_old_file_and_the_next_writes_the_new_one() -> None:
    write_bytes(Path("file"), b"old")
    script = (
        "import os, pathlib, signal\n"
        "from ptqflow.core import artifacts\n"
        "pathlib.Path.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "artifacts.write_bytes(pathlib.Path('file'), b'new')\n"
    )
    result = subprocess.run([sys.executable, "-c", script], env={"PYTHONPATH": str(SOURCE)}, check=False)
    assert result.returncode == -signal.SIGKILL
    assert Path("file").read_bytes() == b"old"
    write_bytes(Path("file"), b"new")
    assert Path("file").read_bytes() == b"new"
    assert os.listdir() == ["file"]


@pytest.mark.parametrize("link", ["file", ".file.partial"])
def test_a_link_in_the_way_is_replaced_not_written_through(link: str) -> None:
    Path("weights").write_bytes(b"the user's")
    Path(link).symlink_to("weights")
    write_bytes(Path("file"), b"new")
    assert Path("weights").read_bytes() == b"the user's"
    assert Path("file").read_bytes() == b"new"
    assert not Path("file").is_symlink()


@pytest.mark.parametrize(("own", "named"), [(None, "here"), ("there", "there")])
def test_an_error_without_a_file_gets_its_name_and_one_with_a_file_keeps_it(own: str | None, named: str) -> None:
    with pytest.raises(OSError, match=f"No space left on device: '{named}'") as caught, naming(Path("here")):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), own)
    assert caught.value.errno == errno.ENOSPC


def fill_and_fail(directory: Path) -> None:
    with new_directory(directory) as partial:
        (partial / "file").write_text("new")
        Path("nowhere").read_bytes()


def test_a_directory_takes_its_place_only_when_the_block_ends_well() -> None:
    with new_directory(Path("out")) as partial:
        (partial / "file").write_text("old")
    with pytest.raises(FileNotFoundError):
        fill_and_fail(Path("out"))
    assert Path("out/file").read_text() == "old"
    assert os.listdir() == ["out"]


def test_a_new_directory_has_nothing_of_the_old_one() -> None:
    for name in ("old", "new"):
        with new_directory(Path("parent/out")) as partial:
            (partial / name).touch()
    assert os.listdir("parent/out") == ["new"]


def test_what_a_killed_run_left_over_is_replaced() -> None:
    Path(".out.partial").mkdir()
    Path(".out.partial/stale").write_text("stale")
    with new_directory(Path("out")) as partial:
        (partial / "file").write_text("new")
    assert os.listdir() == ["out"]
    assert os.listdir("out") == ["file"]


def test_a_link_is_replaced_by_the_new_directory_and_what_it_points_to_is_kept() -> None:
    Path("other").mkdir()
    Path("other/file").touch()
    Path("out").symlink_to("other")
    with new_directory(Path("out")):
        pass
    assert not Path("out").is_symlink()
    assert os.listdir("other") == ["file"]


def test_json_keeps_the_order_and_refuses_what_json_has_no_number_for() -> None:
    write_json(Path("new/folder/file.json"), {"b": 1, "a": "é"})
    assert Path("new/folder/file.json").read_bytes() == '{\n  "b": 1,\n  "a": "é"\n}\n'.encode()
    for number in (math.nan, math.inf):
        with pytest.raises(ValueError, match="not JSON compliant"):
            write_json(Path("new/folder/file.json"), {"a": number})
    assert b'"b": 1' in Path("new/folder/file.json").read_bytes()


def test_metrics_lie_in_metrics_under_the_name_of_the_stage() -> None:
    write_metrics("benchmark", BenchmarkMetrics(speedup={"openvino": 4.0}))
    assert Path("metrics/benchmark.json").read_text() == '{\n  "speedup": {\n    "openvino": 4.0\n  }\n}\n'


def test_csv_quotes_what_needs_it_and_leaves_none_empty() -> None:
    write_csv(Path("file.csv"), [{"class": 'a,"b"', "value": None}, {"class": "c", "value": 0.5}])
    assert Path("file.csv").read_bytes() == b'class,value\n"a,""b""",\nc,0.5\n'


def test_cards_come_back_equal() -> None:
    card = Example(pair=(0.1, 1 / 3))
    write_card(Path("card.json"), card)
    assert read_card(Path("card.json"), Example) == card


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'{"format_version": 1, "pair": [1.0]}', "pair.1: Field required"),
        (b'{"format_version": "1", "pair": [1.0, 2.0]}', "format_version: Input should be a valid integer"),
        (b'{"format_version": 1, "pair": [1.0, 2.0], "more": 1}', "more: Extra inputs are not permitted"),
        (b"[]", "the file: Input should be an object"),
        (b"{", "the file: Invalid JSON"),
        (b"", "the file: Invalid JSON"),
    ],
)
def test_a_card_that_is_not_ours_is_one_line(content: bytes, words: str) -> None:
    Path("card.json").write_bytes(content)
    with pytest.raises(ArtifactError, match="run `ptqflow repair`, then `dvc repro`") as caught:
        read_card(Path("card.json"), Example)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_card_says_what_to_run() -> None:
    with pytest.raises(ArtifactError, match=r"card.json is missing: run `dvc repro`"):
        read_card(Path("card.json"), Example)


def test_sha256_is_that_of_the_bytes() -> None:
    Path("file").write_bytes(b"abc")
    assert sha256_file(Path("file")) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
