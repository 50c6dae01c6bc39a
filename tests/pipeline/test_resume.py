"""A training that was stopped, anywhere and by anything, ends as if nothing had happened."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from mlops.files.checkpoint_file import load_checkpoint, save_checkpoint
from mlops.metrics.ledger import read_ledger
from mlops.run.attempts import run_status
from stages.paths import CLIPS, PACKS, SPLITS
from tests.support.clone import CELL, commit, dvc, environment, run, set_params
from tests.support.trainer import (
    MODEL,
    TRAINED,
    Trainer,
    metadata,
    newest_run,
    results,
    seen_once,
    stopped_run,
    the_run,
    train,
)

EPOCHS = 6
# Every checkpoint that time asks for, and steps enough to be killed in.
LONG: dict[str, Any] = {
    "train": {"epochs": EPOCHS, "batch_size": 2, "schedule": "constant"},
    "runtime": {"checkpoint_every_sec": 0.01, "log_every_steps": 1},
}


@pytest.fixture(scope="module")
def long(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Return a clone with the parameters above, and the results of an undisturbed training."""
    root = tmp_path_factory.mktemp("long") / "clone"
    shutil.copytree(finished, root, symlinks=True)
    set_params(root, LONG)
    shutil.rmtree(root / "runs")
    train(root)
    whole = results(root)
    shutil.rmtree(root / "runs")
    return root, whole


@pytest.fixture
def root(long: tuple[Path, dict[str, Any]], tmp_path: Path) -> Iterator[Path]:
    root = tmp_path / "clone"
    shutil.copytree(long[0], root, symlinks=True)
    (root / MODEL).unlink()
    yield root
    shutil.rmtree(root)


@pytest.fixture
def whole(long: tuple[Path, dict[str, Any]]) -> dict[str, Any]:
    return long[1]


def test_an_undisturbed_training_sees_each_sample_once_an_epoch(root: Path) -> None:
    train(root)
    assert seen_once(root, EPOCHS)
    run_dir = the_run(root)
    steps = read_ledger(run_dir / "ledger.jsonl")["step"].to_list()
    assert steps == list(range(1, len(steps) + 1))


def test_a_training_killed_again_and_again_ends_with_the_same_bytes(
    root: Path, whole: dict[str, Any]
) -> None:
    for step in (1, 10, 25, 41, 60):
        trainer = Trainer(root, hold=step).held()
        assert trainer.signal(signal.SIGKILL) == -signal.SIGKILL
    output = train(root)
    assert "train: resuming" in output
    assert "goes on with epoch" in output
    assert results(root) == whole
    run_dir = the_run(root)
    attempts = metadata(run_dir)["attempts"]
    assert [attempt["reason"] for attempt in attempts] == ["killed"] * 5 + ["finished"]
    assert all(attempt["started"] <= attempt["ended"] for attempt in attempts)
    assert (run_dir / "orphans.jsonl").stat().st_size > 0
    assert "goes on with epoch" in (run_dir / attempts[-1]["log"]).read_text()


def test_an_error_in_validation_does_not_cost_the_epoch(root: Path, whole: dict[str, Any]) -> None:
    set_params(root, {"runtime": {"checkpoint_every_sec": 1000.0}})
    steps = len([row for row in whole["samples"] if row[0] == 0])
    splits = pl.read_parquet(root / SPLITS).filter(fold=CELL.fold)
    clips = pl.read_parquet(root / CLIPS).join(splits, on="video_path", how="semi")
    pack = root / PACKS / clips["pack"][0]
    trainer = Trainer(root, hold="epoch 0: train loss").held()
    hidden = pack.rename(pack.with_suffix(".hidden"))
    os.kill(trainer.pid, signal.SIGCONT)
    assert trainer.end() == 1
    assert "expected a pack, got no file" in trainer.output
    hidden.rename(pack)

    output = train(root)

    assert f"goes on with epoch 0, step {steps}" in output
    assert results(root) == whole


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGUSR1, 75)],
    ids=["SIGTERM", "SIGINT", "SIGUSR1"],
)
def test_a_signal_saves_the_state_of_the_very_step_and_tells_its_exit_code(
    number: signal.Signals, code: int, root: Path, whole: dict[str, Any]
) -> None:
    set_params(root, {"runtime": {"checkpoint_every_sec": 1000.0}})
    done = len([row for row in whole["samples"] if row[0] == 0]) + 1
    trainer = Trainer(root, hold=done).held()
    assert trainer.signal(number) == code
    assert f"train: stopped by {number.name}; run the same command again" in trainer.output
    run_dir = the_run(root)
    assert run_status(run_dir) == "interrupted"
    assert metadata(run_dir)["attempts"][0]["reason"] == f"stopped by {number.name}"
    saved = load_checkpoint(run_dir / "checkpoints/latest_checkpoint.pt")
    steps = len((run_dir / "ledger.jsonl").read_text().splitlines())
    assert saved["progress"]["step"] == steps
    assert steps <= done + 1
    train(root)
    assert results(root) == whole
    # Nothing was done twice.
    assert not (run_dir / "orphans.jsonl").exists()


