"""`python -m commands prove` kills real trainings, and finds a resume that forgets something."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from commands.prove.attempts import RWLOCK, mended_dvc, start_attempt
from commands.prove.clone import Clone, Target, find_target, forget, link
from commands.prove.comparison import Outcome, differences, read_outcome, repeated_samples
from commands.prove.evidence import Part, look
from commands.prove.processes import (
    Process,
    adopting_orphans,
    descendants,
    wait_for_end,
    wait_until,
)
from tests.support.clone import commit, environment, git

RUN = "run_20260101_000000_0123abcd"

Rows = list[dict[str, object]]


def prove(root: Path, *arguments: str) -> tuple[int, str]:
    result = subprocess.run(
        [sys.executable, "-m", "commands", "prove", *arguments],
        cwd=root,
        env=environment() | {"TMPDIR": str(root.parent)},
        text=True,
        capture_output=True,
        check=False,
    )
    return result.returncode, result.stdout + result.stderr


def state_of(root: Path) -> dict[str, str]:
    """Return what a proof must leave unchanged."""
    tracked = {name: git(*name.split(), cwd=root) for name in ("for-each-ref", "status --short")}
    names = [path for place in ("runs", ".dvc", "models") for path in (root / place).rglob("*")]
    return tracked | {str(path): str(path.stat().st_mtime_ns) for path in names if path.is_file()}


def test_a_killed_training_is_proved_identical_and_nothing_of_it_stays(workspace: Path) -> None:
    before = state_of(workspace)
    code, output = prove(workspace, "--kills=2", "--seed=1", "--set-param=train.epochs=2")
    assert code == 0, output
    assert "after 2 kills everything is identical" in output
    assert "kill 2 of 2" in output
    assert state_of(workspace) == before
    assert not list(workspace.parent.glob("prove-*"))


def test_a_resume_that_forgets_the_optimizer_is_found(workspace: Path) -> None:
    learner = workspace / "video/learning/learner.py"
    line = '        self._optimizer.load_state_dict(state["optimizer"])\n'
    assert line in learner.read_text()
    learner.write_text(learner.read_text().replace(line, ""))
    # Of eight epochs with a state after each, four kills in a save do not all come in the first.
    longer = "--set-param=train.epochs=8"
    code, output = prove(workspace, "--kills=4", "--part=saving", longer)
    assert code == 1, output
    assert "of 4: in " in output
    assert "models/small3d/fold0/seed0/best_model.pt: expected md5" in output
    assert "metrics.jsonl: expected in row" in output
    (left,) = workspace.parent.glob("prove-*/clone")
    assert str(left) in output
    assert list(left.glob("runs/sample/run_*/metrics.jsonl"))


def test_a_target_that_is_not_recorded_is_told(workspace: Path) -> None:
    code, output = prove(workspace, "--target=trian")
    assert code == 1
    assert "dvc.lock: expected a record of trian, got create_dataset, create_splits" in output


@pytest.mark.parametrize("option", ["train.epoch=3", "train.epochs", "epochs=3"])
def test_a_parameter_that_is_not_there_is_told(workspace: Path, option: str) -> None:
    code, output = prove(workspace, f"--set-param={option}")
    assert code == 1
    assert f"set-param '{option}': expected a key" in output


# --- what two runs made ------------------------------------------------------------------------


def rows(number: int) -> Rows:
    return [{"epoch": step // 3, "step": step, "value": step / 7} for step in range(number)]


def ledger(*epochs: list[str]) -> Rows:
    return [
        {"epoch": number, "step": number, "samples": samples}
        for number, samples in enumerate(epochs)
    ]


def outcome(
    *,
    md5: str = "a" * 32,
    metrics: Rows | None = None,
    samples: Rows | None = None,
    abandoned: tuple[str, ...] = (),
) -> Outcome:
    log = {"metrics.jsonl": metrics or rows(7), "ledger.jsonl": samples or []}
    return Outcome(recorded=[{"model.pt": md5}], damaged=[], logs={RUN: log}, abandoned=abandoned)


def test_equal_runs_do_not_differ() -> None:
    assert differences(outcome(), outcome()) == []
    assert differences(outcome(samples=ledger(["a"])), outcome(samples=ledger(["a"]))) == []


def test_a_row_logged_twice_is_found_with_its_number() -> None:
    twice = [*rows(5), rows(5)[-1], *rows(7)[5:]]
    (difference,) = differences(outcome(), outcome(metrics=twice))
    assert difference.startswith(f"{RUN}/metrics.jsonl: expected in row 6 ")
    assert '"step":5' in difference.split("got")[0]
    assert '"step":4' in difference.split("got")[1]


def test_a_row_too_many_at_the_end_is_found() -> None:
    (difference,) = differences(outcome(), outcome(metrics=rows(8)))
    assert "expected in row 8 none, got" in difference
    assert '"step":7' in difference


def test_another_model_is_found() -> None:
    (difference,) = differences(outcome(), outcome(md5="b" * 32))
    assert difference == f"model.pt: expected md5 {'a' * 32}, got {'b' * 32}"


def test_samples_seen_in_another_order_are_found() -> None:
    reference = outcome(samples=ledger(["a", "b"], ["b", "a"]))
    killed = outcome(samples=ledger(["a", "b"], ["a", "b"]))
    (difference,) = differences(reference, killed)
    assert difference.startswith(f"{RUN}/ledger.jsonl: expected in row 2")


def test_a_ledger_that_only_one_of_two_runs_keeps_is_found() -> None:
    assert differences(outcome(samples=ledger(["a"])), outcome())


def test_a_checkpoint_that_no_start_went_on_with_is_found() -> None:
    (difference,) = differences(outcome(), outcome(abandoned=("run_b",)))
    assert difference.startswith("run_b: expected every start to go on with it")


def test_outs_that_a_killed_experiment_took_along_with_its_lock_are_put_back(
    tmp_path: Path,
) -> None:
    clone = clone_of_two_stages(tmp_path)
    (tmp_path / "dvc.lock").unlink()
    assert_mended_once(clone, "exp")
    assert (tmp_path / "out").read_text() == "1\n"


def test_samples_that_an_epoch_has_twice_are_counted() -> None:
    assert repeated_samples(ledger(["a", "b"], ["a", "b"])) == 0
    assert repeated_samples(ledger(["a", "b", "a"], ["b", "b"])) == 2


def clone_of_two_stages(root: Path) -> Clone:
    """Return a clone with two stages in which DVC has run once."""
    target = Target(name="train", command=("sh",), deps={}, outs=("out",))
    clone = Clone(root=root, target=target)
    git("init", "--quiet", cwd=root)
    clone.dvc("init", "--quiet")
    (root / "dvc.yaml").write_text(
        "stages:\n  first:\n    cmd: echo 1 > input\n    outs: [input]\n"
        "  train:\n    cmd: cat input > out\n    deps: [input]\n    outs: [out]\n"
    )
    clone.dvc("repro", "--quiet")
    commit(root, "first")
    return clone


def assert_mended_once(clone: Clone, mode: str) -> None:
    """Check that the first start fails and is mended, and that the second one succeeds."""
    for number, mended in ((1, True), (2, False)):
        attempt = start_attempt(clone, mode, number)
        assert mended_dvc(attempt) == mended
    assert attempt.result()


@pytest.mark.parametrize(
    ("name", "content"),
    [("dvc.lock", ""), ("dvc.lock", "schema: '2.0'\nstages:\n  a:\n    cmd: [x"), (RWLOCK, "")],
)
def test_a_file_that_dvc_was_killed_in_is_mended_and_dvc_starts(
    name: str, content: str, tmp_path: Path
) -> None:
    clone = clone_of_two_stages(tmp_path)
    (tmp_path / name).write_text(content)
    assert_mended_once(clone, "repro")


# --- a run on disk -----------------------------------------------------------------------------


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    target = Target(name="train", command=("train",), deps={}, outs=("out/model.pt",))
    return Clone(root=tmp_path, target=target)


@pytest.fixture
def run_dir(clone: Clone) -> Path:
    directory = clone.runs / "sample" / RUN
    (directory / "checkpoints").mkdir(parents=True)
    (directory / "metadata.json").write_text('{"status": "running"}')
    (directory / "metrics.jsonl").write_text('{"epoch": 0, "step": 1}\n')
    return directory


@pytest.fixture
def starting(clone: Clone, run_dir: Path) -> Iterator[tuple[Process, IO[bytes]]]:
    """Start a process that prints to a file, and opens the log once it has read a line."""
    (clone.root / "out").mkdir()
    log = str(run_dir / "metrics.jsonl")
    code = f"import sys; sys.stdin.readline(); f = open({log!r}); sys.stdin.read()"
    with (clone.root / "printed").open("wb") as printed:
        child = subprocess.Popen(
            [sys.executable, "-c", code], cwd=clone.root, stdin=subprocess.PIPE, stdout=printed
        )
    assert child.stdin is not None
    (process,) = (process for process in descendants() if process.pid == child.pid)
    yield process, child.stdin
    child.kill()
    child.communicate()


@pytest.fixture
def trainer(clone: Clone, starting: tuple[Process, IO[bytes]]) -> Process:
    """Return the process, which has the log open."""
    process, stdin = starting
    assert part(clone, process) == Part.START_UP
    stdin.write(b"\n")
    stdin.flush()
    assert wait_until(lambda: part(clone, process) != Part.START_UP, 30)
    return process


def part(clone: Clone, trainer: Process, *, later_sec: float = 1) -> str:
    scene = look(clone, trainer)
    assert scene is not None
    scene.stale = set()
    return scene.part(time.time() + later_sec)


def test_the_part_is_told_by_what_lies_on_disk(
    clone: Clone, trainer: Process, run_dir: Path
) -> None:
    assert part(clone, trainer) == Part.TRAINING

    printed = clone.root / "printed"
    printed.write_text("train: m fold 0: epoch 0: train loss 0.5\n")
    assert part(clone, trainer) == Part.VALIDATION
    printed.write_text(printed.read_text() + "train: m fold 0: epoch 0: val loss 0.5\n")
    assert part(clone, trainer) == Part.TRAINING

    metrics = run_dir / "metrics.jsonl"
    whole = metrics.read_text()
    metrics.write_text(whole + '{"epoch"')
    assert part(clone, trainer) == Part.LOGGING
    metrics.write_text(whole)
    assert part(clone, trainer, later_sec=0) == Part.LOGGING
    assert part(clone, trainer) == Part.TRAINING

    published = clone.root / "out/.model.x1.tmp.pt"
    published.touch()
    assert part(clone, trainer) == Part.PUBLISHING
    save = run_dir / "checkpoints/.latest_checkpoint.x2.tmp.pt"
    save.touch()
    assert part(clone, trainer) == Part.SAVE

    published.unlink()
    save.unlink()
    (run_dir / "metadata.json").write_text('{"status": "finished"}')
    assert part(clone, trainer) == Part.PUBLISHING


def test_what_an_earlier_kill_left_is_no_save(
    clone: Clone, trainer: Process, run_dir: Path
) -> None:
    (run_dir / "checkpoints/.latest_checkpoint.x2.tmp.pt").touch()
    scene = look(clone, trainer)
    assert scene is not None
    assert scene.part(time.time() + 1) == Part.TRAINING


def test_a_run_that_was_left_with_a_checkpoint_is_told(clone: Clone, run_dir: Path) -> None:
    other = run_dir.with_name("run_20260101_000001_0123abcd")
    for directory, status in ((run_dir, "running"), (other, "finished")):
        (directory / "checkpoints").mkdir(parents=True, exist_ok=True)
        (directory / "metadata.json").write_text(json.dumps({"status": status}))
        (directory / "metrics.jsonl").write_text('{"epoch":0,"step":1,"time":5.0}\n')
    (clone.root / "out").mkdir()
    (clone.root / "out/model.pt").write_bytes(b"weights")
    (clone.root / "dvc.lock").write_text(
        f"stages:\n  train:\n    outs:\n    - path: out/model.pt\n      md5: {'a' * 32}\n"
    )
    assert read_outcome(clone, "repro").abandoned == []
    (run_dir / "checkpoints/latest_checkpoint.pt").touch()
    found = read_outcome(clone, "repro")
    assert found.abandoned == [run_dir.name]
    assert found.damaged == ["out/model.pt"]
    assert found.logs[other.name]["metrics.jsonl"] == [{"epoch": 0, "step": 1}]


# --- processes ---------------------------------------------------------------------------------


def test_an_orphan_stays_below_and_can_be_frozen_and_killed() -> None:
    orphan = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'input()'], stdin=0)"
    reader, writer = os.pipe()
    with adopting_orphans():
        subprocess.run([sys.executable, "-c", orphan], stdin=reader, check=True)
        os.close(reader)
        found: list[Process] = []
        until = time.monotonic() + 30
        while not found and time.monotonic() < until:
            found = [each for each in descendants() if each.command[-1:] == ("input()",)]
        (process,) = found
        assert process.handle.ppid() == os.getpid()
        process.freeze()
        os.write(writer, b"\n")
        assert wait_for_end(process, 0.3) is None
        process.send(signal.SIGCONT)
        assert wait_for_end(process, 30) is not None
        assert process not in descendants()
        os.waitpid(process.pid, 0)
    os.close(writer)


# --- the clone ---------------------------------------------------------------------------------


def test_the_first_cell_stands_for_its_stage(finished: Path) -> None:
    target = find_target(finished, "train")
    assert target.name == "train@small3d-0-0"
    assert target.command[:3] == ("python", "-m", "stages.train")
    assert "models/small3d/fold0/seed0/best_model.pt" in target.outs
    assert target.deps["data/clips"].endswith(".dir")


def test_a_forgotten_stage_is_gone_and_the_others_stay(workspace: Path) -> None:
    forget(workspace / "dvc.lock", "train@small3d-0-0")
    commit(workspace, "forgotten")
    diff = git("show", "--format=", "HEAD", cwd=workspace)
    assert "-  train@small3d-0-0:" in diff
    added = [line for line in diff.splitlines() if line[:1] == "+" and line[:3] != "+++"]
    assert added == []


def test_a_linked_object_takes_no_space(tmp_path: Path) -> None:
    content = tmp_path / "cache/ab/cdef"
    content.parent.mkdir(parents=True)
    content.write_bytes(b"clips")
    link(content, tmp_path / "objects")
    assert (tmp_path / "objects/ab/cdef").samefile(content)
