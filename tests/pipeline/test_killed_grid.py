"""Many trainings at once, killed and typed again: the grid's metrics, and the queue's tasks."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from commands.prove.processes import Process, adopting_orphans, descendants, reap_orphans
from mlops.files.atomic import content_hash
from tests.support.clone import CELL, commit, dvc, environment, git, run, set_params
from tests.support.trainer import metadata
from tests.support.warm import warm

SEED = 20_261_123
FOLDS, SEEDS = 3, [0, 1]
LIMIT_SEC = 600.0  # only a machine at its end takes that long


def wait_until(answer: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + LIMIT_SEC
    while not answer():
        assert time.monotonic() < deadline, f"still waiting until {what}"
        time.sleep(0.02)


# --- the grid ------------------------------------------------------------------------------------


def start_grid(root: Path, *, to_be_killed: bool = True) -> subprocess.Popen[bytes]:
    """Start `dvc repro` and its stages, as forks (see `warm`) or in one process group."""
    command, env = [sys.executable, "-m", "dvc", "repro"], environment()
    if not to_be_killed:
        command, env = warm(command, env)
    with (root.parent / f"{root.name}.log").open("ab") as output:
        return subprocess.Popen(
            command,
            cwd=root,
            env=env,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def mend(root: Path) -> None:
    """Do what a user must if DVC was killed in the middle of a write of its own files."""
    printed = (root.parent / f"{root.name}.log").read_text()
    last = printed[printed.rindex("ERROR:") :] if "ERROR:" in printed else ""
    if "RWLock-file" in last:
        (root / ".dvc/tmp/rwlock").unlink(missing_ok=True)
    elif "dvc.lock" in last:
        git("checkout", "HEAD", "--", "dvc.lock", cwd=root)


def test_a_grid_that_is_killed_twice_ends_with_the_metrics_of_one_that_is_not(
    workspace: Path,
) -> None:
    set_params(
        workspace,
        {
            "folds": list(range(FOLDS)),
            "seeds": SEEDS,
            "split": {"num_folds": FOLDS},
            "train": {"epochs": 8, "batch_size": 2},
            "runtime": {"checkpoint_every_sec": 0.2},
        },
    )
    (workspace / "data/rebalance.yaml").unlink()  # chosen for two folds
    commit(workspace, "grid")
    shutil.rmtree(workspace / CELL.best_model.parents[1])  # of other folds
    whole = shutil.copytree(workspace, workspace.with_name("whole"), symlinks=True)
    never_killed = start_grid(whole, to_be_killed=False)
    draws = random.Random(SEED)
    total = FOLDS * len(SEEDS)
    # So that some cells are done before each kill, some are left after it, and one is half done.
    for low, high in ((1, total // 3), (total // 2, total - 1)):
        number, delay_sec = draws.randint(low, high), draws.uniform(0, 0.1)
        grid = start_grid(workspace)
        wait_until(
            lambda number=number, grid=grid: (  # type: ignore[misc]
                len(trained(workspace)) >= number and is_saving(workspace, grid)
            ),
            f"{number} cells are trained and one more has saved its state",
        )
        time.sleep(delay_sec)
        os.killpg(grid.pid, signal.SIGKILL)
        assert grid.wait() == -signal.SIGKILL
        before = trained(workspace)
    if start_grid(workspace).wait() != 0:
        mend(workspace)
        assert start_grid(workspace).wait() == 0, (workspace.parent / "clone.log").read_text()

    assert "goes on with epoch" in (workspace.parent / "clone.log").read_text()
    assert never_killed.wait() == 0
    assert (workspace / "metrics.json").read_bytes() == (whole / "metrics.json").read_bytes()
    document = json.loads((workspace / "metrics.json").read_text())
    assert "balanced_accuracy_seed_std" in document["models"]["small3d"]["test"]
    assert trained(workspace) == trained(whole)
    # What was trained before the last kill was not trained again, and nothing started afresh.
    assert before.items() <= trained(workspace).items()
    assert len(list(workspace.glob("runs/sample/run_*"))) == total + 1


def is_saving(root: Path, grid: subprocess.Popen[bytes]) -> bool:
    """Return whether a trainer of the grid has a state on disk."""
    return not saved(root).isdisjoint(process.pid for process in descendants(grid.pid))


def saved(root: Path) -> set[int]:
    """Return the processes last at work on unfinished runs with a state on disk."""
    states = root.glob("runs/sample/run_*/checkpoints/latest_checkpoint.pt")
    found = [metadata(state.parents[1]) for state in states]
    return {of["attempts"][-1]["pid"] for of in found if of["status"] != "finished"}


def trained(root: Path) -> dict[str, str]:
    """Return the content of every cell's model that has been published."""
    found = {}
    for path in root.glob("models/*/fold*/seed*/best_model.pt"):
        found[path.relative_to(root).as_posix()] = content_hash(path)
    return found