def test_a_signal_in_validation_saves_too(root: Path, whole: dict[str, Any]) -> None:
    trainer = Trainer(root, hold="epoch 1: train loss").held()
    assert trainer.signal(signal.SIGTERM) == 143
    train(root)
    assert results(root) == whole


def test_a_kill_between_training_and_publishing_costs_no_step(
    root: Path, whole: dict[str, Any]
) -> None:
    Trainer(root, hold=TRAINED).held().signal(signal.SIGKILL)
    output = train(root)
    assert results(root) == whole
    assert ": train loss" not in output


def test_the_number_of_workers_may_change_in_between(root: Path) -> None:
    set_params(root, {"augment": {"online": True}})
    train(root)
    whole = results(root)
    shutil.rmtree(root / "runs")
    for workers in (1, 3):
        set_params(root, {"runtime": {"workers": workers}})
        stopped_run(root, 9 * workers, signal.SIGKILL)
    set_params(root, {"runtime": {"workers": 2}})
    train(root)
    assert results(root) == whole


def test_everything_that_training_can_be_told_resumes_exactly(root: Path) -> None:
    set_params(
        root,
        {
            "train": {
                "batch_size": 4,
                "micro_batches": 2,
                "clip_norm": 0.5,
                "ema_decay": 0.9,
                "warmup_steps": 10,
                "schedule": "step",
                "step_epochs": 2,
                "frozen_epochs": 2,
                "label_smoothing": 0.1,
                "sampling": "weighted",
                "precision": "bfloat16",
            }
        },
    )
    train(root)
    whole = results(root)
    shutil.rmtree(root / "runs")
    for step in (3, 13, 25):
        stopped_run(root, step, signal.SIGKILL)
    train(root)
    assert results(root) == whole


def test_a_damaged_newest_state_costs_the_time_since_the_one_before(
    root: Path, whole: dict[str, Any]
) -> None:
    run_dir = stopped_run(root, 30, signal.SIGTERM)
    newest = run_dir / "checkpoints/latest_checkpoint.pt"
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    output = train(root)
    assert "expected a checkpoint, got a damaged file (its checksum differs); kept as" in output
    assert "goes on with epoch" in output
    assert results(root) == whole


def test_without_any_sound_state_training_begins_again(root: Path, whole: dict[str, Any]) -> None:
    run_dir = stopped_run(root, 30, signal.SIGKILL)
    for path in (run_dir / "checkpoints").glob("*.pt"):
        path.write_bytes(path.read_bytes()[:1000])
    output = train(root)
    assert "goes on with" not in output
    assert results(root) == whole


def test_a_state_of_another_fingerprint_is_never_taken(root: Path, whole: dict[str, Any]) -> None:
    run_dir = stopped_run(root, 20, signal.SIGTERM)
    for path in (run_dir / "checkpoints").glob("*checkpoint*.pt"):
        state = load_checkpoint(path)
        state["fingerprint"]["versions"]["torch"] = "1.0"
        save_checkpoint(path, state)
    output = train(root)
    assert "expected the state of this run, got that of another fingerprint; kept as" in output
    assert "goes on with" not in output
    assert results(root) == whole


def test_a_second_trainer_waits_for_the_first_and_publishes_its_result(
    root: Path, whole: dict[str, Any]
) -> None:
    first = Trainer(root, hold=5).held()
    second = Trainer(root)
    second.wait_for("train: waits for the lock of the same fingerprint", f"process {first.pid} on ")
    assert first.signal(signal.SIGCONT) == 0
    (root / MODEL).unlink()
    assert second.end() == 0
    assert "train: publishes" in second.output
    assert "train loss" not in second.output
    assert results(root) == whole
    assert len(list(root.glob("runs/*/run_*"))) == 1


def test_a_trainer_that_waited_does_not_begin_with_other_inputs(root: Path) -> None:
    first = Trainer(root, hold=5).held()
    second = Trainer(root)
    second.wait_for("train: waits for")
    splits = root / "data/splits.parquet"
    table = pl.read_parquet(splits)
    splits.unlink()  # it may be a link to DVC's cache
    table.write_parquet(splits, compression="gzip")
    assert first.signal(signal.SIGKILL) == -signal.SIGKILL
    assert second.end() == 1
    assert "train: inputs: expected those that were there before waiting" in second.output
    assert len(list(root.glob("runs/*/run_*"))) == 1


