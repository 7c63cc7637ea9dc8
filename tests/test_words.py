"""The words that are not used in this project: each is found, and what only looks like one is not."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from repository import ROOT
from words import WORDS, Word, find_words

CHECK = [sys.executable, str(ROOT / ".ci" / "words.py")]


def run(*files: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([*CHECK, *files], cwd=cwd, text=True, capture_output=True, check=False)


@pytest.mark.parametrize("word", WORDS, ids=[word.example for word in WORDS])
def test_each_word_is_found_in_text_comments_strings_and_names_of_functions(word: Word) -> None:
    name = "_".join(word.example.lower().replace("8-bit", "").split())
    sources = {
        word.example: False,
        f"x = 1  # {word.example}\n": True,
        f'"""{word.example}"""\n': True,
        f'message = f"{{x}} {word.example} {{x}}"\n': True,
        f"def test_{name}(): pass\n": True,
    }
    for text, is_python in sources.items():
        assert word in [found for _, _, found in find_words(text, is_python=is_python)], text


def test_a_phrase_is_found_across_the_end_of_a_line_in_text_and_in_comments() -> None:
    phrase = " ".join(["training", "goes"])
    (text,) = find_words(f"first\n{phrase}\non.", is_python=False)
    (comment,) = find_words(f"x = 1\n    # {phrase}\n    # on.\n", is_python=True)
    assert (text[0], comment[0]) == (2, 2)


@pytest.mark.parametrize(
    "text",
    [
        "the given weights, and a mapping given as YAML",
        "exit codes, and code of the user",
        "the path's parts, and parts of a page",
        "give up after three attempts",
        "we recommend settings",
        "the value goes on the stack",
        "the drop meets the budget",
        "as it is called by torch",
    ],
)
def test_words_in_another_sense_pass(text: str) -> None:
    assert find_words(text, is_python=False) == []


def test_attributes_and_variables_of_python_are_not_prose() -> None:
    assert find_words("co" + "des = file.tell()\nparts = path.parts\n", is_python=True) == []


def test_a_finding_names_file_line_and_what_to_write_instead(tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text(f"fine\n{WORDS[1].example}\n")
    (tmp_path / "fine.md").write_text("fine\n")
    found = run("page.md", "fine.md", cwd=tmp_path)
    assert (found.returncode, found.stderr) == (1, f"page.md:2: {WORDS[1].pattern!r}: write {WORDS[1].instead}\n")
    assert run("fine.md", cwd=tmp_path).returncode == 0


def test_the_repository_uses_none_of_the_words() -> None:
    checked = run(cwd=ROOT)
    assert (checked.returncode, checked.stderr) == (0, ""), checked.stderr


def test_files_that_git_does_not_track_are_not_checked(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True, env=os.environ)
    (tmp_path / "page.md").write_text(WORDS[1].example)
    assert run(cwd=tmp_path).returncode == 0
    subprocess.run(["git", "add", "page.md"], cwd=tmp_path, check=True)
    assert run(cwd=tmp_path).returncode == 1
