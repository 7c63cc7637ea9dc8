"""Run a stage in several processes: torchrun's elastic agent starts, monitors and ends them together."""

import logging
import os
import signal
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from ptqflow.core.errors import LaunchError, describe_exit
from ptqflow.core.stage import LAUNCHER, is_rank

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

_TRACEBACK = "Traceback (most recent call last)"


def run_in_ranks(processes: int, nodes: int = 1) -> bool:
    """Run this script again in `processes` processes on each of `nodes` hosts, and wait for them.

    The rendezvous is torchrun's: MASTER_ADDR and MASTER_PORT (default: 29500) are those of the first host, NODE_RANK
    (default: 0) is the number of this one.

    Returns:
        False if nothing was started, because one process is asked for or this one is a rank: it does the work itself.

    Raises:
        LaunchError: a rank has failed, and all others have been ended; the rendezvous failed; or torchrun has started
            another number of ranks.
    """
    if is_rank():
        _require_started(processes, nodes)
        return False
    if processes * nodes == 1:
        return False
    from torch.distributed import DistError
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous import RendezvousError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    os.environ[LAUNCHER] = str(os.getpid())
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # failures are reported once, below
    with TemporaryDirectory() as logs:
        config = LaunchConfig(
            min_nodes=nodes,
            max_nodes=nodes,
            nproc_per_node=processes,
            run_id="none",  # torchrun's own default, so that it may start the other hosts
            max_restarts=0,
            logs_specs=DefaultLogsSpecs(log_dir=logs),
            **_rendezvous(nodes),
        )
        try:
            elastic_launch(config, sys.executable)(*sys.argv)
        except ChildFailedError as error:
            raise LaunchError(_describe(error)) from None
        except (DistError, RendezvousError, TimeoutError) as error:
            reason = str(error).partition("\n")[0]
            raise LaunchError(f"the rendezvous at {config.rdzv_endpoint} failed: {reason}") from None
        except SignalException as end:  # the agent has ended the ranks; end as without it
            signal.signal(end.sigval, signal.SIG_DFL)
            os.kill(os.getpid(), end.sigval)
    return True


def _require_started(processes: int, nodes: int) -> None:
    started = os.environ["WORLD_SIZE"]
    if int(started) != processes * nodes:
        raise LaunchError(
            f"torchrun has started {started} ranks, params.yaml asks for {processes} on each of {nodes} hosts; start "
            "as many, or change it"
        )


def _rendezvous(nodes: int) -> dict[str, Any]:
    if nodes == 1:
        return {"rdzv_backend": "c10d", "rdzv_endpoint": "localhost:0", "local_addr": "localhost"}
    address = os.environ.get("MASTER_ADDR")
    if not address:
        raise LaunchError(
            f"{nodes} hosts need a rendezvous: on each of them set MASTER_ADDR to the address of the first, and "
            "NODE_RANK to 0, 1, …"
        )
    rank, endpoint = os.environ.get("NODE_RANK", "0"), f"{address}:{os.environ.get('MASTER_PORT', '29500')}"
    if not (rank.isdecimal() and int(rank) < nodes):
        raise LaunchError(f"NODE_RANK is {rank!r}; it is 0 on the first of {nodes} hosts and {nodes - 1} on the last")
    print(f"host {rank} of {nodes}: waiting for the others at {endpoint}", flush=True)
    return {"rdzv_backend": "static", "rdzv_endpoint": endpoint, "rdzv_configs": {"rank": int(rank)}}


def _describe(error: "ChildFailedError") -> str:
    """Return the failure that caused the others: the agent ends the remaining ranks by SIGTERM."""
    failures: list[ProcessFailure] = [failure for _, failure in sorted(error.failures.items())]
    own = [failure for failure in failures if failure.exitcode != -signal.SIGTERM] or failures
    for failure in own:
        if failure.exitcode < 0:
            end = describe_exit(failure.exitcode)
            return f"rank {failure.local_rank} {end}, and the others with it; run `dvc repro` again"
    for failure in own:
        if not Path(failure.error_file).is_file():  # torch's message is then about how to get one
            end = describe_exit(failure.exitcode)
            return f"rank {failure.local_rank} {end} and left no message, and the others were ended with it"
        if not str(failure.message).startswith(_TRACEBACK):
            return str(failure.message)
    sys.stderr.write(str(own[0].message))
    return f"rank {own[0].local_rank} failed, and the others with it"
