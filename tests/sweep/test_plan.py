from functools import cache

import pytest
from repository import ROOT

from ptqflow.core.errors import ParamsError
from ptqflow.sweep.grid import parse_grid
from ptqflow.sweep.plan import Job, Stage, plan_jobs, read_pipeline, without_experiments

pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep.value:DeprecationWarning")  # of DVC's use of pygtrie

BEFORE_CALIB = {"fetch", "dry_run", "train", "control", "predict@fp32", "predict@int8_uncalibrated"}


@pytest.fixture(autouse=True)
def _at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def plan(*expressions: str, targets: tuple[str, ...] = ()) -> tuple[Job, ...]:
    return plan_jobs(parse_grid(expressions, ROOT / "params.yaml"), stages_for(targets), targets)


@cache
def stages_for(targets: tuple[str, ...] = ()) -> tuple[Stage, ...]:
    return read_pipeline(targets)


def shared(jobs: tuple[Job, ...]) -> list[tuple[list[str], set[str]]]:
    return [(job.overrides, set(job.targets)) for job in jobs if job.experiment is None]


def test_stages_that_no_swept_key_touches_are_one_job_and_calib_is_one_for_each_number_of_batches() -> None:
    jobs = plan("calib.batches=1,5", "convert.activation.method=mse,minmax")
    assert shared(jobs) == [([], BEFORE_CALIB), (["calib.batches=1"], {"calib"}), (["calib.batches=5"], {"calib"})]
    [first, one, _, *experiments] = jobs
    assert one.needs == {first}
    assert [job.overrides for job in experiments if one in job.needs] == [
        ["calib.batches=1", "convert.activation.method=mse"],
        ["calib.batches=1", "convert.activation.method=minmax"],
    ]
    assert all(first in job.needs for job in experiments)


def test_a_swept_key_of_the_data_leaves_nothing_to_share() -> None:
    assert shared(plan("data.seed=0,1")) == []


def test_stages_of_two_keys_that_do_not_depend_on_each_other_are_shared_side_by_side() -> None:
    found = shared(plan("sensitivity.images=100,200", "export.margin=0.1,0.2"))
    assert (["sensitivity.images=100"], {"sensitivity"}) in found
    assert (["export.margin=0.1"], {"export"}) in found
    assert len(found) == 5


def test_keys_with_one_value_are_set_in_every_job() -> None:
    assert all("train.lr=0.02" in job.overrides for job in plan("calib.batches=1,5", "train.lr=0.02"))


def test_targets_limit_what_is_shared() -> None:
    assert shared(plan("calib.batches=1,5", targets=("calib",))) == [([], {"fetch", "dry_run", "train"})]


def test_links_that_no_cache_holds_are_made_in_every_clone() -> None:
    assert [stage.name for stage in stages_for() if not stage.is_cached] == ["inputs"]
    assert all("inputs" not in job.targets for job in plan("calib.batches=1,5"))


def test_an_experiment_has_the_same_name_in_every_sweep_and_another_one_with_other_targets() -> None:
    [*_, one, two] = plan("calib.batches=1,5")
    [*_, again] = plan("calib.batches=5")
    [*_, other] = plan("calib.batches=5", targets=("evaluate",))
    assert len({one.experiment, two.experiment, other.experiment}) == 3
    assert again.experiment == two.experiment


def test_experiments_that_exist_are_left_out_with_what_only_they_share() -> None:
    jobs = plan("calib.batches=1,5", "convert.activation.method=mse,minmax")
    done = [str(job.experiment) for job in jobs if "calib.batches=1" in job.overrides]
    left = without_experiments(jobs, done)
    assert shared(left) == [([], BEFORE_CALIB), (["calib.batches=5"], {"calib"})]
    assert len(left) == 4
    assert without_experiments(left, [str(job.experiment) for job in left]) == ()


@pytest.mark.parametrize("key", ["run.threads", "benchmark.rounds", "sensitivity.images"])
def test_a_swept_key_that_no_stage_depends_on_is_refused(key: str) -> None:
    with pytest.raises(ParamsError, match=f"-S sweeps {key}, which no stage of the sweep depends on"):
        plan(f"{key}=8,9", targets=("evaluate",))


def test_a_target_that_is_no_stage_is_one_line() -> None:
    with pytest.raises(ParamsError, match=r"dvc: Stage 'converted' not found inside 'dvc.yaml' file"):
        read_pipeline(["converted"])


def test_a_stage_depends_on_the_keys_of_a_section_and_on_a_section_of_its_key() -> None:
    stage = Stage("a", frozenset({"calib", "convert.activation.method"}), is_cached=True)
    keys = ("calib.batches", "calib", "convert", "convert.activation", "convert.activation.method")
    assert all(map(stage.depends_on, keys))
    assert not any(map(stage.depends_on, ("calib_spread.seeds", "convert.activation.methods", "convert.weight")))
