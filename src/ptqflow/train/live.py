"""Figures of a running training: printed lines, and the file that `dvc exp show` and the VS Code extension read."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from sqlite3 import DatabaseError

from dvclive.live import Live
from scmrepo.exceptions import SCMError

from ptqflow.core.errors import PtqflowWarning
from ptqflow.core.progress import print_beside_bars
from ptqflow.core.ranks import Ranks
from ptqflow.train.loop import Epoch


@contextmanager
def live_log(folder: Path, ranks: Ranks, note: str | None = None) -> Iterator[Callable[[Epoch], None]]:
    """Print a note; yield a function that prints an epoch's figures and has DVCLive write them to `folder`.

    The first rank alone prints and writes.

    The folder is no output of a stage and ignored by git, because it holds speeds, which differ from run to run.
    Outside a DVC repository with a commit, or where DVC cannot open its databases, the lines are printed alone.
    """
    if ranks.rank:
        yield lambda _: None
        return
    if note:
        print(note, flush=True)
    if not Path(".dvc").is_dir():  # DVCLive would create a repository
        yield print_beside_bars
        return
    try:
        live = Live(str(folder), save_dvc_exp=False, dvcyaml=None, report=None)
    except SCMError:  # a repository without a commit has no experiments
        yield print_beside_bars
        return
    except (OSError, DatabaseError) as error:
        warnings.warn(f"no figures in {folder}; training continues: {error}", PtqflowWarning, stacklevel=2)
        yield print_beside_bars
        return

    def log(epoch: Epoch) -> None:
        print_beside_bars(epoch)
        live.step = epoch.epoch
        figures = epoch.as_row().model_dump() | {"lr": epoch.lr, "images_per_second": epoch.images_per_second}
        for name, figure in figures.items():
            if figure is not None:
                live.log_metric(name, figure, plot=False)
        live.make_summary()  # type: ignore[no-untyped-call]

    with live:
        yield log
