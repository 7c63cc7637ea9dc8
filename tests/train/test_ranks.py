"""Training in several real CPU processes, by torchrun's agent and gloo."""

import copy
import os
import shutil
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
    kill_one_of_two_and_resume,
    ranks_of,
    start,
    train,
    wait_for_epoch,
    wait_until_gone,
)
from recipes import params
from safetensors.torch import load_file
from torch import Tensor, nn

from ptqflow.core.ranks import Ranks
from ptqflow.data.accuracy import evaluate
from ptqflow.data.preprocessing import to_input
from ptqflow.models.logits import compute_logits
from ptqflow.train.augmentation import crop_and_flip, draw_epoch
from ptqflow.train.batches import Batches

pytestmark = pytest.mark.slow
CPU = torch.device("cpu")

NORMED = 'network="normed"'  # without batch normalization
RECIPES = {
    "uneven batches": ["images=31", "epochs=1"],
    "a last batch of two images for each of three": ["images=30", "epochs=1"],
    "the whole recipe": [
        "epochs=2",
        "ema_decay=0.5",
        'select="best"',
        'schedule="one_cycle"',
        "label_smoothing=0.1",
        "cutout=4",
    ],
}


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param(changes, id=name, marks=[] if "whole" in name else [pytest.mark.extra])
        for name, changes in RECIPES.items()
    ],
)
def test_without_batch_norm_any_number_of_ranks_trains_the_same_network_but_for_rounding(changes: list[str]) -> None:
    alone, rows = train(1, NORMED, *changes)
    for ranks in (2, 3):
        weights, its_rows = train(ranks, NORMED, *changes)
        for name, tensor in alone.items():
            torch.testing.assert_close(weights[name], tensor, rtol=1e-4, atol=1e-5)
        for row, its_row in zip(rows, its_rows, strict=True):
            assert its_row["train_top1"] == row["train_top1"], "each image counts once"
            assert its_row["val_top1"] == row["val_top1"], "each image counts once"
            assert its_row == pytest.approx(row, rel=1e-4)


def train_in_shares(ranks: int, epochs: int) -> dict[str, Tensor]:
    """Train in one process a replica for each rank on its share of every batch, with gradients summed over all."""
    torch.manual_seed(0)
    first, recipe, train_split = miniature.residual(len(miniature.CLASSES)), params(), miniature.split(30)
    replicas = [copy.deepcopy(first).to(memory_format=torch.channels_last) for _ in range(ranks)]
    optimizers = [
        torch.optim.SGD(one.parameters(), recipe.lr, recipe.momentum, weight_decay=recipe.weight_decay)
        for one in replicas
    ]
    batches = [Batches(train_split, recipe.batch_size, Ranks(rank, ranks), CPU) for rank in range(ranks)]
    for epoch in range(1, epochs + 1):
        draws = draw_epoch(30, recipe.crop_padding, True, recipe.seed, epoch)
        for shares in zip(*(one.epoch(draws) for one in batches), strict=True):
            for replica, share in zip(replicas, shares, strict=True):
                images = crop_and_flip(share.images, share.draws.places, share.draws.mirrored, recipe.crop_padding)
                logits = replica(to_input(images, miniature.NORMALIZATION, torch.channels_last))
                replica.zero_grad()
                (nn.functional.cross_entropy(logits, share.labels, reduction="sum") / share.total).backward()
            for same in zip(*(replica.parameters() for replica in replicas), strict=True):
                total = torch.stack([parameter.grad for parameter in same]).sum(dim=0)
                for parameter in same:
                    parameter.grad = total.clone()
            for optimizer in optimizers:
                optimizer.step()
        for replica in replicas[1:]:
            replica.load_state_dict(replicas[0].state_dict())
    return replicas[0].state_dict()


@pytest.mark.parametrize("synchronized", ["true", "false"])
@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_on_cpus_each_rank_normalizes_its_own_share_whatever_sync_batchnorm_is(ranks: int, synchronized: str) -> None:
    weights, _ = train(ranks, "epochs=2", f"sync_batchnorm={synchronized}")
    for name, tensor in train_in_shares(ranks, epochs=2).items():
        torch.testing.assert_close(weights[name], tensor, rtol=1e-4, atol=1e-5)


def test_two_ranks_train_equal_bits_each_time() -> None:
    weights, rows = train(2, "epochs=2")
    shutil.rmtree("checkpoints")
    again, same_rows = train(2, "epochs=2")
    assert rows == same_rows
    assert all(torch.equal(tensor, again[name]) for name, tensor in weights.items())


def test_the_figures_are_those_of_the_network_that_is_kept() -> None:
    weights, rows = train(2, "epochs=2", "images=60", "val=50")
    model = miniature.residual(len(miniature.CLASSES))
    model.load_state_dict(weights)
    val = miniature.split(50, seed=1)
    logits = compute_logits(model, val, miniature.NORMALIZATION, 256, "val")
    assert rows[-1]["val_loss"] == pytest.approx(evaluate(logits, val.labels).loss, abs=2e-6)


def test_a_last_batch_of_fewer_than_two_images_a_rank_is_left_out() -> None:
    _, rows = train(3, "epochs=1", "images=29")
    assert rows[0]["train_top1"] * 24 == pytest.approx(round(rows[0]["train_top1"] * 24), abs=1e-4), "of 24 images"


def test_ranks_that_skip_different_layers_at_random_train_together() -> None:
    weights, rows = train(2, "epochs=2", "images=60", 'network="dropping"')
    assert all(tensor.isfinite().all() for tensor in weights.values())
    assert len(rows) == 2


ENDLESS = "epochs=1000000"


@pytest.mark.parametrize("victim", [0, pytest.param(1, marks=pytest.mark.extra)])
def test_a_killed_rank_ends_all_others_within_30_seconds_and_training_resumes_from_the_checkpoint(victim: int) -> None:
    kill_one_of_two_and_resume(victim, "epochs=60", "images=200")


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


def test_a_mistake_of_every_rank_is_reported_once() -> None:
    process = start(3, "weights", "images=1", "epochs=1")
    output, errors = process.communicate(timeout=120)
    assert (process.returncode, output) == (1, "")
    assert errors == "train: training needs 6 images or more, the train split has 1\n"


def test_divergence_is_reported_once() -> None:
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


def test_two_hosts_train_together_at_the_address_of_the_first(free_port: int) -> None:
    alone, _ = train(1, NORMED, "epochs=1")
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port)}
    hosts = [start(1, "of_two", NORMED, "epochs=1", "nodes=2", NODE_RANK=str(node), **place) for node in (0, 1)]
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


def test_hosts_with_other_params_are_refused(free_port: int) -> None:
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port)}
    hosts = [start(1, "of_two", f"lr={node + 1}", "nodes=2", NODE_RANK=str(node), **place) for node in (0, 1)]
    for host in hosts:
        _, errors = host.communicate(timeout=120)
        assert (host.returncode, len(errors.splitlines())) == (1, 1)
        assert errors.startswith("train: rank 1 differs from rank 0 in params; every host needs the same params.yaml")


def test_hosts_without_a_rendezvous_are_refused_with_what_to_set() -> None:
    process = start(1, "weights", "nodes=2")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert errors.startswith(
        "train: 2 hosts need a rendezvous: on each of them set MASTER_ADDR to the address of the first"
    )
