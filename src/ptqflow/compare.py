"""The INT8 models of two git revisions, image by image."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptqflow.core.errors import ArtifactError, DataError
from ptqflow.evaluate.predictions import Prediction, Predictions, changed_rows, load_predictions
from ptqflow.evaluate.significance import Pairs, count_pairs, drop_interval, holm_by_class, mcnemar, pairs_by_class
from ptqflow.evaluate.verdict import short_p, verdict

PREDICTIONS_DIR = "data/predictions"
_NETWORK = "int8"
_SHOWN = 20  # changed images in the text; JSON has all


@dataclass(frozen=True)
class Comparison:
    """Two INT8 models on the same test images; the drop is what the second loses."""

    names: tuple[str, str]
    """The revisions."""
    classes: tuple[str, ...]
    labels: NDArray[np.int64]
    """(N,), the true classes."""
    models: tuple[Prediction, Prediction]

    @cached_property
    def right(self) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """(N,) for each model, where its prediction is the true class."""
        first, second = (model.predicted == self.labels for model in self.models)
        return first, second

    @cached_property
    def pairs(self) -> Pairs:
        """Images by which model is right about them."""
        return count_pairs(*self.right)

    @cached_property
    def changed(self) -> NDArray[np.int64]:
        """Images for which the models predict different classes, those with the largest margins first."""
        return changed_rows(*self.models)

    @cached_property
    def changed_classes(self) -> dict[str, Pairs]:
        """Classes with images that one model alone is right about."""
        by_class = pairs_by_class(self.labels, *self.right, self.classes)
        return {name: pairs for name, pairs in by_class.items() if pairs.images and not pairs.is_equal}

    @cached_property
    def p_values(self) -> dict[str, float]:
        """McNemar's p-value of each class with images, after Holm."""
        return holm_by_class(pairs_by_class(self.labels, *self.right, self.classes))

    def as_json(self) -> dict[str, Any]:
        """Return all figures, and every changed image."""
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
            "changed": [self._changed_image(row) for row in self.changed.tolist()],
        }

    def as_text(self) -> str:
        """Return the figures to be read, with the changed images of the largest margins."""
        return "\n\n".join([self._summary(), *self._class_table(), *self._image_table()])

    def _summary(self) -> str:
        first, second = (f"{100 * right.mean():.2f} %" for right in self.right)
        interval, pairs = drop_interval(self.pairs), self.pairs
        figures = {
            "drop": {"top1": pairs.drop, "low": interval.low, "high": interval.high},
            "agreement": 1 - len(self.changed) / pairs.images,
            "paired": {
                "both_right": pairs.both_right,
                "only_fp32_right": pairs.only_reference_right,
                "only_int8_right": pairs.only_candidate_right,
                "both_wrong": pairs.both_wrong,
                "p": mcnemar(pairs),
            },
        }
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
        rows = [
            (name, str(pairs.images), f"{100 * pairs.drop:.2f}", *_discordant(pairs), short_p(self.p_values[name]))
            for name, pairs in self.changed_classes.items()
        ]
        return [_table(("class", "images", "drop", "only A", "only B", "p (Holm)"), rows)] if rows else []

    def _image_table(self) -> list[str]:
        if not len(self.changed):
            return ["No prediction changed."]
        images = [self._changed_image(row) for row in self.changed[:_SHOWN].tolist()]
        rows = [
            tuple(f"{value:.3f}" if isinstance(value, float) else str(value) for value in image.values())
            for image in images
        ]
        more = len(self.changed) - len(rows)
        title = f"{len(self.changed)} predictions changed" + (f", {more} more than these:" if more else ":")
        return [f"{title}\n{_table(('image', 'true', 'A', 'B', 'margin A', 'margin B'), rows)}"]

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
    """Compare the INT8 models of two git revisions, from DVC's cache or remote.

    Raises:
        ArtifactError: there is no such revision, or its predictions are nowhere to be found.
        DataError: the test images of the revisions differ.
    """
    one, other = (fetch_predictions(revision, repository) for revision in (first, second))
    if one.card.test_sha256 != other.card.test_sha256 or one.card.classes != other.card.classes:
        raise DataError(
            f"{first} and {second} were evaluated on different test images or classes, so they cannot be compared; "
            "take revisions with the same data"
        )
    return Comparison((first, second), one.card.classes, one.labels, (one.networks[_NETWORK], other.networks[_NETWORK]))


def fetch_predictions(revision: str, repository: Path = Path()) -> Predictions:
    """Get the predictions that `evaluate` made at a git revision.

    Raises:
        ArtifactError: there is no git repository or revision, it has no pipeline or keeps no predictions, or they
            are in neither place.
    """
    from dvc.api import DVCFileSystem
    from dvc.exceptions import DvcException
    from dvc.scm import RevError, SCMError
    from dvc_data.index import DataIndexError

    with TemporaryDirectory() as folder:
        target, lock = Path(folder) / "predictions", ""
        try:
            files = DVCFileSystem(str(repository), rev=revision)
            with suppress(FileNotFoundError):
                lock = files.read_text("dvc.lock")
            if not lock and not files.exists("dvc.yaml"):
                raise ArtifactError(f"{revision} has no DVC pipeline: run this in the repository of one")
            if f"path: {PREDICTIONS_DIR}\n" not in lock:
                raise ArtifactError(f"{revision} keeps no predictions: check it out, run `dvc repro`, commit dvc.lock")
            files.get(PREDICTIONS_DIR, str(target), recursive=True)
        except RevError:
            raise ArtifactError(f"there is no git revision {revision}") from None
        except SCMError:
            raise ArtifactError(f"{repository.resolve()} is in no git repository: run this in one") from None
        except (DvcException, DataIndexError, OSError):
            raise ArtifactError(
                f"the predictions of {revision} are neither in DVC's cache nor in a remote: check it out, then run "
                "`dvc pull` where somebody has pushed them, else `dvc repro`"
            ) from None
        return load_predictions(target)


def _discordant(pairs: Pairs) -> tuple[str, str]:
    return str(pairs.only_reference_right), str(pairs.only_candidate_right)


def _as_json(pairs: Pairs) -> dict[str, int]:
    return {
        "both_right": pairs.both_right,
        "only_a_right": pairs.only_reference_right,
        "only_b_right": pairs.only_candidate_right,
        "both_wrong": pairs.both_wrong,
    }


def _table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (header, *rows)
    )
