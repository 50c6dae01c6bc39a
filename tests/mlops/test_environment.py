"""What is recorded of a run's surroundings is true, cheap and without secrets."""

import json
import os
import platform
import shutil
import socket
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from mlops.recorded.dvc_lock import LockError, recorded_md5s
from mlops.run.environment import JOB_VARIABLES, environment, gpu
from tests.support.clone import git

ROOT = Path(__file__).resolve().parents[2]

LOCK = """schema: '2.0'
stages:
  first:
    cmd: a
    outs:
    - path: data/clips
      hash: md5
      md5: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa.dir
      size: 1
      nfiles: 1
  'train@small3d-0-0':
    cmd: b
    deps:
    - path: data/clips
      hash: md5
      md5: bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb.dir
    - path: data/mine/index.csv
      hash: md5
      md5: cccccccccccccccccccccccccccccccc
    outs:
    - path: remote
      size: 3
"""


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [*JOB_VARIABLES, "GIT_DIR", "GIT_WORK_TREE"]:
        monkeypatch.delenv(name, raising=False)
    root = tmp_path / "repository"
    root.mkdir()
    git("init", "--quiet", cwd=root)
    (root / "params.yaml").write_text("seed: 0\n")
    (root / "with space.txt").write_text("a")
    git("add", "--all", cwd=root)
    git("commit", "--quiet", "--message", "first", cwd=root)
    monkeypatch.chdir(root)
    return root


def test_the_machine_is_described(repository: Path) -> None:
    found = environment([])
    assert (found["python"], found["host"]) == (platform.python_version(), socket.gethostname())
    assert found["platform"] == platform.platform()
    assert found["cpu"]["cores"] == len(os.sched_getaffinity(0))
    model = found["cpu"]["model"]
    assert model is None or f"model name\t: {model}\n" in Path("/proc/cpuinfo").read_text()
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert found["memory_bytes"] == pytest.approx(pages, rel=0.01)


def test_the_cores_are_those_that_the_process_may_use() -> None:
    code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
    code += "from mlops.run.environment import environment; print(environment([])['cpu']['cores'])"
    answer = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, text=True, stdout=subprocess.PIPE, check=True
    )
    assert answer.stdout == "1\n"


def test_versions_of_libraries_are_named_also_of_one_that_is_missing(repository: Path) -> None:
    found = environment(["numpy", "no-such-library", "msgspec"])["libraries"]
    assert found == {
        "msgspec": version("msgspec"),
        "no-such-library": None,
        "numpy": version("numpy"),
    }


def test_a_clean_work_tree_is_its_commit(repository: Path) -> None:
    (repository / "untracked.txt").write_text("a")
    commit = git("rev-parse", "HEAD", cwd=repository).strip()
    assert environment([])["git"] == {"commit": commit, "dirty": False, "changed": []}


def test_a_changed_work_tree_is_told_with_what_changed(repository: Path) -> None:
    (repository / "params.yaml").write_text("seed: 1\n")
    git("mv", "with space.txt", "renamed.txt", cwd=repository)
    (repository / "new.txt").write_text("b")
    git("add", "new.txt", cwd=repository)
    found = environment([])["git"]
    assert found["dirty"] is True
    assert sorted(found["changed"]) == ["new.txt", "params.yaml", "renamed.txt", "with space.txt"]


def test_no_lock_of_git_is_taken(repository: Path) -> None:
    os.utime(repository / "params.yaml", (0, 0))  # which makes `git status` renew its index
    before = (repository / ".git/index").stat().st_mtime_ns
    assert environment([])["git"]["dirty"] is False
    assert (repository / ".git/index").stat().st_mtime_ns == before


def test_outside_a_repository_there_is_no_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert environment([], ["data/clips"])["git"] is None


def test_before_the_first_commit_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git("init", "--quiet", cwd=tmp_path)
    monkeypatch.chdir(tmp_path)
    assert environment([])["git"] is None


