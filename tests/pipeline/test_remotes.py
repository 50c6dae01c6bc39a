"""What one clone pushes to a remote, another pulls: the same bytes, and nothing to run."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import asyncssh
import boto3
import pytest

from mlops.files.atomic import content_hash
from mlops.files.yaml_text import load_yaml
from tests.support.clone import ROOT, commit, dvc, git, run, stages_run

OUTS = ("data", "models", "results", "plots", "report.html", "metrics.json")
BUCKET = "bucket"

# Real servers in processes of their own, which end with their stdin.
S3_SERVER = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
server.stop()
"""
SSH_SERVER = """
import asyncio, sys
import asyncssh

async def serve(host_key, authorized_keys):
    async with asyncssh.listen(
        "127.0.0.1",
        0,
        server_host_keys=[host_key],
        authorized_client_keys=authorized_keys,
        sftp_factory=True,
    ) as server:
        print(server.get_port(), flush=True)
        await asyncio.to_thread(sys.stdin.read)

asyncio.run(serve(*sys.argv[1:]))
"""


@contextmanager
def serving(code: str, *arguments: str) -> Iterator[int]:
    """Start a server on this machine; yield its port."""
    command = [sys.executable, "-c", code, *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as it:
        assert it.stdout is not None
        yield int(it.stdout.readline())
        it.communicate("")


@contextmanager
def folder_remote(workspace: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    url = str(place / "store")
    dvc("remote", "add", "--default", "store", url, cwd=workspace)
    yield url


@contextmanager
def s3_remote(workspace: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    # As a user gives them, and of no account.
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "word")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    url = f"s3://{BUCKET}/videos"
    with serving(S3_SERVER) as port:
        endpoint = f"http://127.0.0.1:{port}"
        boto3.client("s3", endpoint_url=endpoint).create_bucket(Bucket=BUCKET)
        dvc("remote", "add", "--default", "store", url, cwd=workspace)
        dvc("remote", "modify", "store", "endpointurl", endpoint, cwd=workspace)
        yield url


@contextmanager
def ssh_remote(workspace: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    # A user with a key pair who knows the host.
    monkeypatch.setenv("HOME", str(place))
    ssh = place / ".ssh"
    ssh.mkdir()
    host_key, user_key = (asyncssh.generate_private_key("ssh-ed25519") for _ in range(2))
    host_key.write_private_key(place / "host_key")
    user_key.write_private_key(ssh / "id_ed25519")
    user_key.write_public_key(place / "authorized_keys")
    (place / "store").mkdir()
    with serving(SSH_SERVER, str(place / "host_key"), str(place / "authorized_keys")) as port:
        public = host_key.export_public_key().decode()
        (ssh / "known_hosts").write_text(f"[127.0.0.1]:{port} {public}")
        url = f"ssh://127.0.0.1:{port}{place}/store"
        dvc("remote", "add", "--default", "store", url, cwd=workspace)
        yield url


@pytest.fixture(params=[folder_remote, s3_remote, ssh_remote], ids=["folder", "s3", "ssh"])
def remote(
    request: pytest.FixtureRequest, workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """Add a default remote to the clone and commit it; its URL."""
    with request.param(workspace, tmp_path, monkeypatch) as url:
        commit(workspace, "a remote")
        yield url


def contents(root: Path) -> dict[str, str]:
    return {name: content_hash(root / name) for name in OUTS}


def test_a_second_clone_pulls_the_same_bytes_and_has_nothing_to_run(
    workspace: Path, remote: str, tmp_path: Path
) -> None:
    assert "file" in dvc("push", cwd=workspace)
    second = tmp_path / "second"
    git("clone", "--quiet", str(workspace), str(second), cwd=tmp_path)
    assert not (second / "models").exists()
    dvc("pull", cwd=second)
    assert contents(second) == contents(workspace)
    assert stages_run(dvc("repro", cwd=second)) == set()
    assert git("status", "--porcelain", cwd=second) == ""

    # The remote is named by .dvc/config, which git carries.
    said = run(sys.executable, "-m", "commands", "doctor", "--remote", cwd=second)
    assert re.search(r"^ok +DVC remote store ", said, re.MULTILINE)
    assert f"{remote} answers" in said or "://" not in remote


def documented(heading: str) -> list[list[str]]:
    """Return the commands of each block below a heading of docs/restoring.md."""
    page = (ROOT / "docs/restoring.md").read_text()
    section = page.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    blocks = re.findall(r"```\n(.*?)```", section, re.DOTALL)
    return [re.findall(r"^\$ (.*)$", block, re.MULTILINE) for block in blocks]


def test_an_experiment_is_handed_to_a_colleague_as_documented(
    workspace: Path, tmp_path: Path
) -> None:
    sent, taken = documented("One experiment, to a colleague")
    git("init", "--quiet", "--bare", "--initial-branch=main", "git", cwd=tmp_path)
    git("remote", "add", "origin", str(tmp_path / "git"), cwd=workspace)
    dvc("remote", "add", "--default", "store", str(tmp_path / "store"), cwd=workspace)
    commit(workspace, "a remote")
    git("push", "--quiet", "origin", "main", cwd=workspace)
    dvc("exp", "run", "--name", "slower", "-S", "train.learning_rate=1.0e-3", cwd=workspace)
    for command in sent:
        run(*command.split(), cwd=workspace)

    second = tmp_path / "second"
    git("clone", "--quiet", str(tmp_path / "git"), str(second), cwd=tmp_path)
    assert not (second / "models").exists()
    said = [run(*command.split(), cwd=second) for command in taken]
    assert "slower" in said[0]
    assert stages_run(said[-1]) == set()
    assert contents(second) == contents(workspace)
    assert load_yaml(second / "params.yaml") == load_yaml(workspace / "params.yaml")
    assert "up to date" in dvc("status", cwd=second)

    # What each step has logged is in no remote; a copied directory is a run there.
    newest = max(workspace.glob("runs/sample/run_*"))
    shutil.copytree(newest, second / "runs/sample" / newest.name)
    assert f"*  {newest.name}" in run(sys.executable, "-m", "commands", "runs", cwd=second)
