"""Stages in several processes, with real dvc."""

import json

import pytest
from repository import Repository

pytestmark = pytest.mark.slow


def test_any_number_of_processes_writes_the_same_bytes(repository: Repository) -> None:
    repository.set_params({"calib": {"batches": 22}, "run": {"batch_size": 3}})
    names = ("models/statistics", "data/logits", "metrics/plots/calib_tensors.csv")
    written = []
    for processes in (1, 2, 3):
        repository.set_params({"run": {"processes": processes}})
        for stage in ("calib", "convert", "predict@int8", "predict@fp32"):
            assert repository.run("dvc", "repro", "--force", "--single-item", "--no-run-cache", stage).ran == [stage]
        written.append(repository.contents(*names))
    assert written[0] == written[1] == written[2]


@pytest.mark.extra
def test_a_network_trained_on_two_devices_is_what_later_stages_take(repository: Repository) -> None:
    network = repository.contents("models/fp32")
    repository.set_params({"train": {"devices": 2}})

    result = repository.run("dvc", "repro")

    assert result.ran[0] == "train"
    assert result.output.count("epoch 1: ") == 1, "one rank prints"
    assert repository.contents("models/fp32") != network, "each process normalizes its own share of a batch"
    evaluated = json.loads(repository.read("metrics/evaluate.json"))
    assert 0 <= evaluated["fp32_top1"] <= 1
