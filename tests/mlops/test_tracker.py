"""The log keeps what it has taken, through kills, full disks and resumes."""

import json
import math
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from mlops.errors import PipelineError
from mlops.metrics.log import read_metrics
from mlops.run.directory import make_run, write_metadata
from mlops.run.identity import TrainingIdentity
from mlops.tracker import ExperimentTracker

ROOT = Path(__file__).resolve().parents[2]

LOGS_FOREVER = """
import sys
from pathlib import Path
from mlops.tracker import ExperimentTracker
tracker = ExperimentTracker(Path(sys.argv[1]), "run")
for step in range(10**9):
    tracker.log({"loss": 1 / (step + 1), "accuracy": 0.5}, step=step, epoch=0, phase="step")
    print(step, flush=True)
"""

LOGS_UNTIL_THE_DISK_IS_FULL = """
import resource, signal, sys
from pathlib import Path
from mlops.tracker import ExperimentTracker
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
tracker = ExperimentTracker(Path(sys.argv[1]), "run")
for step in range(100):
    tracker.log({"loss": 0.5}, step=step, epoch=0, phase="step")
    print(step, flush=True)
"""

TRAINS = """
import json, sys
from pathlib import Path
from mlops.files import atomic
from mlops.tracker import ExperimentTracker
run_dir, last = Path(sys.argv[1]), int(sys.argv[2])
checkpoint = run_dir / "checkpoint.json"
tracker = ExperimentTracker(run_dir, "run")
state = json.loads(checkpoint.read_text()) if checkpoint.exists() else None
tracker.load_state_dict(state and state["tracker"])
for step in range(state["step"] + 1 if state else 0, last + 1):
    tracker.log({"loss": 1 / (step + 1), "accuracy": 0.5}, step=step, epoch=0, phase="step")
    if step % 10 == 0:
        tracker.log({"accuracy": 0.5}, step=step, epoch=0, phase="val")
    if step % 25 == 0:
        tracker.sync()
        atomic.write_json(checkpoint, {"step": step, "tracker": tracker.state_dict()})
    print(step, flush=True)
"""


@pytest.fixture
def tracker(tmp_path: Path) -> Iterator[ExperimentTracker]:
    tracker = ExperimentTracker(tmp_path, "run")
    yield tracker
    tracker.close()


def log_values(tracker: ExperimentTracker, values: list[float], first_step: int = 0) -> None:
    for step, value in enumerate(values, start=first_step):
        tracker.log({"loss": value}, step=step, epoch=0, phase="val")


def steps(directory: Path) -> list[int]:
    return read_metrics(directory / "metrics.jsonl")["step"].to_list()


