"""Fixed names for the files that params.yaml points to.

DVC hashes only paths that stand in dvc.yaml, and no path stands there that may also be null or the name of published
weights. So each key gets a link in `inputs/` that DVC follows: it points to the user's file or folder, or is a
file that says null where there is none. A change of the bytes behind a link reruns what depends on it.
"""

from pathlib import Path

from ptqflow.core.paths import INPUTS

DATA = INPUTS / "data.path"
WEIGHTS = INPUTS / "model.weights"
CODE = INPUTS / "model.name"


def given(link: Path) -> Path | None:
    """Return the link where it points to a file of the user's, None where the key is null."""
    return link if link.is_symlink() else None