def test_without_git_there_is_no_commit(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(repository))
    assert shutil.which("git") is None
    assert environment([])["git"] is None


def test_a_git_that_takes_long_is_not_waited_for(repository: Path) -> None:
    """As on a slow file system: the commit is known, what differs from it is not."""
    hook = repository / "hook"
    hook.write_text("#!/bin/sh\nexec sleep 10\n")
    hook.chmod(0o755)
    git("config", "core.fsmonitor", str(hook), cwd=repository)
    commit = git("rev-parse", "HEAD", cwd=repository).strip()
    assert environment([])["git"] == {"commit": commit, "dirty": None, "changed": None}


def test_the_job_is_named_and_no_other_variable(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert environment([])["job"] == {}
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    monkeypatch.setenv("SECRET_TOKEN", "do not tell")
    found = environment([])
    assert found["job"] == {"SLURM_JOB_ID": "4711", "SLURM_ARRAY_TASK_ID": "3"}
    assert "do not tell" not in json.dumps(found)


def test_the_inputs_have_the_md5_of_dvc_lock(repository: Path) -> None:
    (repository / "dvc.lock").write_text(LOCK)
    found = environment([], [Path("data/clips"), "data/mine/index.csv", "remote", "other"])
    assert found["inputs"] == {
        "data/clips": "a" * 32 + ".dir",  # as made, not as read by a stage before
        "data/mine/index.csv": "c" * 32,
        "remote": None,
        "other": None,
    }


@pytest.mark.parametrize("content", [None, b"", b"stages: [", b"<<<<<<< HEAD\n", b"\xff"])
def test_without_a_whole_dvc_lock_no_md5_is_known(content: bytes | None, repository: Path) -> None:
    if content is not None:
        (repository / "dvc.lock").write_bytes(content)
        with pytest.raises(LockError):
            recorded_md5s(content)
    assert environment([], ["data/clips"])["inputs"] == {"data/clips": None}


def test_the_md5_of_the_repositorys_own_lock_are_all_known() -> None:
    text = (ROOT / "dvc.lock").read_text()
    known = recorded_md5s(text.encode())
    paths = {line.split(": ")[1] for line in text.splitlines() if line.startswith("    - path: ")}
    assert known.keys() == paths
    assert known["data/clips"].endswith(".dir")


@pytest.mark.parametrize(
    ("said", "driver"),
    [
        (
            "NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 01:15:15 UTC 2023",
            "535.104.05",
        ),
        ("NVIDIA UNIX Open Kernel Module for x86_64  550.54  Release Build  (root)", "550.54"),
    ],
)
def test_a_gpu_is_named_as_its_driver_names_it(said: str, driver: str, tmp_path: Path) -> None:
    for place in ("0000:1a:00.0", "0000:3b:00.0"):
        (tmp_path / "gpus" / place).mkdir(parents=True)
        information = "Model: \t\t NVIDIA H100 80GB HBM3\nIRQ:   \t\t 121\n"
        (tmp_path / "gpus" / place / "information").write_text(information)
    (tmp_path / "version").write_text(f"NVRM version: {said}\nGCC version:  12.3\n")
    found = gpu(tmp_path)
    assert found is not None
    assert (found["names"], found["driver"]) == (["NVIDIA H100 80GB HBM3"] * 2, driver)


def test_without_a_gpu_there_is_none(tmp_path: Path) -> None:
    assert gpu(tmp_path) is None


def test_torch_is_not_imported_for_it() -> None:
    code = "import sys; from mlops.run.environment import environment\n"
    code += "environment(['torch']); print('torch' in sys.modules)"
    answer = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, text=True, stdout=subprocess.PIPE, check=True
    )
    assert answer.stdout == "False\n"


def test_it_can_be_written_as_json(repository: Path) -> None:
    found = environment(["numpy"], ["data/clips"])
    assert json.loads(json.dumps(found, allow_nan=False)) == found
