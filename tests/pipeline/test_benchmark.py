"""The benchmark is a pipeline of its own, on which nothing depends."""

import json
import re

import pytest
from repository import PIPELINES, Repository, stages_of


def test_nothing_depends_on_timings() -> None:
    stages = [stage for file in PIPELINES for stage in stages_of(file).values()]
    assert not [dep for stage in stages for dep in stage["deps"] if "benchmark.json" in dep]


@pytest.mark.slow
@pytest.mark.extra
def test_it_runs_on_demand_and_again_only_for_another_model_or_other_params(repository: Repository) -> None:
    tiny = {"batch_sizes": [1], "threads": 1, "rounds": 3, "seconds": 0.01}
    repository.set_params({"benchmark": tiny})
    assert repository.run("dvc", "repro").ran == []

    assert ran(repository) == ["benchmark"]
    metrics = json.loads(repository.read("metrics/benchmark.json"))
    manifest = json.loads(repository.read("models/export/model.json"))
    assert {"torch_eager", "torchscript", "onnxruntime"} <= set(metrics["speedup"])
    table = repository.read("metrics/plots/benchmark.csv")
    assert table.count(manifest["files"]["int8.onnx"]["sha256"]) == len(metrics["speedup"])
    assert ran(repository) == []

    repository.set_params({"benchmark": tiny | {"rounds": 4}})
    assert ran(repository) == ["benchmark"]

    repository.set_params({"benchmark": tiny | {"threads": 10**6}})
    failed = repository.try_run("dvc", "repro", "pipelines/benchmark/dvc.yaml")
    assert failed.status != 0
    assert "benchmark: benchmark.threads is 1000000, and there are" in failed.output
    assert "Traceback" not in failed.output


def ran(repository: Repository) -> list[str]:
    output = repository.run("dvc", "repro", "pipelines/benchmark/dvc.yaml").output
    return re.findall(r"^Running stage 'pipelines/benchmark/dvc\.yaml:(\w+)'", output, re.MULTILINE)
