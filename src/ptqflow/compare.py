"""The INT8 models of two git revisions, image by image."""

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptqflow.core.errors import ArtifactError, DataError
from ptqflow.core.figures import SENSITIVITY
from ptqflow.core.git import committed, git
from ptqflow.core.paths import HEADLINE, PREDICTIONS
from ptqflow.core.printable import printable
from ptqflow.core.text_table import format_text_table
from ptqflow.evaluate.predictions import Prediction, Predictions, changed_rows, load_predictions
from ptqflow.evaluate.significance import (
    ALPHA,
    Pairs,
    count_pairs,
    drop_interval,
    holm_by_class,
    mcnemar,
    paired_figures,
    pairs_by_class,
)
from ptqflow.evaluate.verdict import short_p, verdict

_NETWORK = "int8"
_SHOWN = 20  # changed images in the text; JSON has all
_LAYERS = 3  # in Markdown; JSON has all
_LONGEST_COMMENT = 65_536  # characters, on GitHub
_CUT = "\n\nCut here: a comment has at most 65,536 characters; `ptqflow compare A B --json` prints all.\n"


@dataclass(frozen=True)
class Recorded:
    """What git has of a revision: metrics/evaluate.json and the table of `sensitivity`; empty where it has none."""

    figures: dict[str, float] = field(default_factory=dict)
    layers: dict[str, float] = field(default_factory=dict)
    """SQNR of the output of each module in the INT8 network, in dB."""


