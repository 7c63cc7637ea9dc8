"""Remotes of every kind for a repository, with the real servers on this host."""

import json
import os
import random
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from repository import Repository

KEY, SECRET = "an-access-key", "a-secret-key"


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