def test_a_trainer_that_waits_can_be_stopped(root: Path) -> None:
    first = Trainer(root, hold=5).held()
    second = Trainer(root)
    second.wait_for("train: waits for")
    assert second.signal(signal.SIGTERM) == 143
    assert first.signal(signal.SIGKILL) == -signal.SIGKILL


def test_what_is_finished_is_published_without_training(root: Path, whole: dict[str, Any]) -> None:
    train(root)
    (root / MODEL).unlink()
    output = train(root)
    assert "train: publishes" in output
    assert "train loss" not in output
    assert results(root) == whole


def test_a_forced_repro_publishes_again_unless_nothing_is_to_be_resumed(root: Path) -> None:
    forced = ("repro", "--force", "--single-item", "train@small3d-0-0")
    commit(root, "long")
    dvc(*forced, cwd=root)
    before = (root / MODEL).read_bytes()
    assert "train loss" not in dvc(*forced, cwd=root)
    set_params(root, {"runtime": {"resume": "never"}})
    assert "train loss" in dvc(*forced, cwd=root)
    assert (root / MODEL).read_bytes() == before
    assert len(list(root.glob("runs/*/run_*"))) == 2


def test_more_epochs_go_on_from_the_shorter_run_and_end_with_the_same_bytes(
    root: Path, whole: dict[str, Any]
) -> None:
    set_params(root, {"train": {"epochs": 3}})
    train(root)
    shorter = the_run(root)
    before = {path.name: path.read_bytes() for path in shorter.rglob("*") if path.is_file()}
    set_params(root, {"train": {"epochs": EPOCHS}})
    time.sleep(1.1)  # runs are ordered by the second of their start
    output = train(root)
    assert f"goes on from {shorter.name}" in output
    assert "train.epochs 3 -> 6" in output
    assert "epoch 2: train" not in output
    assert results(root) == whole
    run_dir = the_run(root)
    assert run_dir != shorter
    steps = 3 * len([row for row in whole["samples"] if row[0] == 0])
    place = {"differs": "train.epochs 3 -> 6", "epoch": 3, "step": steps}
    assert metadata(run_dir)["goes_on_from"] == {"run": shorter.name, "exact": True} | place
    after = {path.name: path.read_bytes() for path in shorter.rglob("*") if path.is_file()}
    assert after == before


def test_an_extension_that_is_killed_goes_on(root: Path, whole: dict[str, Any]) -> None:
    set_params(root, {"train": {"epochs": 2}})
    train(root)
    set_params(root, {"train": {"epochs": EPOCHS}})
    time.sleep(1.1)
    for words in ("goes on with", "epoch 3: train"):
        Trainer(root, hold=words).held().signal(signal.SIGKILL)
    train(root)
    assert results(root) == whole
    assert len(list(root.glob("runs/*/run_*"))) == 2


def test_where_the_schedule_depends_on_the_length_it_says_why_it_starts_afresh(
    root: Path,
) -> None:
    set_params(root, {"train": {"epochs": 1, "schedule": "cosine"}})
    train(root)
    set_params(root, {"train": {"epochs": 2}})
    output = train(root)
    assert "train.epochs 1 -> 2" in output
    assert "the cosine schedule depends on train.epochs: no shorter run can go on" in output
    assert "epoch 0: train" in output


def test_another_parameter_starts_afresh_and_is_named(root: Path) -> None:
    stopped = stopped_run(root, 10, signal.SIGTERM)
    set_params(root, {"train": {"learning_rate": 0.003}})
    time.sleep(1.1)
    output = train(root)
    assert f"; beside {stopped.name}: train.learning_rate 0.002 -> 0.003\n" in output
    assert "goes on with" not in output
    assert run_status(stopped) == "interrupted"


def test_with_resume_never_every_start_is_afresh(root: Path, whole: dict[str, Any]) -> None:
    stopped_run(root, 10, signal.SIGTERM)
    set_params(root, {"runtime": {"resume": "never"}})
    time.sleep(1.1)
    output = train(root)
    assert "runtime.resume is never" in output
    assert results(root) == whole
    assert len(list(root.glob("runs/*/run_*"))) == 2


@pytest.mark.parametrize("resume", ["exact", "compatible"])
def test_other_versions_go_on_only_if_asked_to_and_the_record_says_so(
    resume: str, root: Path
) -> None:
    stopped = stopped_run(root, 10, signal.SIGTERM)
    document = metadata(stopped)
    document["fingerprint"]["versions"]["torch"] = "2.0.0"
    document["trajectory"] = "another"
    (stopped / "metadata.json").write_text(json.dumps(document))
    for path in (stopped / "checkpoints").glob("*checkpoint*.pt"):
        save_checkpoint(path, load_checkpoint(path) | {"fingerprint": document["fingerprint"]})
    set_params(root, {"runtime": {"resume": resume}})
    time.sleep(1.1)
    output = train(root)
    run_dir = the_run(root)
    assert run_dir != stopped
    goes_on_from = metadata(run_dir).get("goes_on_from")
    if resume == "exact":
        assert f"beside {stopped.name}: torch 2.0.0 -> " in output
        assert goes_on_from is None
    else:
        assert f"goes on from {stopped.name}" in output
        assert "exact up to step " in output
        assert goes_on_from["run"] == stopped.name
        assert goes_on_from["exact"] is False
        assert goes_on_from["step"] >= 10