@dataclass(frozen=True)
class Comparison:
    """Two INT8 models on the same test images; the drop is what the second loses."""

    names: tuple[str, str]
    """The revisions."""
    classes: tuple[str, ...]
    labels: NDArray[np.int64]
    """(N,), the true classes."""
    models: tuple[Prediction, Prediction]
    recorded: tuple[Recorded, Recorded] = (Recorded(), Recorded())

    @cached_property
    def right(self) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Whether the prediction of each model is the true class, (N,) each."""
        first, second = (model.predicted == self.labels for model in self.models)
        return first, second

    @cached_property
    def pairs(self) -> Pairs:
        """Counts of images by which model is right about them."""
        return count_pairs(*self.right)

    @cached_property
    def changed(self) -> NDArray[np.int64]:
        """Images for which the models predict different classes, those with the largest margins first."""
        return changed_rows(*self.models)

    @cached_property
    def changed_classes(self) -> dict[str, Pairs]:
        """Pairs of each class in which only one model is right about some image."""
        by_class = pairs_by_class(self.labels, *self.right, self.classes)
        return {name: pairs for name, pairs in by_class.items() if pairs.images and not pairs.is_equal}

    @cached_property
    def p_values(self) -> dict[str, float]:
        """McNemar's p-value of each class that has images, adjusted by Holm's method."""
        return holm_by_class(pairs_by_class(self.labels, *self.right, self.classes))

    @cached_property
    def changed_layers(self) -> dict[str, tuple[float, float]]:
        """SQNR in dB of the modules that both networks have and that differ, those that changed most first."""
        first, second = (recorded.layers for recorded in self.recorded)
        both = {name: (first[name], second[name]) for name in first if name in second and first[name] != second[name]}
        return dict(sorted(both.items(), key=lambda item: (-abs(item[1][1] - item[1][0]), item[0])))

    def exceeds(self, max_drop: float | None, significant: bool) -> bool:
        """Return whether the drop is larger than `max_drop` points, or is one that chance does not explain."""
        too_large = max_drop is not None and 100 * self.pairs.drop > max_drop
        return too_large or (significant and self.pairs.drop > 0 and mcnemar(self.pairs) < ALPHA)

    def as_json(self) -> dict[str, Any]:
        """Return all figures, every changed layer, and every changed image."""
        interval = drop_interval(self.pairs)
        return {
            "revisions": list(self.names),
            "images": self.pairs.images,
            "top1": [float(right.mean()) for right in self.right],
            "drop": {"top1": self.pairs.drop, "low": interval.low, "high": interval.high},
            "paired": {**_as_json(self.pairs), "p": mcnemar(self.pairs)},
            "classes": {
                name: {"drop": pairs.drop, **_as_json(pairs), "p_holm": self.p_values[name]}
                for name, pairs in self.changed_classes.items()
            },
            "figures": {name: list(values) for name, values in self._headline().items()},
            "layers": {name: list(values) for name, values in self.changed_layers.items()},
            "changed": [self._changed_image(row) for row in self.changed.tolist()],
        }

    def as_text(self) -> str:
        """Return the figures as text, with the changed images of the largest margins."""
        return "\n\n".join([self._summary(), *self._class_table(), *self._image_table()])

    def as_markdown(self) -> str:
        """Return the figures as a comment on a pull request, of at most 65,536 characters."""
        figures = [(name, _figure(a), _figure(b)) for name, (a, b) in self._headline().items()]
        layers = [(name, _figure(a), _figure(b)) for name, (a, b) in list(self.changed_layers.items())[:_LAYERS]]
        images = [
            tuple(map(_figure, image.values())) for image in map(self._changed_image, self.changed[:_SHOWN].tolist())
        ]
        count = len(self.changed)
        more = f", the {_SHOWN} with the largest margins" if count > _SHOWN else ""
        sections = [
            "\n".join(f"{_cell(line)}  " for line in self._summary().splitlines()),
            *_markdown_table("Figures", ("figure", "A", "B"), figures),
            *_markdown_table("Layers that changed most, SQNR in dB", ("layer", "A", "B"), layers),
            *_markdown_table(
                f"{count} predictions changed{more}", ("image", "true", "A", "B", "margin A", "margin B"), images
            ),
        ]
        text = "\n\n".join(sections) + "\n"
        return text if len(text) <= _LONGEST_COMMENT else text[: _LONGEST_COMMENT - len(_CUT)] + _CUT

    def _headline(self) -> dict[str, tuple[float | None, float | None]]:
        first, second = (recorded.figures for recorded in self.recorded)
        return {name: (first.get(name), second.get(name)) for name in {**first, **second}}

    def _summary(self) -> str:
        first, second = (f"{100 * right.mean():.2f} %" for right in self.right)
        pairs = self.pairs
        figures = paired_figures(pairs, 1 - len(self.changed) / pairs.images)
        return "\n".join(
            [
                f"A is the INT8 model of {self.names[0]}, B that of {self.names[1]}; {pairs.images} test images",
                f"top-1: A {first}, B {second}",
                f"both right {pairs.both_right}, only A {pairs.only_reference_right}, "
                f"only B {pairs.only_candidate_right}, both wrong {pairs.both_wrong}",
                verdict(figures, "A", "B"),
            ]
        )

    def _class_table(self) -> list[str]:
        header = ("class", "images", "drop", "only A", "only B", "p (Holm)")
        rows = [
            (name, str(pairs.images), f"{100 * pairs.drop:.2f}", *_discordant(pairs), short_p(self.p_values[name]))
            for name, pairs in self.changed_classes.items()
        ]
        return [format_text_table([header, *rows], "<>>>>>")] if rows else []

    def _image_table(self) -> list[str]:
        if not len(self.changed):
            return ["No prediction changed."]
        header = ("image", "true", "A", "B", "margin A", "margin B")
        rows = [
            tuple(f"{value:.3f}" if isinstance(value, float) else str(value) for value in image.values())
            for image in map(self._changed_image, self.changed[:_SHOWN].tolist())
        ]
        more = len(self.changed) - len(rows)
        title = f"{len(self.changed)} predictions changed" + (f", {more} more than these:" if more else ":")
        return [f"{title}\n{format_text_table([header, *rows], '><<<>>')}"]

    def _changed_image(self, row: int) -> dict[str, Any]:
        first, second = self.models
        return {
            "image": row,
            "true": self.classes[self.labels[row]],
            "a": self.classes[first.predicted[row]],
            "b": self.classes[second.predicted[row]],
            "margin_a": float(first.margin[row]),
            "margin_b": float(second.margin[row]),
        }


def compare_revisions(first: str, second: str, repository: Path = Path()) -> Comparison:
    """Compare the INT8 models of two git revisions; see `fetch_predictions`.

    Raises:
        ArtifactError: the predictions of a revision cannot be read.
        DataError: the test images of the revisions differ, or have no labels.
    """
    one, other = (fetch_predictions(revision, repository) for revision in (first, second))
    if one.card.test_sha256 != other.card.test_sha256 or one.card.classes != other.card.classes:
        raise DataError(
            f"{first} and {second} were evaluated on different test images or classes, so they cannot be compared; "
            "choose revisions with the same data"
        )
    if one.labels is None:
        raise DataError(
            f"{first} and {second} were evaluated on images without labels, and revisions are compared by labels; `dvc "
            "metrics diff` compares their agreement with FP32"
        )
    models = (one.networks[_NETWORK], other.networks[_NETWORK])
    recorded = (read_recorded(first, repository), read_recorded(second, repository))
    return Comparison((first, second), one.card.classes, one.labels, models, recorded)


def read_recorded(revision: str, repository: Path = Path()) -> Recorded:
    """Read from git the headline figures of a revision, and its SQNR of each module.

    Raises:
        ArtifactError: a file is not what a stage writes.
    """
    project = _find_project(repository.resolve())
    commit = _resolve(project, revision)
    try:
        figures = {key: float(x) for key, x in json.loads(committed(project, commit, HEADLINE) or "{}").items()}
        table = csv.DictReader((committed(project, commit, SENSITIVITY.path) or "").splitlines())
        layers = {row["module"]: float(row["network_sqnr_db"]) for row in table if row["network_sqnr_db"]}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(
            f"metrics/ of {revision} is not what this version of ptqflow writes: run `dvc repro` on a checkout of it"
        ) from error
    return Recorded(figures, layers)


def fetch_predictions(revision: str, repository: Path = Path()) -> Predictions:
    """Return the predictions that `evaluate` wrote at a git revision, from DVC's cache or else its default remote.

    Those of the project are searched first, then those of its other git worktrees.

    Args:
        revision: a commit, branch, tag or DVC experiment; what is not committed does not count.
        repository: a folder of a DVC project, which may be a subdirectory of its git repository.

    Raises:
        ArtifactError: `repository` is not in a DVC project in a git repository that git trusts, there is no such
            revision, or its predictions were never made, are in neither place, or are damaged.
    """
    project = _find_project(repository.resolve())
    with TemporaryDirectory() as folder:
        target = _download(project, revision, Path(folder))
        try:
            return load_predictions(target)
        except ArtifactError as error:
            raise ArtifactError(
                f"the predictions of {revision} are damaged in DVC's cache or remote, or another version of ptqflow "
                f"wrote them: delete them there, then run `dvc repro` on a checkout of {revision}"
            ) from error


def _download(project: Path, revision: str, folder: Path) -> Path:
    """Return a new subfolder with the predictions of a revision."""
    from dvc.api import DVCFileSystem

    prefix = _git_prefix(project)
    commit = _resolve(project, revision)
    path = f"{prefix}{PREDICTIONS}"
    failures: list[Exception] = []
    for number, worktree in enumerate(_worktrees(project, prefix)):
        target = folder / str(number)
        try:
            files = DVCFileSystem(worktree, rev=commit, subrepos=True)  # to DVC, one in a subdirectory is a subrepo
            if files.isdir(path):
                files.get(path, str(target), recursive=True)
                return target
        except Exception as error:  # of a missing object, a remote or its library: they share no class
            failures.append(error)
    if not failures:
        raise ArtifactError(
            f"the dvc.lock of {revision} has no {path}: run `dvc repro` on a checkout of {revision} and commit dvc.lock"
        )
    raise ArtifactError(
        f"DVC can read the predictions of {revision} neither from its cache nor from its default remote "
        f"({failures[0]}): on a checkout of {revision}, run `dvc pull {PREDICTIONS}` if they were pushed, else "
        "`dvc repro`"
    ) from failures[0]


def _resolve(project: Path, revision: str) -> str:
    """Return the hash of a revision, which may have another meaning in another worktree, as HEAD has."""
    from dvc.repo import Repo
    from dvc.scm import RevError, resolve_rev

    if not revision:  # DVC would read the working tree
        raise ArtifactError("the name of a revision is empty; it must be a commit, branch, tag or DVC experiment")
    try:
        with Repo(str(project)) as repo:
            commit: str = resolve_rev(repo.scm, revision)
    except RevError:
        raise ArtifactError(f"there is no git revision {revision}") from None
    return commit


def _worktrees(project: Path, prefix: str) -> list[Path]:
    """Return a project and the places where other worktrees of its git repository have it, with caches of their own."""
    listed = git(project, "worktree", "list", "--porcelain").stdout.splitlines()
    paths = [Path(line.removeprefix("worktree ")) / prefix for line in listed if line.startswith("worktree ")]
    return [project, *(path for path in paths if (path / ".dvc").is_dir() and not path.samefile(project))]


def _find_project(folder: Path) -> Path:
    """Return the root of the DVC project that a folder is in."""
    for parent in (folder, *folder.parents):
        if (parent / ".dvc").is_dir():
            return parent
    raise ArtifactError(f"{folder} is in no DVC project: run this in a clone of the repository, where dvc.yaml is")


def _git_prefix(project: Path) -> str:
    """Return the path of a project in its git repository, which is empty or ends with a slash."""
    asked = git(project, "rev-parse", "--show-prefix")
    if asked.returncode == 0:
        return asked.stdout.removesuffix("\n")
    said = asked.stderr.strip().splitlines()
    if "safe.directory" in said[-1]:
        raise ArtifactError(
            f"git does not trust {project}, which belongs to another user; if you do, run `{said[-1].strip()}`"
        )
    raise ArtifactError(f"{project} is in no git repository, so it has no revisions ({said[0]})")


def _discordant(pairs: Pairs) -> tuple[str, str]:
    return str(pairs.only_reference_right), str(pairs.only_candidate_right)


def _as_json(pairs: Pairs) -> dict[str, int]:
    return {
        "both_right": pairs.both_right,
        "only_a_right": pairs.only_reference_right,
        "only_b_right": pairs.only_candidate_right,
        "both_wrong": pairs.both_wrong,
    }


def _markdown_table(title: str, header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    if not rows:
        return []
    lines = [header, ("---",) * len(header), *rows]
    return [f"**{title}**", "\n".join("| " + " | ".join(line) + " |" for line in lines)]


def _figure(value: object) -> str:
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else _cell(str(value))


def _cell(text: str) -> str:
    """Return text without meaning to Markdown or HTML: classes are named by folders of any name."""
    shown = "".join("\\" + character if character in "\\|`*_[]" else character for character in printable(text))
    return shown.replace("&", "&amp;").replace("<", "&lt;").replace("@", "&#64;")
