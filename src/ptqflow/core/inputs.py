"""Fixed names for the files that params.yaml points to.

DVC hashes only paths that are listed in dvc.yaml, and a path that may also be null or the name of published weights
cannot be listed there. So each key has a link in `inputs/`, which DVC follows: it points to the user's file or folder,
or is a file that holds null where there is none. A change of the bytes that a link points to reruns what depends on it.
"""

from pathlib import Path

from ptqflow.core.paths import INPUTS

DATA = INPUTS / "data.path"
WEIGHTS = INPUTS / "model.weights"
CODE = INPUTS / "model.name"
CLASSES = INPUTS / "classes.json"
"""Names of the network's classes, where those of the data set are unknown."""
PREPROCESSING = INPUTS / "preprocessing.json"
"""What the sections `data` and `model` and the description of the weights say together: all that `fetch` must know of
the network, so that another network with the same preprocessing fetches nothing."""


def given(link: Path) -> Path | None:
    """Return the link if it points to a file or folder of the user's, None if the key is null."""
    return link if link.is_symlink() else None