OPERATOR = "video/learning/losses.py"


def test_a_change_of_the_code_costs_nothing_if_that_is_asked_for_and_is_recorded(
    root: Path, whole: dict[str, Any]
) -> None:
    stopped = stopped_run(root, 30, signal.SIGTERM)
    source = (root / OPERATOR).read_text()
    assert source.count("+= 1.0 - label_smoothing") == 1
    (root / OPERATOR).write_text(source.replace("+= 1.0 - label_", "+= 0.9 - label_"))
    set_params(root, {"runtime": {"resume": "compatible"}})
    time.sleep(1.1)
    output = dvc("repro", "report", cwd=root)
    assert results(root)["model"] != whole["model"], "the change has no effect"
    model = load_checkpoint(root / MODEL)
    steps = load_checkpoint(stopped / "checkpoints/latest_checkpoint.pt")["progress"]["step"]
    assert f"goes on from {stopped.name}; {OPERATOR} " in output
    assert f"train: exact up to step {steps}, and from there on only about so" in output
    assert model["exact_up_to_step"] == metadata(the_run(root))["exact_up_to_step"] == steps
    shown = run(sys.executable, "-m", "commands", "runs", "show", the_run(root).name, cwd=root)
    assert f"inexactly: {OPERATOR} " in shown
    told = f"was trained exactly up to step {steps}, and went on from there with other code"
    assert told in output
    assert told in (root / "report.html").read_text()


# Held after two steps, between which the rows need more than is left of their files' last pages.
FULL_FROM, FULL_TO = 14, 74
FULL_DISK = f"""
set -e
holds() {{
    until grep -q "^State:.T" /proc/$trainer/status; do kill -0 $trainer; sleep 0.01; done
}}
mount -t tmpfs -o size=6m none runs
python -m tests.support.trainer {FULL_FROM} {FULL_TO} > output 2>&1 &
trainer=$!
holds
dd if=/dev/zero of=runs/blocker bs=64k 2>/dev/null || true
dd if=/dev/zero bs=1k 2>/dev/null >> runs/blocker || true
kill -CONT $trainer
holds
rm runs/blocker
kill -CONT $trainer
wait $trainer
cp -r runs kept
"""


def test_a_full_disk_is_told_and_ends_nothing(root: Path, whole: dict[str, Any]) -> None:
    shutil.rmtree(root / "runs", ignore_errors=True)
    (root / "runs").mkdir()
    # Checkpoints take the room of old ones; without any, the log is what has none.
    set_params(root, {"runtime": {"keep_epoch_checkpoints": 0}})
    result = subprocess.run(
        ["unshare", "--map-root-user", "--mount", "sh", "-c", FULL_DISK],
        cwd=root,
        env=environment(),
        text=True,
        capture_output=True,
        check=False,
    )
    if result.returncode and ("unshare" in result.stderr or "mount" in result.stderr):
        pytest.skip(f"no file system can be mounted here: {result.stderr.strip()}")
    output = (root / "output").read_text() if (root / "output").exists() else ""
    assert result.returncode == 0, result.stderr + output
    assert "No space left on device" in output
    (root / "runs").rmdir()
    (root / "kept").rename(root / "runs")
    assert results(root) == whole


def test_a_trainer_whose_dvc_was_killed_saves_and_ends(root: Path, whole: dict[str, Any]) -> None:
    command = [sys.executable, "-m", "dvc", "repro", "-f", "-s", "train@small3d-0-0"]
    process = subprocess.Popen(
        command, cwd=root, env=environment(), stdout=subprocess.DEVNULL, start_new_session=True
    )
    deadline = time.monotonic() + 60
    while (run_dir := newest_run(root)) is None or not (run_dir / "ledger.jsonl").exists():
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.001)
    trainer = metadata(run_dir)["attempts"][0]["pid"]
    # It shall not have trained to its end before it looks whether DVC lives: once a second.
    os.kill(trainer, signal.SIGSTOP)
    process.kill()
    process.wait()
    time.sleep(1.1)
    os.kill(trainer, signal.SIGCONT)
    deadline = time.monotonic() + 10
    while Path(f"/proc/{trainer}").exists():
        assert time.monotonic() < deadline, "the trainer trains on"
        time.sleep(0.01)
    assert metadata(run_dir)["attempts"][0]["reason"].startswith("stopped by ")
    train(root)
    assert results(root) == whole
