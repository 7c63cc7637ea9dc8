"""Progress bars with an estimate of the time left: on a terminal, and nothing in a log.

Where none is shown, the library that draws them is not imported.
"""

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar, cast

from ptqflow.core.stage import is_rank

T = TypeVar("T")
_DELAY = 1.0  # seconds, before which a pass that ends shows no bar


class Bar(Protocol):
    """What a pass reports its progress to."""

    def update(self, n: int = 1) -> Any:
        """Advance by `n` units."""

    def set_description(self, desc: str) -> Any:
        """Replace the label."""


@contextmanager
def progress_bar(total: int, label: str, unit: str, *, done: int = 0) -> Iterator[Bar]:
    """Yield a bar on stderr, if that is a terminal; it disappears when the block ends. Of several ranks, one shows it.

    Args:
        total: number of units.
        label: what is being done.
        unit: what is counted, in the singular.
        done: units that are done already.
    """
    if not sys.stderr.isatty() or (is_rank() and os.environ["RANK"] != "0"):
        yield _Hidden()
        return
    from tqdm import tqdm

    with tqdm(total=total, desc=label, unit=unit, initial=done, leave=False, delay=_DELAY) as bar:
        yield cast(Bar, bar)


def track(items: Iterable[T], total: int, label: str, unit: str) -> Iterator[T]:
    """Yield the items of a pass, with a `progress_bar` that counts them."""
    with progress_bar(total, label, unit) as bar:
        for item in items:
            yield item
            bar.update()


def print_beside_bars(text: object) -> None:
    """Print a line to stdout; a bar that shows stays below it."""
    if "tqdm" not in sys.modules:
        print(text, flush=True)
        return
    from tqdm import tqdm

    with tqdm.external_write_mode():
        print(text, flush=True)


class _Hidden:
    def update(self, n: int = 1) -> None:
        """Show nothing."""

    def set_description(self, desc: str) -> None:
        """Show nothing."""
