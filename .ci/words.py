"""Report words that this project does not use in prose, with what to write instead.

Checked are comments, strings and names of functions in Python files, and all other files as text. Without arguments
the files that git tracks are checked; the exit status is 1 where a word is found.
"""

import ast
import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

CHECKED = ["*.py", "*.md", "*dvc.yaml", "pipelines/*.yaml", "params.yaml", "Makefile"]
THIS_FILE = ".ci/words.py"


class Word(NamedTuple):
    """A word to avoid; `pattern` is a regular expression in which a space stands for any white space."""

    pattern: str
    instead: str
    example: str


WORDS = (
    Word("tell|tells|told|telling", "return, report, say, or distinguish", "Tell whether the layer is fused"),
    Word("behind", "after", "a checkpoint behind each epoch"),
    Word("mend|mends|mended|mending", "fix", "what the user can mend"),
    Word("settle|settles|settled|settling", "resolve, or determine", "the params settle the recipe"),
    Word("(?:give|gives|gave|giving)(?! up| way)", "return, set, pass, or produce", "the layer that gives the logits"),
    Word("(?:go|goes|going|went) on(?! (?:a|an|the|top|each|one)\\b)", "continue, or resume", "training goes on"),
    Word("(?:hosts?|ranks|nodes|processes|they)(?: do not| must)? (?:meet|met)", "rendezvous", "the hosts do not meet"),
    Word("meets? at|meeting (?:place|point)", "rendezvous", "a meeting point for the hosts"),
    Word("twins?", "QDQ graph", "the twin of the network"),
    Word("(?<!exit.)(?<!error.)(?<!status.)codes", "quantized levels, or quant_max", "the 256 codes of a tensor"),
    Word("(?:middle|smallest|largest|8-bit|changed) code", "quantized level", "zero has the middle code"),
    Word("parts (?:they|it) came in|(?:merge|join)[sd]? (?:the |all )?parts", "shards", "it merges the parts"),
    Word("as (?:it is|they are)(?! \\w+(?:ed|en|ing)\\b)", "unchanged", "the weights as they are"),
    Word("anew", "again", "write the report anew"),
    Word("(?:has|have|had) no use", "is not used", "the key has no use here"),
)


def main() -> int:
    """Check the files named on the command line, else all that git tracks; return the exit status."""
    paths = [Path(name) for name in sys.argv[1:]] or _tracked_files()
    problems = [
        f"{path}:{line}: {found!r}: write {word.instead}"
        for path in paths
        if path != Path(THIS_FILE)
        for line, found, word in find_words(path.read_text(encoding="utf-8"), is_python=path.suffix == ".py")
    ]
    print(*problems, sep="\n", end="\n" if problems else "", file=sys.stderr)
    return 1 if problems else 0


def find_words(text: str, *, is_python: bool) -> list[tuple[int, str, Word]]:
    """Return the line, the text and the entry of each word found, by line."""
    passages = _prose_of_python(text) if is_python else [(1, text)]
    found = [
        (
            line + passage.count("\n", 0, match.start()),
            " ".join(match.group().split()),
            WORDS[(match.lastindex or 1) - 1],
        )
        for line, passage in passages
        for match in _ANY_WORD.finditer(passage)
    ]
    return sorted(found)


# A space may be the end of a line, in a comment too. The groups are those of WORDS, whose patterns have none.
_ANY_WORD = re.compile(
    rf"(?<![.\w])(?:{'|'.join(f'({word.pattern})' for word in WORDS)})\b".replace(" ", r"\s+(?:#\s*)?"), re.IGNORECASE
)


def _prose_of_python(text: str) -> Iterator[tuple[int, str]]:
    """Yield comments, strings, and the names of functions as words, each with the line on which it starts."""
    comments: list[tuple[int, str]] = []
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type != tokenize.COMMENT:
            continue
        first, lines = comments.pop() if comments else (0, "")
        if first + lines.count("\n") + 1 == token.start[0]:  # a phrase may be broken between two lines
            comments.append((first, f"{lines}\n{token.string}"))
        else:
            comments += [(first, lines), (token.start[0], token.string)]
    yield from comments
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value
        elif isinstance(node, ast.FunctionDef):
            yield node.lineno, node.name.replace("_", " ")


def _tracked_files() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z", *CHECKED], capture_output=True, text=True, check=True).stdout
    return [path for path in map(Path, filter(None, listed.split("\0"))) if path.exists()]


if __name__ == "__main__":
    sys.exit(main())