# --- the queue -----------------------------------------------------------------------------------


@contextmanager
def workers_end_with_the_test() -> Iterator[None]:
    """Keep DVC's workers below this process, and kill them on leaving."""
    with adopting_orphans():
        known = {process.pid for process in descendants()}
        try:
            yield
        finally:
            for process in descendants():
                if process.pid not in known:
                    process.send(signal.SIGKILL)
            reap_orphans()


def trainers(root: Path) -> list[Process]:
    return [
        process
        for process in descendants()
        if "stages.train" in process.command and str(root) in cwd(process)
    ]


def cwd(process: Process) -> str:
    try:
        return str(Path(f"/proc/{process.pid}/cwd").readlink())
    except OSError:
        return ""


def start_workers(root: Path, number: int) -> None:
    # Into no pipe: the workers would inherit it.
    subprocess.run(
        [sys.executable, "-m", "dvc", "queue", "start", "--jobs", str(number)],
        cwd=root,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=True,
    )


def tasks(root: Path) -> dict[str, str]:
    """Return the status of each task of the queue by its name."""
    rows = [line.split() for line in dvc("queue", "status", cwd=root).splitlines()[1:]]
    return {row[1]: row[-1] for row in rows if len(row) > 3 and len(row[0]) == 7}


def test_a_queued_task_whose_trainer_was_killed_goes_on_when_it_is_queued_again(
    workspace: Path,
) -> None:
    changes = {"runtime": {"checkpoint_every_sec": 0.1}}
    set_params(workspace, changes)
    commit(workspace, "saves often")
    known = set(workspace.glob("runs/sample/run_*"))
    asked = {
        name: ["-S", f"train.learning_rate={rate}", "-S", "train.epochs=40"]
        for name, rate in (("one", "1.0e-3"), ("two", "2.5e-3"))
    }
    for name, values in asked.items():
        dvc("exp", "run", "--queue", "--name", name, *values, cwd=workspace)
    with workers_end_with_the_test():
        start_workers(workspace, 2)
        wait_until(lambda: saved(workspace), "a task has saved its state")
        first = next(of for of in trainers(workspace) if of.pid in saved(workspace))
        first.freeze()  # so that the other one finds it at work, however late that comes
        wait_until(lambda: len(trainers(workspace)) == 2, "the other trains beside it")
        first.send(signal.SIGKILL)
        wait_until(lambda: set(tasks(workspace).values()) == {"Failed", "Success"}, "both ended")
        (killed,) = (name for name, status in tasks(workspace).items() if status == "Failed")
        dvc("exp", "run", "--queue", "--name", "again", *asked[killed], cwd=workspace)
        start_workers(workspace, 1)
        wait_until(lambda: tasks(workspace).get("again") == "Success", "the third task has ended")
        printed = dvc("queue", "logs", "again", cwd=workspace)

    assert "train: resuming" in printed
    assert "goes on with epoch" in printed
    runs = set(workspace.glob("runs/sample/run_*")) - known
    reasons = [[attempt["reason"] for attempt in metadata(path)["attempts"]] for path in runs]
    assert sorted(reasons) == [["finished"], ["killed", "finished"]]

    shown = dvc("exp", "show", "--csv", cwd=workspace)
    other = ({"one", "two"} - {killed}).pop()
    assert f"\n{other}," in shown
    assert "\nagain," in shown
    dvc("exp", "apply", "again", cwd=workspace)
    assert "up to date" in dvc("status", cwd=workspace)
    rate = asked[killed][1].partition("=")[2]
    assert float(rate) == learning_rate(workspace)
    dvc("exp", "branch", other, "kept", cwd=workspace)
    assert "kept" in git("branch", "--list", cwd=workspace)


def learning_rate(root: Path) -> float:
    code = "from stages.params import read_params; print(read_params().train.learning_rate)"
    return float(run(sys.executable, "-c", code, cwd=root))
