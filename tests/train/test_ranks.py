"""Training in several real processes, by torchrun's agent and gloo."""

import os
import signal
import socket
import subprocess
import sys
import time

import miniature
import pytest
import torch
from rank_processes import (
    SCRIPT,
    TESTS,
    kill_one_of_two_and_go_on,
    ranks_of,
    start,
    train,
    wait_for_epoch,
    wait_until_gone,
)
from safetensors.torch import load_file

from ptqflow.models.accuracy import compute_logits, evaluate

pytestmark = pytest.mark.slow


RECIPES = {
    "uneven batches": ["images=29", "epochs=1"],
    "a last batch of an image for each of three": ["images=27", "epochs=1"],
    "the whole recipe": [
        "epochs=2",
        "ema_decay=0.5",
        'select="best"',
        'schedule="one_cycle"',
        "label_smoothing=0.1",
        "cutout=4",
    ],
}


@pytest.mark.parametrize("changes", RECIPES.values(), ids=RECIPES)
def test_any_number_of_ranks_trains_the_same_network_but_for_rounding(changes: list[str]) -> None:
    alone, rows = train(1, *changes)
    for ranks in (2, 3):
        weights, its_rows = train(ranks, *changes)
        for name, tensor in alone.items():
            torch.testing.assert_close(weights[name], tensor, rtol=1e-4, atol=1e-5)
        for row, its_row in zip(rows, its_rows, strict=True):
            assert its_row["train_top1"] == row["train_top1"], "each image counts once"
            assert its_row["val_top1"] == row["val_top1"], "each image counts once"
            assert its_row == pytest.approx(row, rel=1e-4)


def test_a_last_batch_of_fewer_images_than_ranks_is_left_out() -> None:
    _, rows = train(3, "epochs=1", "images=26")
    assert rows[0]["train_top1"] * 24 == pytest.approx(round(rows[0]["train_top1"] * 24), abs=1e-4), "of 24 images"


def test_ranks_that_leave_out_other_layers_by_chance_train_together() -> None:
    weights, rows = train(2, "epochs=2", "images=60", "drops=true", "sync_batchnorm=false")
    assert all(tensor.isfinite().all() for tensor in weights.values())
    assert len(rows) == 2


def test_without_synced_batch_normalization_the_figures_are_those_of_the_network_that_is_kept() -> None:
    weights, rows = train(2, "epochs=2", "images=60", "val=50", "sync_batchnorm=false")
    model = miniature.residual(len(miniature.CLASSES))
    model.load_state_dict(weights)
    val = miniature.split(50, seed=1)
    logits = compute_logits(model, val, miniature.NORMALIZATION, 256, "val")
    assert rows[-1]["val_loss"] == pytest.approx(evaluate(logits, val.labels).loss, abs=2e-6)


def test_without_synced_batch_normalization_each_rank_sees_its_share_alone() -> None:
    alone, _ = train(1, "epochs=1")
    apart, _ = train(2, "epochs=1", "sync_batchnorm=false")
    assert not torch.allclose(apart["bn1.running_mean"], alone["bn1.running_mean"], rtol=1e-3)


def test_without_synced_batch_normalization_a_last_batch_of_too_few_images_is_left_out() -> None:
    weights, rows = train(3, "epochs=1", "sync_batchnorm=false", "images=26")
    assert all(tensor.isfinite().all() for tensor in weights.values())
    assert rows[0]["train_top1"] * 24 == pytest.approx(round(rows[0]["train_top1"] * 24), abs=1e-4), "of 24 images"


ENDLESS = "epochs=1000000"


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_rank_ends_all_others_within_30_seconds_and_training_goes_on_from_the_checkpoint(victim: int) -> None:
    kill_one_of_two_and_go_on(victim, "epochs=60", "images=200")


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_rank_outlives_its_launcher(sign: signal.Signals) -> None:
    process = start(2, "weights", ENDLESS)
    wait_for_epoch(process)
    ranks = ranks_of(process.pid)
    assert len(ranks) == 2
    process.send_signal(sign)
    began = time.monotonic()
    process.communicate(timeout=60)
    wait_until_gone(ranks, 2)
    assert time.monotonic() - began < 2 or sign == signal.SIGKILL


def test_a_mistake_that_every_rank_makes_is_told_once() -> None:
    process = start(3, "weights", "images=1", "epochs=1")
    output, errors = process.communicate(timeout=120)
    assert (process.returncode, output) == (1, "")
    assert errors == "train: training needs 3 images or more, the train split has 1\n"


def test_divergence_is_told_once_and_by_all() -> None:
    process = start(2, "weights", "lr=1e38", "epochs=9")
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    assert len(errors.splitlines()) == 1
    assert errors.startswith("train: training diverged in epoch 1, step ")


@pytest.fixture
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def test_two_hosts_meet_where_the_first_one_waits(free_port: int) -> None:
    alone, _ = train(1, "epochs=1")
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port)}
    hosts = [start(1, "of_two", "epochs=1", "nodes=2", NODE_RANK=str(node), **place) for node in (0, 1)]
    for host in hosts:
        _, errors = host.communicate(timeout=120)
        assert host.returncode == 0, errors
    for name, tensor in load_file("of_two").items():
        torch.testing.assert_close(tensor, alone[name], rtol=1e-4, atol=1e-5)


def test_torchrun_may_start_the_other_hosts(free_port: int) -> None:
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port)}
    first = start(1, "of_two", "epochs=1", "nodes=2", **place)
    options = f"--nnodes 2 --nproc-per-node 1 --node-rank 1 --master-addr 127.0.0.1 --master-port {free_port}"
    second = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", *options.split(), SCRIPT, "1", "of_two", "epochs=1", "nodes=2"],
        env=os.environ | {"PYTHONPATH": f"{TESTS.parent / 'src'}:{TESTS}", "OMP_NUM_THREADS": "1"},
        timeout=120,
        check=False,
    )
    _, errors = first.communicate(timeout=120)
    assert (first.returncode, second.returncode) == (0, 0), errors
    assert load_file("of_two")


def test_hosts_with_other_params_are_told_so(free_port: int) -> None:
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port)}
    hosts = [start(1, "of_two", f"lr={node + 1}", "nodes=2", NODE_RANK=str(node), **place) for node in (0, 1)]
    for host in hosts:
        _, errors = host.communicate(timeout=120)
        assert (host.returncode, len(errors.splitlines())) == (1, 1)
        assert errors.startswith("train: rank 1 differs from rank 0 in params; give every host the same params.yaml")


def test_hosts_without_a_meeting_point_are_told_what_to_set() -> None:
    process = start(1, "weights", "nodes=2")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert errors.startswith(
        "train: 2 hosts need a rendezvous: on each of them set MASTER_ADDR to the address of the first"
    )