def test_rows_that_log_returned_from_survive_kill_9(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", LOGS_FOREVER, str(tmp_path)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    acknowledged = 0
    while acknowledged < 500:
        acknowledged = int(process.stdout.readline())
    process.send_signal(signal.SIGKILL)
    # The last line that was printed may itself be torn; the ones before it are not.
    acknowledged = max([acknowledged, *map(int, process.communicate()[0].split("\n")[:-1])])
    logged = read_metrics(tmp_path / "metrics.jsonl")
    last = logged["step"].max()
    assert isinstance(last, int)
    assert last >= acknowledged
    expected = [step for step in range(last + 1) for _ in range(2)]
    assert logged["step"].to_list() == expected
    losses = logged.filter(pl.col("metric") == "loss")["value"].to_list()
    assert losses == [1 / (step + 1) for step in range(last + 1)]


def test_on_a_full_disk_logging_goes_on_and_the_file_has_whole_rows(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOGS_UNTIL_THE_DISK_IS_FULL, str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert [int(line) for line in done.stdout.split()] == list(range(100))
    assert done.stderr.count("expected room for another line, got: File too large") == 1
    assert 900 < (tmp_path / "metrics.jsonl").stat().st_size < 1000  # the last row was torn
    assert steps(tmp_path) == list(range(len(steps(tmp_path)))) != []


def test_every_finite_number_comes_back_as_it_was(tracker: ExperimentTracker) -> None:
    draws = random.Random(0)
    values = [5e-324, -0.0, 1.7976931348623157e308, 2.0**53 + 2, 0.1, 1.0, 1e22]
    values += [draws.uniform(-1, 1) * 10.0 ** draws.randint(-300, 300) for _ in range(500)]
    log_values(tracker, values)
    got = tracker.get_metrics()["value"].to_list()
    assert [value.hex() for value in got] == [value.hex() for value in values]


def test_nan_and_infinities_come_back(tracker: ExperimentTracker) -> None:
    log_values(tracker, [math.nan, math.inf, -math.inf, 0.5])
    assert [str(value) for value in tracker.get_metrics()["value"]] == ["nan", "inf", "-inf", "0.5"]


def test_the_log_is_json_also_with_nan(tracker: ExperimentTracker) -> None:
    log_values(tracker, [math.nan])

    def refuse(token: str) -> None:
        raise AssertionError(token)

    (line,) = tracker.path.read_text().splitlines()
    row = json.loads(line, parse_constant=refuse)
    assert (row["value"], row["nonfinite"]) == (None, "nan")


def test_a_row_says_step_epoch_phase_metric_value_and_time(tracker: ExperimentTracker) -> None:
    tracker.log({"accuracy": 0.91, "loss": 0.3}, step=40, epoch=1, phase="val")
    rows = [json.loads(line) for line in tracker.path.read_text().splitlines()]
    assert [(row["metric"], row["value"]) for row in rows] == [("accuracy", 0.91), ("loss", 0.3)]
    assert {(row["step"], row["epoch"], row["phase"]) for row in rows} == {(40, 1, "val")}
    assert list(rows[0]) == ["step", "epoch", "phase", "metric", "value", "time"]


def test_numbers_of_numpy_are_taken(tracker: ExperimentTracker) -> None:
    tracker.log({"a": np.float32(0.5), "b": 1}, step=np.int64(3), epoch=0, phase="x")  # type: ignore[dict-item, arg-type]
    assert tracker.get_metrics().select("step", "value").rows() == [(3, 0.5), (3, 1.0)]


def test_names_of_metrics_in_any_script_come_back(tracker: ExperimentTracker) -> None:
    name = 'recall of "Fälschung"\n字'
    tracker.log({name: 1.0}, step=0, epoch=0, phase="val")
    assert tracker.get_metrics()["metric"].to_list() == [name]


@pytest.mark.parametrize(("maximize", "step"), [(True, 3), (False, 2)])
def test_the_best_is_finite_and_the_earliest_of_equals(
    maximize: bool, step: int, tracker: ExperimentTracker
) -> None:
    log_values(tracker, [math.nan, math.inf, 1.0, 3.0, 3.0, -math.inf, 1.0, 2.0])
    best = tracker.get_best_metric("loss", phase="val", maximize=maximize)
    assert best is not None
    assert best["step"] == step


def test_the_best_is_of_the_metric_and_the_phase_asked_for(tracker: ExperimentTracker) -> None:
    for phase, metric, value in [("val", "a", 0.1), ("val", "b", 0.9), ("train", "a", 0.8)]:
        tracker.log({metric: value}, step=0, epoch=0, phase=phase)
    best = tracker.get_best_metric("a", phase="val", maximize=True)
    assert best is not None
    assert best["value"] == 0.1


@pytest.mark.parametrize("values", [[], [math.nan], [math.nan, math.inf, -math.inf]])
def test_without_a_finite_value_there_is_no_best(
    values: list[float], tracker: ExperimentTracker
) -> None:
    log_values(tracker, values)
    assert tracker.get_best_metric("loss", phase="val", maximize=True) is None


def test_an_empty_log_is_an_empty_frame_of_the_same_columns(tracker: ExperimentTracker) -> None:
    empty = tracker.get_metrics()
    log_values(tracker, [0.5])
    assert empty.is_empty()
    assert empty.schema == tracker.get_metrics().schema


@pytest.mark.parametrize(
    "torn", ["", "{", '{"step":9,"epoch":0,"phase":"val","metric":"loss"', "\0"]
)
def test_a_torn_last_line_does_not_count(torn: str, tracker: ExperimentTracker) -> None:
    log_values(tracker, [0.5, 0.25])
    with tracker.path.open("a") as stream:
        stream.write(torn)
    assert tracker.get_metrics()["value"].to_list() == [0.5, 0.25]


def resume(directory: Path, state: dict[str, Any] | None, run_id: str = "run") -> None:
    """Resume from `state` as a new process does: cut the log and log step 2 again."""
    tracker = ExperimentTracker(directory, run_id)
    try:
        tracker.load_state_dict(state)
        log_values(tracker, [0.125], first_step=2)
    finally:
        tracker.close()


def interrupted_run(directory: Path) -> dict[str, Any]:
    """Log the steps 0 to 3 of a run whose checkpoint was written after step 1."""
    tracker = ExperimentTracker(directory, "run")
    log_values(tracker, [1.0, 0.5])
    state = tracker.state_dict()
    log_values(tracker, [0.25, 0.2], first_step=2)
    tracker.close()
    return state


def test_a_resumed_log_has_every_step_once(tmp_path: Path) -> None:
    resume(tmp_path, interrupted_run(tmp_path))
    logged = read_metrics(tmp_path / "metrics.jsonl")
    assert logged.select("step", "value").rows() == [(0, 1.0), (1, 0.5), (2, 0.125)]


def test_rows_that_were_cut_off_are_kept_as_orphans(tmp_path: Path) -> None:
    state = interrupted_run(tmp_path)
    resume(tmp_path, state)
    resume(tmp_path, state)
    orphans = read_metrics(tmp_path / "orphans.jsonl")
    assert orphans.select("step", "value").rows() == [(2, 0.25), (3, 0.2), (2, 0.125)]


def test_a_torn_orphan_does_not_run_into_the_next(tmp_path: Path) -> None:
    state = interrupted_run(tmp_path)
    with (tmp_path / "metrics.jsonl").open("a") as stream:
        stream.write('{"step":')
    resume(tmp_path, state)
    resume(tmp_path, state)
    lines = (tmp_path / "orphans.jsonl").read_text().splitlines()
    # What was torn goes when the log is opened, whole rows when it is cut.
    assert lines[0] == '{"step":'
    assert [json.loads(line)["value"] for line in lines[1:]] == [0.25, 0.2, 0.125]


def test_a_run_without_a_checkpoint_begins_its_log_anew(tmp_path: Path) -> None:
    interrupted_run(tmp_path)
    resume(tmp_path, None)
    assert steps(tmp_path) == [2]
    assert read_metrics(tmp_path / "orphans.jsonl")["step"].to_list() == [0, 1, 2, 3]


def test_a_resume_with_nothing_to_cut_leaves_no_orphans(tmp_path: Path) -> None:
    tracker = ExperimentTracker(tmp_path, "run")
    log_values(tracker, [1.0, 0.5])
    state = tracker.state_dict()
    tracker.close()
    resume(tmp_path, state)
    assert steps(tmp_path) == [0, 1, 2]
    assert not (tmp_path / "orphans.jsonl").exists()


@pytest.mark.parametrize("content", [b"", b"{}\n"])
def test_an_offset_beyond_the_log_is_refused(content: bytes, tmp_path: Path) -> None:
    state = interrupted_run(tmp_path)
    (tmp_path / "metrics.jsonl").write_bytes(content)
    with pytest.raises(PipelineError, match=r"metrics\.jsonl: expected at least \d+ bytes.*, got"):
        resume(tmp_path, state)
    assert (tmp_path / "metrics.jsonl").read_bytes() == content


def test_after_kills_and_resumes_each_step_phase_and_metric_has_one_row(tmp_path: Path) -> None:
    command = [sys.executable, "-c", TRAINS, str(tmp_path)]
    draws = random.Random(0)
    for _ in range(5):
        process = subprocess.Popen(
            [*command, "1000000"], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        for _ in range(draws.randint(1, 80)):
            process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        process.communicate()
    checkpoint = json.loads((tmp_path / "checkpoint.json").read_text())
    last = checkpoint["step"] + 40
    subprocess.run([*command, str(last)], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    expected = [(step, "step", name) for step in range(last + 1) for name in ("loss", "accuracy")]
    expected += [(step, "val", "accuracy") for step in range(0, last + 1, 10)]
    logged = read_metrics(tmp_path / "metrics.jsonl").select("step", "phase", "metric").rows()
    assert sorted(logged) == sorted(expected)
    assert (tmp_path / "orphans.jsonl").exists()


def test_an_offset_inside_a_line_is_refused(tmp_path: Path) -> None:
    state = interrupted_run(tmp_path)
    with pytest.raises(PipelineError, match=r"metrics\.jsonl: expected the end of a line at byte"):
        resume(tmp_path, state | {"offset_bytes": state["offset_bytes"] - 3})
    assert steps(tmp_path) == [0, 1, 2, 3]


def test_the_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    state = interrupted_run(tmp_path)
    with pytest.raises(PipelineError, match="expected a checkpoint of other, got one of run"):
        resume(tmp_path, state, run_id="other")
    assert steps(tmp_path) == [0, 1, 2, 3]


def test_a_second_writer_is_refused_while_the_first_lives(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", LOGS_FOREVER, str(tmp_path)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    process.stdout.readline()
    try:
        with pytest.raises(PipelineError, match="expected a run that no process is in"):
            ExperimentTracker(tmp_path, "run")
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    ExperimentTracker(tmp_path, "run").close()


def test_a_run_directory_may_be_given_as_text(tmp_path: Path) -> None:
    tracker = ExperimentTracker(str(tmp_path), "run")
    log_values(tracker, [0.5])
    tracker.close()
    assert steps(tmp_path) == [0]


def test_a_run_directory_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=r"nowhere: expected the directory of a run, found no"):
        ExperimentTracker(tmp_path / "nowhere", "run")


def test_metadata_is_added_to_what_is_there(tracker: ExperimentTracker) -> None:
    write_metadata(tracker.run_dir, status="running", note="a")
    tracker.log_metadata({"note": "b", "GPU": {"memory_mb": 80}})
    document = json.loads((tracker.run_dir / "metadata.json").read_text())
    assert document == {"status": "running", "note": "b", "GPU": {"memory_mb": 80}}


class Settings:
    def to_dict(self) -> dict[str, Any]:
        return {"rate": 1e-3, "layers": [1, 2]}


@pytest.mark.parametrize("config", [Settings(), Settings().to_dict()])
def test_a_configuration_is_written_as_a_run_of_the_pipeline_has_it(
    config: Any, tmp_path: Path, tracker: ExperimentTracker
) -> None:
    tracker.log_config(config)
    wanted = TrainingIdentity(
        config=Settings().to_dict(),
        fingerprint={"inputs": {}},
        trajectory="t",
        cell=(),
        num_epochs=1,
    )
    run_dir = make_run(tmp_path / "runs", "x", wanted)
    expected = (run_dir / "config.json").read_bytes()
    assert (tracker.run_dir / "config.json").read_bytes() == expected
