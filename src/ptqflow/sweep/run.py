"""A sweep from its expressions to experiments in the user's repository."""

import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from dvc.repo import Repo
from dvc.repo.experiments.refs import ExpRefInfo

from ptqflow.core.errors import LaunchError, one_line
from ptqflow.core.figures import EvaluateMetrics, UnlabelledMetrics
from ptqflow.sweep.clone import Clone, CommandError, run_command
from ptqflow.sweep.cluster import Resources, connect, disconnect
from ptqflow.sweep.grid import parse_grid
from ptqflow.sweep.host import describe_host
from ptqflow.sweep.plan import Job, plan_jobs, read_pipeline, without_experiments
from ptqflow.sweep.task import Failed, Finished, Sweep


@dataclass(frozen=True)
class Request:
    """What the command line asks for."""

    expressions: Sequence[str]
    targets: Sequence[str]
    address: str | None
    """Of a cluster of Ray; None: this host alone."""
    git_remote: str
    """Name of a git remote of the repository, or a URL."""
    resources: Resources


def run_sweep(request: Request, report: Callable[[str], None], complain: Callable[[str], None]) -> bool:
    """Run the experiments of a grid that do not exist yet; return whether all of them do now.

    Each is pushed to the git remote and the DVC remote, and fetched to the repository in the working directory as it
    finishes; so what is finished stays whatever happens to the rest.

    Args:
        request: the grid, and where to run it.
        report: called with a line for each job that has finished.
        complain: called with a line for each job that has failed, and about hosts.

    Raises:
        ParamsError: the grid or a target is wrong.
        LaunchError: the repository, a remote, the cluster or a host cannot be used.
    """
    project = _require_project(Path.cwd())
    grid = parse_grid(request.expressions)
    stages = read_pipeline(request.targets)
    jobs = plan_jobs(grid, stages, request.targets)
    commit = _require_commit(project)
    url = _require_git_remote(project, request.git_remote)
    finished = _fetch_experiments(project, url, commit, [job.experiment for job in jobs if job.experiment])
    for name in finished:
        report(f"{name} exists and is not run again; `dvc exp remove -g {url} {name}` removes it")
    jobs = without_experiments(jobs, finished)
    sweep = Sweep(commit, describe_host().versions, stages, url, _author(project))
    with _probed_remote(project) as probe:
        if not jobs:
            return True
        cluster = connect(request.address, request.resources, complain)
        try:
            cluster.check(sweep, probe)
            _push_results(project, jobs)
            with closing(cluster.run(jobs, sweep)) as outcomes:
                return _report_all(outcomes, jobs, sweep, project, report, complain)
        finally:
            disconnect()


def _report_all(
    outcomes: Iterator[tuple[Job, str, Finished | Failed]],
    jobs: Sequence[Job],
    sweep: Sweep,
    project: Path,
    report: Callable[[str], None],
    complain: Callable[[str], None],
) -> bool:
    """Report what happens to each job; return whether all experiments exist in the end."""
    total = sum(job.experiment is not None for job in jobs)
    count = 0
    for job, host, outcome in outcomes:
        if isinstance(outcome, Failed):
            complain(f"{_title(job)} failed on {host}: {outcome.message}")
        elif job.experiment is None:
            ran = ", ".join(outcome.ran) or "nothing: all of it was cached"
            report(f"shared by experiments{_with(job)}: ran {ran} ({host}, {outcome.seconds:.0f} s)")
        else:
            _fetch_experiments(project, sweep.git_remote, sweep.commit, [job.experiment])
            count += 1
            report(f"{count} of {total}: {_title(job)}: {_describe(outcome.figures)} ({host}, {outcome.seconds:.0f} s)")
    if count < total:
        complain(f"{total - count} of {total} experiments are missing; the same command runs them again")
    return count == total


def _title(job: Job) -> str:
    return f"{job.experiment or 'what experiments share'}{_with(job)}"


def _with(job: Job) -> str:
    return f" with {' '.join(job.overrides)}" if job.settings else ""


