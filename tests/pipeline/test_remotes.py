"""A team's clones over remotes of every kind, with the real servers on this host."""

import json
import os
import random
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

import pytest
from pipeline.test_faults import assert_one_clear_line
from repository import Repository
from samples import image_files, write_folder

KEY, SECRET = "an-access-key", "a-secret-key"
LEFT_OUT = pytest.mark.skipif(shutil.which("sshd") is None, reason="Debian's openssh-server is not installed")
LINKED = {"inputs", "fetch", "dry_run", "train"}
"""Stages that write or read the links of inputs/, which no cache holds."""
Start = Callable[[Repository], AbstractContextManager[None]]


def free_port() -> int:
    """Return a port that is free, and so is the one 10,000 above, on which SeaweedFS speaks gRPC."""
    while True:
        port = random.randrange(20_000, 50_000)
        with socket.socket() as probe, socket.socket() as above, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            above.bind(("127.0.0.1", port + 10_000))
            return port


@contextmanager
def server(port: int, *command: str) -> Iterator[None]:
    """Run a server until the block ends; the block starts once it answers."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            for _ in range(300):
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                assert process.poll() is None, f"{command[0]} ended"
                time.sleep(0.1)
            yield
        finally:
            process.kill()


def set_remote(repository: Repository, url: str, **options: str) -> None:
    repository.run("dvc", "remote", "add", "-d", "store", url)
    for name, value in options.items():
        repository.run("dvc", "remote", "modify", "store", name, value)
    repository.commit("the team's remote")


@contextmanager
def folder(repository: Repository) -> Iterator[None]:
    set_remote(repository, str(repository.path.parent / "a store"))
    yield


@contextmanager
def ssh(repository: Repository) -> Iterator[None]:
    """sshd with keys of this test, for whoever runs it."""
    home, port = repository.path.parent / "ssh", free_port()
    home.mkdir()
    for name in ("host", "user", "stranger"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", home / name], check=True)
    shutil.copy(home / "user.pub", home / "authorized_keys")
    options = ("StrictModes no", "UsePAM no", "Subsystem sftp internal-sftp", f"PidFile {home}/pid")
    (home / "config").write_text(
        "\n".join([f"HostKey {home}/host", f"AuthorizedKeysFile {home}/authorized_keys", *options, ""])
    )
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    sshd = str(shutil.which("sshd"))
    with server(port, sshd, "-D", "-f", str(home / "config"), "-p", str(port), "-o", "ListenAddress=127.0.0.1"):
        user = subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout.strip()
        set_remote(repository, f"ssh://{user}@127.0.0.1:{port}{home}/store", keyfile=str(home / "user"))
        yield


@contextmanager
def s3(repository: Repository) -> Iterator[None]:
    """SeaweedFS, which speaks S3."""
    import boto3

    home, port = repository.path.parent / "s3", free_port()
    (home / "volumes").mkdir(parents=True)
    identity = {
        "name": "team",
        "credentials": [{"accessKey": KEY, "secretKey": SECRET}],
        "actions": ["Admin", "Read", "Write", "List"],
    }
    (home / "identities.json").write_text(json.dumps({"identities": [identity]}))
    ports = [f"-{part}.port={free_port()}" for part in ("master", "volume", "filer")]
    weed = str(Path(sys.executable).with_name("weed"))
    command = [weed, "server", "-ip=127.0.0.1", f"-dir={home / 'volumes'}", *ports, "-s3", f"-s3.port={port}"]
    with server(port, *command, f"-s3.config={home / 'identities.json'}"):
        url = f"http://127.0.0.1:{port}"
        client = boto3.client(
            "s3", endpoint_url=url, aws_access_key_id=KEY, aws_secret_access_key=SECRET, region_name="us-east-1"
        )
        for _ in range(100):  # the gateway answers before there is a volume
            try:
                client.create_bucket(Bucket="team")
                break
            except client.exceptions.ClientError:
                time.sleep(0.2)
        set_remote(
            repository,
            "s3://team/store",
            endpointurl=url,
            access_key_id=KEY,
            secret_access_key=SECRET,
            region="us-east-1",
        )
        yield


REMOTES = [pytest.param(folder, id="folder"), pytest.param(ssh, id="ssh", marks=LEFT_OUT), pytest.param(s3, id="s3")]


def clone(repository: Repository, name: str) -> Repository:
    """Return a colleague's clone, whose cache is empty."""
    home = repository.path.parent / name
    home.mkdir()
    repository.run("git", "clone", "-q", str(repository.path), str(home / "a clone"))
    return Repository(home / "a clone")


