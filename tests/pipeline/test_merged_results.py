"""Two branches with results of their own become one: what the page on restoring says, for real."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.clone import ROOT, commit, dvc, environment, git, run, set_params

CONFLICTS = "UU dvc.lock\nUU metrics.json\n"


@pytest.fixture(scope="module")
def made(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a clone with results on `other` and other ones on `main`; `other` is checked out."""
    workspace = tmp_path_factory.mktemp("merged") / "clone"
    shutil.copytree(finished, workspace, symlinks=True)
    git("checkout", "--quiet", "-b", "other", cwd=workspace)
    set_params(workspace, {"train": {"learning_rate": 4e-3}})
    dvc("repro", cwd=workspace)
    commit(workspace, "another learning rate")
    git("checkout", "--quiet", "main", cwd=workspace)
    dvc("checkout", cwd=workspace)
    set_params(workspace, {"augment": {"copies": 2}})
    dvc("repro", cwd=workspace)
    commit(workspace, "another number of copies")
    git("checkout", "--quiet", "other", cwd=workspace)
    dvc("checkout", cwd=workspace)
    return workspace


@pytest.fixture
def branches(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "clone", symlinks=True)


def doctor(root: Path) -> str:
    return run(sys.executable, "-m", "commands", "doctor", cwd=root, check=False)


def cure(root: Path) -> str:
    """Return the command that the doctor prints for the two files."""
    line = next(line for line in doctor(root).splitlines() if "conflict in dvc.lock" in line)
    command = line.split("; ", 1)[1].split(", then ")[0]
    documented = (ROOT / "docs/restoring.md").read_text(encoding="utf-8")
    assert command in documented
    return command


@pytest.mark.parametrize("way", ["merge", "rebase"])
def test_a_conflict_of_results_is_cured_by_the_command_that_doctor_prints(
    branches: Path, way: str
) -> None:
    result = subprocess.run(
        ["git", way, "main"], cwd=branches, env=environment(), capture_output=True, check=False
    )
    assert result.returncode == 1
    assert CONFLICTS in git("status", "--porcelain", "--untracked-files=no", cwd=branches)
    assert "possible merge conflicts" in dvc("status", cwd=branches, check=False)

    run("bash", "-c", cure(branches), cwd=branches)
    ending = ("commit", "--no-edit") if way == "merge" else ("-c", "core.editor=true", "rebase")
    git(*ending, *(["--continue"] if way == "rebase" else []), cwd=branches)

    assert git("status", "--porcelain", cwd=branches) == ""
    assert "Data and pipelines are up to date." in dvc("status", cwd=branches)
    assert "marks of a merge" not in doctor(branches)
    params = (branches / "params.yaml").read_text(encoding="utf-8")
    assert "copies: 2" in params
    assert "learning_rate: 0.004" in params
    # Of both changes together, not those of one side.
    metrics = json.loads((branches / "metrics.json").read_text(encoding="utf-8"))
    for side in ("main", "HEAD~1", "ORIG_HEAD"):
        lock = git("show", f"{side}:dvc.lock", cwd=branches)
        assert lock != (branches / "dvc.lock").read_text(encoding="utf-8"), side
    assert metrics["test"]["balanced_accuracy"] is not None


def test_a_merge_that_is_not_finished_is_told(branches: Path) -> None:
    subprocess.run(["git", "merge", "main"], cwd=branches, env=os.environ, check=False)
    git("checkout", "--theirs", "dvc.lock", "metrics.json", cwd=branches)
    assert "a merge is not finished: dvc exp run and git commit fail" in doctor(branches)
    assert "not fully merged index" in dvc("exp", "run", cwd=branches, check=False)