def _describe(figures: EvaluateMetrics | UnlabelledMetrics | None) -> str:
    if figures is None:
        return "done"
    ratio = "" if figures.median_sqnr_db is None else f", SQNR {figures.median_sqnr_db:.1f} dB"
    if isinstance(figures, UnlabelledMetrics):
        return f"agreement with FP32 {100 * figures.agreement:.2f} %{ratio}"
    return f"INT8 top-1 {100 * figures.int8_top1:.2f} %, drop {100 * figures.drop:.2f} points{ratio}"


def _require_project(folder: Path) -> Path:
    if not (folder / ".dvc").is_dir() or not (folder / ".git").exists():
        raise LaunchError(f"{folder} is not the root of the repository: change to the folder that dvc.yaml is in")
    return folder


def _require_commit(project: Path) -> str:
    """Return the commit that hosts clone."""
    changed = run_command(["git", "status", "--porcelain", "--untracked-files=no"], project).splitlines()
    if changed:
        names = ", ".join(line[3:] for line in changed[:3]) + (", …" if len(changed) > 3 else "")
        raise LaunchError(
            f"the workspace has changes that no commit has ({names}), and experiments run in clones: commit them, or "
            "`git stash`"
        )
    return run_command(["git", "rev-parse", "HEAD"], project).strip()


def _require_git_remote(project: Path, remote: str) -> str:
    """Return the URL of a git remote that takes experiments."""
    known = run_command(["git", "remote"], project).split()
    if remote not in known and "/" not in remote and ":" not in remote:
        has = f"it has {', '.join(known)}" if known else "it has none"
        raise LaunchError(
            f"the repository has no git remote {remote} to push experiments to ({has}): "
            f"`git remote add {remote} URL`, or set --git-remote"
        )
    url = run_command(["git", "remote", "get-url", remote], project).strip() if remote in known else remote
    if (project / url).exists():
        url = str((project / url).resolve())
    try:
        run_command(["git", "push", "--quiet", "--dry-run", url, "HEAD:refs/exps/ptqflow-sweep"], project)
    except CommandError as error:
        raise LaunchError(f"the git remote {remote} ({url}) takes no experiments ({error})") from error
    return url


@contextmanager
def _probed_remote(project: Path) -> Iterator[str]:
    """Write a file into the default DVC remote, by whose name hosts find that they share it; remove it at the end."""
    name = f"ptqflow-sweep-{uuid.uuid4().hex}"
    try:
        with Repo(str(project)) as repo:
            remote = repo.cloud.get_remote()
            path = remote.fs.join(remote.path, name)
            remote.fs.makedirs(remote.path)
            remote.fs.pipe_file(path, b"")
    except Exception as error:  # of DVC, of a remote's library or of the file system: they share no class
        reason = one_line(error)
        raise LaunchError(f"the DVC remote, which a sweep's hosts share, cannot be written: {reason}") from error
    try:
        yield name
    finally:
        remote.fs.remove(path)


def _push_results(project: Path, jobs: Sequence[Job]) -> None:
    """Push what the repository has of the stages that experiments share, so that no host runs them again."""
    shared = [target for job in jobs if job.experiment is None for target in job.targets]
    if shared:
        Clone(project).dvc("push", *dict.fromkeys(shared))


def _fetch_experiments(project: Path, url: str, commit: str, names: Sequence[str]) -> list[str]:
    """Fetch those of these experiments that a git remote has; return their names."""
    refs = {str(ExpRefInfo(commit, name)): name for name in names}
    listed = run_command(["git", "ls-remote", url, f"{ExpRefInfo(commit)}/*"], project).splitlines()
    found = [ref for line in listed if (ref := line.partition("\t")[2]) in refs]
    if found:
        run_command(["git", "fetch", "--quiet", "--no-tags", url, *(f"+{ref}:{ref}" for ref in found)], project)
    return [refs[ref] for ref in found]


def _author(project: Path) -> tuple[str, str]:
    """Return the name and the email of git's configuration."""
    identity = run_command(["git", "var", "GIT_AUTHOR_IDENT"], project)
    name, _, rest = identity.partition(" <")
    return name, rest.partition(">")[0]