def changed(repository: Repository) -> set[str]:
    """Return the stages that `dvc status` lists."""
    return {line.removesuffix(":") for line in repository.run("dvc", "status").output.splitlines() if line[0] != "\t"}


@pytest.mark.slow
@pytest.mark.parametrize("remote", REMOTES)
def test_what_one_pushes_another_has_without_running_a_stage_and_experiments_travel_too(
    repository: Repository, remote: Start
) -> None:
    with remote(repository):
        repository.run("dvc", "push")
        colleague = clone(repository, "colleague")
        assert colleague.run("dvc", "repro", "--pull").ran == []
        assert changed(colleague) == LINKED | {"pipelines/benchmark/dvc.yaml:benchmark"}
        assert colleague.contents("models", "metrics", "data") == repository.contents("models", "metrics", "data")

        colleague.run("dvc", "exp", "run", "-n", "trial", "-S", "calib.batches=3", "calib")
        colleague.run("dvc", "exp", "push", "origin", "trial")
        third = clone(repository, "third")
        third.run("dvc", "exp", "pull", "origin", "trial")
        third.run("dvc", "exp", "apply", "trial")
        assert third.run("dvc", "repro", "--pull", "calib").ran == []
        assert third.contents("models/statistics") == colleague.contents("models/statistics")


def refuse(repository: Repository, option: str, value: str) -> None:
    """Require that a push with a wrong secret fails without a traceback, and that the right one then works."""
    right = repository.run("dvc", "config", f"remote.store.{option}").output.strip()
    repository.run("dvc", "remote", "modify", "store", option, value)
    refused = repository.try_run("dvc", "push", "models/int8")
    assert refused.status
    assert "Traceback" not in refused.output
    repository.run("dvc", "remote", "modify", "store", option, right)
    assert "pushed" in repository.run("dvc", "push", "models/int8").output


@pytest.mark.slow
@LEFT_OUT
def test_a_key_that_the_host_does_not_know_is_refused(repository: Repository) -> None:
    with ssh(repository):
        refuse(repository, "keyfile", str(repository.path.parent / "ssh" / "stranger"))


@pytest.mark.slow
def test_a_wrong_secret_is_refused(repository: Repository) -> None:
    with s3(repository):
        refuse(repository, "secret_access_key", "another-secret")


@pytest.mark.slow
def test_a_clone_without_the_original_images_works_with_what_was_pushed(repository: Repository) -> None:
    photos = write_folder(repository.path.parent / "photos", image_files(20, 6))
    repository.set_params({"data": {"name": "image_folder", "path": str(photos)}})
    with folder(repository):
        repository.run("dvc", "repro", "calib")
        repository.commit("photos of this host")
        repository.run("dvc", "push", "--with-deps", "calib")
        shutil.rmtree(photos)
        colleague = clone(repository, "colleague")

        refused = colleague.try_run("dvc", "repro", "calib")
        assert_one_clear_line(
            refused, f"data.path: {photos} does not exist", "`dvc repro --pull` takes what was pushed"
        )
        assert colleague.run("dvc", "repro", "--pull", "calib").ran == []
        assert colleague.contents("models/statistics") == repository.contents("models/statistics")
        assert colleague.run("dvc", "exp", "run", "--pull", "-S", "calib.batches=1", "calib").ran == ["calib"]
