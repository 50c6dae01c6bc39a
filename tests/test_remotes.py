"""What one clone pushes to a remote, another pulls: the same bytes, and nothing to run."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest

from mlops.files import content_hash
from tests.clone import commit, dvc, git, run, stages_run
from tests.trainer import the_run

OUTS = ("data", "models", "results", "plots", "report.html", "metrics.json")
BUCKET = "bucket"

# A real S3 server in a process of its own, which ends with its stdin.
SERVER = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
server.stop()
"""


@pytest.fixture(scope="module")
def s3_server() -> Iterator[str]:
    """The URL of an S3 server on this machine."""
    command = [sys.executable, "-c", SERVER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as it:
        assert it.stdout is not None
        port = int(it.stdout.readline())
        yield f"http://127.0.0.1:{port}"
        it.communicate("")


@pytest.fixture(params=["folder", "s3"])
def remote(
    request: pytest.FixtureRequest, workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> str:
    """Add a default remote to the clone and commit it; its URL."""
    if request.param == "folder":
        url = str(tmp_path / "store")
        dvc("remote", "add", "--default", "store", url, cwd=workspace)
    else:
        # As a user gives them, and of no account.
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "word")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        endpoint, url = request.getfixturevalue("s3_server"), f"s3://{BUCKET}/videos"
        boto3.client("s3", endpoint_url=endpoint).create_bucket(Bucket=BUCKET)
        dvc("remote", "add", "--default", "store", url, cwd=workspace)
        dvc("remote", "modify", "store", "endpointurl", endpoint, cwd=workspace)
    commit(workspace, "a remote")
    return url


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
    said = run(sys.executable, "-m", "mlops", "doctor", "--remote", cwd=second)
    assert re.search(r"^ok +DVC remote store ", said, re.MULTILINE)
    assert f"{remote} answers" in said or "://" not in remote
    # Records of runs are in no remote: a bundle carries one.
    assert not list(second.glob("runs/*/run_*"))
    bundle = tmp_path / "run.zip"
    mlops = (sys.executable, "-m", "mlops", "runs")
    run(*mlops, "export", the_run(workspace).name, "--output", str(bundle), cwd=workspace)
    said = run(*mlops, "apply", str(bundle), cwd=second)
    assert "data: all of it in DVC's cache" in said
    assert f"*  {the_run(workspace).name}" in run(*mlops, cwd=second)
