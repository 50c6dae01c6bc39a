"""The documented way back from a trial, after real kills of `dvc` at different moments."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.clone import ROOT, dvc, environment, git, run, set_params, stages_run

PAGE = (ROOT / "docs/restoring.md").read_text()
TAKEN_BACK = ("params.yaml", "dvc.lock", "metrics.json")
TRIAL = ("exp", "run", "--name", "trial", "-S", "train.learning_rate=4.0e-3")
LIMIT_SEC = 300.0  # only a machine at its end takes that long
MAX_TRIES = 8

Moment = Callable[[Path], bool]


def way_back() -> str:
    """Return the commands that docs/restoring.md gives for the time after a kill."""
    (commands,) = re.findall(r"^```\n(find \.git .*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    return str(commands)


def take_back(root: Path) -> None:
    run("bash", "-e", "-c", way_back(), cwd=root)


def killed(root: Path, *arguments: str, at: Moment) -> bool:
    """Run dvc and kill it, with all that it started, as soon as the moment has come.

    False if the moment was missed: some last a few milliseconds.
    """
    with (root.parent / "printed").open("wb") as output:
        started = subprocess.Popen(
            [sys.executable, "-m", "dvc", *arguments],
            cwd=root,
            env=environment(),
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    deadline = time.monotonic() + LIMIT_SEC
    while not has_come(at, root) and started.poll() is None and time.monotonic() < deadline:
        time.sleep(0.0001)
    with suppress(ProcessLookupError):
        os.killpg(started.pid, signal.SIGKILL)
    return started.wait() == -signal.SIGKILL and has_come(at, root)


def kill_trial(finished: Path, root: Path, *, at: Moment) -> None:
    """Leave `root`, a copy of the finished clone, as a trial that is killed at the moment does."""
    for _ in range(MAX_TRIES):
        if killed(root, *TRIAL, at=at):
            return
        shutil.rmtree(root)
        shutil.copytree(finished, root, symlinks=True)
    pytest.fail(f"missed {MAX_TRIES} times: {at.__name__}")


def has_come(moment: Moment, root: Path) -> bool:
    with suppress(FileNotFoundError):  # DVC and git replace what is looked at
        return moment(root)
    return False


def doctor(root: Path) -> str:
    return run(sys.executable, "-m", "commands", "doctor", cwd=root)


# --- moments -------------------------------------------------------------------------------------


def is_on_a_branch(root: Path) -> bool:
    return (root / ".git/HEAD").read_text().startswith("ref: ")


def has_written_the_values(root: Path) -> bool:
    return not is_on_a_branch(root) and b"0.004" in (root / "params.yaml").read_bytes()


def has_queued_the_trial(root: Path) -> bool:
    return (root / ".git/logs/refs/exps/stash").exists() and is_on_a_branch(root)


def has_trained_an_epoch(root: Path) -> bool:
    return "epoch 0: val" in (root.parent / "printed").read_text()


def has_taken_away_the_metrics(root: Path) -> bool:
    return not (root / "metrics.json").exists()


def has_committed_the_trial(root: Path) -> bool:
    main = (root / ".git/refs/heads/main").read_text()
    return not is_on_a_branch(root) and (root / ".git/HEAD").read_text() != main


def has_returned_to_the_branch(root: Path) -> bool:
    return any(root.glob(".git/refs/exps/??/*/trial")) and is_on_a_branch(root)


# --- tests ---------------------------------------------------------------------------------------


def contents(root: Path) -> list[bytes]:
    return [(root / name).read_bytes() for name in TAKEN_BACK]


def assert_as_committed(root: Path, before: list[bytes]) -> None:
    assert contents(root) == before
    assert git("status", "--porcelain", cwd=root) == ""
    assert git("branch", "--show-current", cwd=root) == "main\n"
    assert "up to date" in dvc("status", cwd=root)


@pytest.mark.parametrize(
    "moment",
    [
        has_written_the_values,
        has_queued_the_trial,
        has_taken_away_the_metrics,
        has_committed_the_trial,
        has_returned_to_the_branch,
    ],
)
def test_a_killed_trial_is_taken_back(finished: Path, workspace: Path, moment: Moment) -> None:
    before, head = contents(workspace), git("rev-parse", "HEAD", cwd=workspace)
    kill_trial(finished, workspace, at=moment)
    take_back(workspace)
    assert git("rev-parse", "HEAD", cwd=workspace) == head
    assert_as_committed(workspace, before)

    output = dvc("exp", "run", "-S", "report.examples_per_class=3", cwd=workspace)
    assert output.count("Reproducing experiment") == 1
    assert stages_run(output) == {"report"}
    changed = re.findall(r"params\.yaml +(\S+)", dvc("params", "diff", cwd=workspace))
    assert changed == ["report.examples_per_class"]


def test_a_killed_repro_is_taken_back(workspace: Path) -> None:
    before = contents(workspace)
    set_params(workspace, {"train": {"learning_rate": 4.0e-3}})
    assert killed(workspace, "repro", at=has_trained_an_epoch)
    take_back(workspace)
    assert_as_committed(workspace, before)
    assert stages_run(dvc("repro", cwd=workspace)) == set()


def test_files_that_a_kill_has_cut_off_are_taken_back(workspace: Path) -> None:
    """The moments last microseconds: what a kill leaves in them is made here, after a real one."""
    before = contents(workspace)
    assert killed(workspace, *TRIAL, at=has_trained_an_epoch)
    for name in (".dvc/tmp/rwlock", ".dvc/tmp/exps/rwlock"):
        (workspace / name).write_text('{"write": {"/')
    (workspace / "dvc.lock").write_bytes(before[1][:1000])
    git("rm", "--cached", "--quiet", "metrics.json", cwd=workspace)
    for name in ("index", "HEAD", "refs/heads/main"):
        (workspace / f".git/{name}.lock").touch()
    take_back(workspace)
    assert_as_committed(workspace, before)


def test_doctor_tells_what_a_killed_trial_has_left_and_how_to_take_it_back(
    finished: Path, workspace: Path
) -> None:
    before = contents(workspace)
    told = re.compile(r"^hint +(HEAD|params\.yaml|refs/exps/stash) .*", re.MULTILINE)
    assert not told.search(doctor(workspace))
    kill_trial(finished, workspace, at=has_queued_the_trial)
    assert told.findall(doctor(workspace)) == ["refs/exps/stash"]
    git("update-ref", "-d", "refs/exps/stash", cwd=workspace)
    assert killed(workspace, *TRIAL, at=has_trained_an_epoch)
    output = doctor(workspace)
    assert told.findall(output) == ["HEAD", "params.yaml"]
    (command,) = re.findall(r"to take them back, if no dvc is at work: (.*)", output)
    run("bash", "-e", "-c", command, cwd=workspace)
    assert_as_committed(workspace, before)
    assert not told.search(doctor(workspace))


def test_a_trial_that_has_ended_is_taken_back_and_stays_an_experiment(workspace: Path) -> None:
    (command,) = set(re.findall(r"`(git checkout HEAD -- [^`]* && dvc checkout)`", PAGE))
    assert way_back().endswith(f"\n{command}\n")
    before = contents(workspace)
    dvc(*TRIAL, cwd=workspace)
    assert contents(workspace) != before
    git("add", "--update", cwd=workspace)
    run("bash", "-e", "-c", command, cwd=workspace)
    assert_as_committed(workspace, before)
    assert "trial" in dvc("exp", "list", cwd=workspace)
