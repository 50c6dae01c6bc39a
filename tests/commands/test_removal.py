"""`runs gc` removes what runs have written, and nothing that is somebody else's."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from commands.__main__ import main
from mlops.checkpoint import EPOCH, LATEST, PREVIOUS
from mlops.run.attempts import recorded_attempt, start_attempt
from mlops.run.directory import create_run_directory, make_run
from mlops.run.gc import REMOVED
from mlops.tracker import ExperimentTracker
from tests.support.clone import ROOT, environment
from tests.support.runs_directory import config, finished_run, wanted

LONG_AGO = (0, 0)
ALL = ("gc", "--keep", "0", "--older-than", "0", "--yes")


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    Path("runs").mkdir()
    return Path("runs")


def command(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[str, str]:
    """Run `python -m commands runs`, which must succeed; return stdout and stderr."""
    capsys.readouterr()
    main(["runs", *arguments])
    output = capsys.readouterr()
    return output.out, output.err


def stopped(base: Path, **train: object) -> Path:
    """Make a run that was stopped and may be removed."""
    run = make_run(base, "demo", wanted(config(**train)))
    start_attempt(run).end("stopped by SIGTERM")
    return run


def everything_below(path: Path) -> dict[str, str]:
    return {str(item): item.name for item in path.rglob("*")}


def why(output: str, run: Path) -> str:
    (line,) = [line for line in output.splitlines() if f" {run} " in line]
    return line


# What is no run


@pytest.mark.parametrize(
    "name",
    [
        "tensorboard/run_1",
        "mine/run_notes",
        "mine/run_20260101_120000",
        "mine/run_20260101_120000_aaaaaaaa",  # the name of a run, without its record
        "mine/run_20260101_120000_aaaaaaaa_copy",
        ".trash/run_20260101_120000_aaaaaaaa",
    ],
)
@pytest.mark.parametrize("record", [None, "{}", '{"run_id": "run_20250101_120000_bbbbbbbb"}', "[]"])
def test_a_directory_that_no_run_made_is_never_removed(
    name: str, record: str | None, base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = base / name
    (directory / "logs").mkdir(parents=True)
    (directory / "logs/attempt_001.log").write_text("mine")
    if record is not None:
        (directory / "metadata.json").write_text(record)
    os.utime(directory, LONG_AGO)
    run = stopped(base)
    before = everything_below(directory)
    command(capsys, *ALL)
    command(capsys)
    assert everything_below(directory) == before
    assert not run.exists()


def test_a_directory_of_somebody_elses_does_not_count_among_the_newest(
    base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = stopped(base)
    (base / "demo/run_20990101_120000_aaaaaaaa").mkdir()
    output, _ = command(capsys, "gc", "--keep", "1", "--older-than", "0")
    assert why(output, run).split()[0] == "keep"


@pytest.mark.parametrize("lost", ["metadata.json", "config.json and metadata.json"])
def test_a_run_without_its_record_is_kept(
    lost: str, base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = stopped(base)
    for name in lost.split(" and "):
        (run / name).unlink()
    (run / "heartbeat").unlink()
    os.utime(run, LONG_AGO)
    output, _ = command(capsys, *ALL)
    assert "without a metadata.json that names it" in why(output, run)
    assert run.is_dir()


def test_a_copy_of_a_run_under_the_name_of_another_is_kept(
    base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = stopped(base)
    copy = run.with_name("run_20260101_120000_aaaaaaaa")
    shutil.copytree(run, copy)
    command(capsys, *ALL)
    assert not run.exists()
    assert copy.is_dir()


# What lies in a run


@pytest.mark.parametrize(
    "name",
    [
        "notes.txt",
        "checkpoints/mine.pt",
        "checkpoints/latest_checkpoint_copy.pt",
        "checkpoints/latest_checkpoint.pt.bak",
        "checkpoints/checkpoint_epoch_3.pt",
        "checkpoints/.notes.abcdefgh.tmp.txt",
        "artifacts/plot.png",
        "logs/attempt_1.log",
        "logs/mine/attempt_001.log",
        "mine/metrics.jsonl",
        ".hidden",
        "metrics.csv",
    ],
)
def test_a_run_that_holds_a_file_of_the_users_is_kept_and_the_file_named(
    name: str, base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = stopped(base)
    (run / name).parent.mkdir(parents=True, exist_ok=True)
    (run / name).write_text("mine")
    before = everything_below(run)
    output, _ = command(capsys, *ALL)
    assert why(output, run).split()[0] == "keep"
    shown = name.removesuffix("/attempt_001.log") if "mine/" in name else name
    assert f"holds files that no run writes: {shown.removesuffix('/metrics.jsonl')};" in output
    assert everything_below(run) == before
    (run / name).unlink()
    if "mine/" in name:
        (run / name).parent.rmdir()
    command(capsys, *ALL)
    assert not run.exists()


def test_of_many_files_some_are_named(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = stopped(base)
    for number in range(7):
        (run / f"{number}.txt").touch()
    output, _ = command(capsys, *ALL)
    assert "0.txt, 1.txt, 2.txt, 3.txt, 4.txt and 2 more; move them away first" in output


@pytest.mark.parametrize("name", ["heartbeat", f"checkpoints/{LATEST}", "logs", "artifacts/x"])
def test_a_link_in_a_run_is_not_followed(
    name: str, base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = stopped(base)
    other = Path("other")
    other.mkdir()
    (other / "attempt_001.log").write_text("mine")
    if (run / name).is_dir():
        (run / name).rmdir()
    (run / name).unlink(missing_ok=True)
    (run / name).symlink_to(other.absolute())
    output, _ = command(capsys, *ALL)
    assert f"holds files that no run writes: {name};" in why(output, run)
    assert (other / "attempt_001.log").read_text() == "mine"
    assert run.is_dir()


@pytest.mark.parametrize("linked", ["the run", "the experiment"])
def test_a_run_that_a_link_leads_to_is_kept(
    linked: str, base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = stopped(base)
    path = run if linked == "the run" else run.parent
    elsewhere = Path("elsewhere").absolute()
    path.rename(elsewhere)
    path.symlink_to(elsewhere)
    before = everything_below(elsewhere)
    output, _ = command(capsys, *ALL)
    assert "reached by a symbolic link" in why(output, run)
    assert everything_below(elsewhere) == before


def test_all_that_a_run_can_leave_is_removed(
    base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = finished_run(base, [0.5], published={})
    document = json.loads((run / "metadata.json").read_text()) | {"status": "interrupted"}
    (run / "metadata.json").write_text(json.dumps(document))
    for name in (
        *(
            f"checkpoints/{name}"
            for name in ("best_model.pt", LATEST, PREVIOUS, EPOCH.format(12345))
        ),
        f"checkpoints/{LATEST}.damaged1",
        f"checkpoints/{PREVIOUS}.refused12",
        "checkpoints/checkpoint_epoch_0003.pt.later1",
        "checkpoints/best_model.pt.of_epoch_-1",
        "checkpoints/.latest_checkpoint.abcd_123.tmp.pt",
        ".metadata.abcd_123.tmp.json",
        ".heartbeat.abcd_123.tmp",
        "orphans.jsonl",
        "ledger.jsonl",
        "ledger.orphans.jsonl",
        "timings.jsonl",
        "timings.orphans.jsonl",
        "artifacts/best_model.pt",
        "artifacts/history.csv",
        "artifacts/params_before_001.yaml",
        "logs/attempt_001.log",
    ):
        (run / name).touch()
    command(capsys, *ALL)
    assert not any(run.parent.iterdir())


KILLED_NOTEBOOK = """
import os, signal, sys
from mlops.run.directory import create_run_directory
from mlops.tracker import ExperimentTracker
run_dir, run_id = create_run_directory("runs", "demo")
print(run_dir, flush=True)
if sys.argv[1] == "logs":
    ExperimentTracker(run_dir, run_id).log({"loss": 1.0}, step=1, epoch=0, phase="step")
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("moment", ["made", "logs"])
def test_a_run_that_was_killed_before_it_noted_anything_is_removed(
    moment: str, base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = subprocess.run(
        [sys.executable, "-c", KILLED_NOTEBOOK, moment],
        env=environment() | {"PYTHONPATH": str(ROOT)},
        text=True,
        capture_output=True,
        check=False,
    )
    assert result.returncode == -signal.SIGKILL, result.stderr
    run = Path(result.stdout.strip())
    os.utime(run / "metadata.json", LONG_AGO)  # not made within the last minute
    output, _ = command(capsys, *ALL)
    assert f"{run}: removed" in output
    assert not run.exists()


def test_a_run_that_logs_without_a_sign_of_life_is_kept(
    base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir, run_id = create_run_directory(base, "notebook")
    tracker = ExperimentTracker(run_dir, run_id)
    os.utime(run_dir / "metadata.json", LONG_AGO)
    output, _ = command(capsys, *ALL)
    assert "at work: a process has its log open" in why(output, run_dir)
    tracker.close()
    os.utime(run_dir / "metadata.json", LONG_AGO)
    command(capsys, *ALL)
    assert not run_dir.exists()


REMOVES = """
import sys
from commands.__main__ import main
main(["runs", "gc", "--keep", "0", "--older-than", "0", "--yes"])
"""


def test_a_removal_killed_anywhere_is_finished_by_the_next(
    base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    started = 0
    while started < 8:
        run = stopped(base)
        for number in range(3000):
            (run / f"logs/attempt_{number:05}.log").touch()
        process = subprocess.Popen(
            [sys.executable, "-c", REMOVES],
            env=environment() | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.DEVNULL,
        )
        while not list(base.glob(f"demo/{REMOVED}*")) and process.poll() is None:
            time.sleep(0.0005)
        time.sleep(0.004 * started)
        process.kill()
        process.wait()
        started += 1
        command(capsys)  # whatever is left is no fault
        command(capsys, *ALL)
        assert not any((base / "demo").iterdir())


@pytest.mark.parametrize("name", ["run_notes_1", "run_20260101_120000_aaaaaaaa_1"])
def test_a_hidden_directory_of_the_users_is_not_taken_for_a_removal(
    name: str, base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = base / f"demo/{REMOVED}{name}"
    directory.mkdir(parents=True)
    (directory / "metrics.jsonl").write_text("mine")
    command(capsys, *ALL)
    assert (directory / "metrics.jsonl").read_text() == "mine"


# After a removal, and beside other things


def test_after_the_run_of_a_notebook_is_removed_runs_and_gc_go_on(
    base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir, run_id = create_run_directory(base, "notebook")
    tracker = ExperimentTracker(run_dir, run_id)
    with pytest.raises(ValueError, match="end"), recorded_attempt(run_dir):
        raise ValueError("end")
    tracker.close()
    command(capsys, *ALL)
    assert not run_dir.exists()
    output, errors = command(capsys)
    assert (output, errors) == ("runs: no runs; dvc repro makes one\n", "")
    assert "would remove 0 runs" in command(capsys, "gc")[0]
    assert not list(base.glob("*/run_*"))


def test_files_and_foreign_directories_stop_no_command(
    base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = finished_run(base, [0.5])
    for name in (".locks/run_20260101_120.lock", "demo/run_1", "run_2", "demo/run_20260101.txt"):
        (base / name).parent.mkdir(parents=True, exist_ok=True)
        (base / name).write_text("{")
    (base / "demo/run_20260101_120000_cccccccc").write_text("a file with the name of a run")
    (base / "demo/run_20260101_120000_dddddddd").symlink_to("nowhere")
    (base / "mine/run_3/metadata.json").mkdir(parents=True)
    output, errors = command(capsys)
    assert run.name in output
    assert errors == ""
    assert [row["run"] for row in json.loads(command(capsys, "--json")[0])] == [run.name]
    assert "would remove 0 runs" in command(capsys, "gc")[0]
    assert run.name in command(capsys, "show", run.name)[0]
