"""The log reads back what was logged, also damaged, growing or cut, and finds its best."""

import math
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from mlops.errors import PipelineError
from mlops.metrics.log import best_row, read_extremes, read_metrics, read_runs
from mlops.tracker import ExperimentTracker

ROOT = Path(__file__).resolve().parents[2]

ROW = b'{"step":%d,"epoch":0,"phase":"val","metric":"loss","value":%s,"time":1.0}\n'

READS_A_LOG_THAT_IS_CUT = """
import os, sys, threading, time
from pathlib import Path
from mlops.metrics.log import read_metrics
path = Path(sys.argv[1])
content = path.read_bytes()
for number in range(8):
    path.write_bytes(content)
    cut = threading.Timer(0.01 * number, os.truncate, (path, 1000))
    cut.start()
    heights = read_metrics(path).height
    cut.join()
    print(heights)
"""


def write_log(path: Path, values: list[float], first_step: int = 0) -> None:
    with path.open("ab") as stream:
        for step, value in enumerate(values, first_step):
            stream.write(ROW % (step, repr(value).encode()))


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "metrics.jsonl"


def best_step(log: Path, *, maximize: bool = False) -> int | None:
    best = best_row(log, "loss", phase="val", maximize=maximize)
    return None if best is None else best["step"]


# --- rows --------------------------------------------------------------------------------------


BAD_LINES = {
    "NULs": b"\0\0\0\0",
    "garbage": b"\x93\xfa garbage",
    "text": b"Traceback (most recent call last):",
    "no object": b"[1, 2]",
    "null": b"null",
    "no keys": b"{}",
    "a key missing": (ROW % (9, b"0.5"))[:-13] + b"}",
    "another type": ROW[:-1] % (9, b'"high"'),
    "no value": ROW[:-1] % (9, b"null"),
    "a wrong name of a value": ROW[:-2] % (9, b"null") + b',"nonfinite":"huge"}',
    "two rows glued": ROW[:-1] % (9, b"0.5") + ROW[:-1] % (10, b"0.5"),
    "a row glued to half a row": b'{"step":3,"ep' + ROW[:-1] % (9, b"0.5"),
    "a step beyond 64 bits": b'{"step":%d%s' % (2**63, ROW[10:-1] % b"0.5"),
    "a byte-order mark": b"\xef\xbb\xbf" + ROW[:-1] % (9, b"0.5"),
}


@pytest.mark.parametrize("line", BAD_LINES.values(), ids=BAD_LINES)
def test_a_line_that_is_no_row_is_left_out_with_a_warning(
    line: bytes, log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_log(log, [0.5, 0.25])
    with log.open("ab") as stream:
        stream.write(line + b"\n")
    write_log(log, [0.125], first_step=2)
    assert read_metrics(log).select("step", "value").rows() == [(0, 0.5), (1, 0.25), (2, 0.125)]
    assert capsys.readouterr().err == (
        f"{log}: expected a row in line 3, got something else; 1 line left out\n"
    )
    assert best_step(log) == 2


def test_a_warning_names_the_first_lines_and_counts_all(
    log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for step in range(50):
        write_log(log, [1.0], first_step=step)
        if step % 7 == 0:
            with log.open("ab") as stream:
                stream.write(b"?\n")
    assert read_metrics(log)["step"].to_list() == list(range(50))
    assert "in lines 2, 10, 18, 26, 34 and 3 more, got something else; 8 lines left out" in (
        capsys.readouterr().err
    )


def test_nan_and_infinities_beside_a_bad_line_come_back(tmp_path: Path) -> None:
    tracker = ExperimentTracker(tmp_path, "run")
    for step, value in enumerate([math.nan, math.inf, -math.inf, 0.5]):
        tracker.log({"loss": value}, step=step, epoch=0, phase="val")
    with tracker.path.open("ab") as stream:
        stream.write(b"?\n")
    assert [str(value) for value in tracker.get_metrics()["value"]] == ["nan", "inf", "-inf", "0.5"]
    tracker.close()


def test_a_log_that_is_cut_while_it_is_read_does_not_kill_the_reader(log: Path) -> None:
    log.write_bytes(b"".join(ROW % (step, b"0.5") for step in range(500_000)))
    done = subprocess.run(
        [sys.executable, "-c", READS_A_LOG_THAT_IS_CUT, str(log)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.split()) == 8


# --- best values --------------------------------------------------------------------------------


def extremes(values: list[float]) -> tuple[int | None, int | None]:
    """Return the steps of the min and the max, the earliest of equals, as a reference."""
    finite = [(value, step) for step, value in enumerate(values) if math.isfinite(value)]
    smallest = min(finite, key=lambda pair: pair[0], default=(0, None))
    largest = max(finite, key=lambda pair: pair[0], default=(0, None))
    return smallest[1], largest[1]


@pytest.mark.parametrize("seed", range(5))
def test_the_best_is_that_of_the_whole_log_however_it_grew(seed: int, tmp_path: Path) -> None:
    draws = random.Random(seed)
    choice = [0.0, -0.0, 1.0, 2.0, -3.5, math.nan, math.inf, -math.inf]
    tracker = ExperimentTracker(tmp_path, "run")
    values: list[float] = []
    for _ in range(8):
        for value in draws.choices(choice, k=draws.randint(0, 40)):
            tracker.log({"loss": value}, step=len(values), epoch=0, phase="val")
            values.append(value)
        smallest, largest = extremes(values)
        assert best_step(tracker.path) == smallest
        assert best_step(tracker.path, maximize=True) == largest
    tracker.close()


def test_extremes_are_of_each_phase_and_metric_in_the_order_of_the_log(tmp_path: Path) -> None:
    tracker = ExperimentTracker(tmp_path, "run")
    for step in range(3):
        metrics = {"loss": [1.0, -1.0, 0.5][step], "accuracy": math.nan}
        tracker.log(metrics, step=step, epoch=step, phase="val")
    tracker.log({"loss": 7.0}, step=9, epoch=1, phase="train")
    first, second, third = read_extremes(tracker.path)
    assert first == ("val", "loss", -1.0, 1.0, 0.5, 2)
    assert second[:4] == ("val", "accuracy", None, None)
    assert math.isnan(second.last)
    assert third == ("train", "loss", 7.0, 7.0, 7.0, 1)
    tracker.close()


def log_losses(tracker: ExperimentTracker, values: list[float], first_step: int = 0) -> None:
    for step, value in enumerate(values, first_step):
        tracker.log({"loss": value}, step=step, epoch=0, phase="val")


def test_the_best_of_a_log_that_was_cut_and_grew_longer_is_that_of_what_is_there(
    tmp_path: Path,
) -> None:
    tracker = ExperimentTracker(tmp_path, "run")
    log_losses(tracker, [0.5, 0.4])
    state = tracker.state_dict()
    log_losses(tracker, [0.1, 0.6], first_step=2)
    assert best_step(tracker.path) == 2
    tracker.load_state_dict(state)
    log_losses(tracker, [0.3, 0.6, 0.7], first_step=2)
    best = tracker.get_best_metric("loss", phase="val", maximize=False)
    assert best is not None
    assert (best["step"], best["value"]) == (2, 0.3)
    tracker.close()


def test_an_empty_log_has_no_best(log: Path) -> None:
    log.touch()
    assert best_step(log) is None
    assert read_extremes(log) == []


# --- several runs ------------------------------------------------------------------------------


def make_run(base: Path, experiment: str, run_id: str, accuracies: list[float]) -> Path:
    run_dir = base / experiment / run_id
    run_dir.mkdir(parents=True)
    tracker = ExperimentTracker(run_dir, run_id)
    for step, value in enumerate(accuracies):
        tracker.log({"accuracy": value}, step=step, epoch=0, phase="val")
    tracker.close()
    return run_dir


def test_several_runs_are_one_frame_that_names_run_and_experiment(tmp_path: Path) -> None:
    runs = [make_run(tmp_path, "first", "a", [0.5, 0.6]), make_run(tmp_path, "second", "b", [0.7])]
    frame = read_runs(runs)
    assert frame.select("experiment", "run_id", "step", "value").rows() == [
        ("first", "a", 0, 0.5),
        ("first", "a", 1, 0.6),
        ("second", "b", 0, 0.7),
    ]
    assert set(frame.columns) == {*read_metrics(runs[0] / "metrics.jsonl").columns} | {
        "run_id",
        "experiment",
    }


def test_no_runs_and_runs_without_a_log_are_an_empty_frame(tmp_path: Path) -> None:
    empty: list[Any] = []
    for runs in (empty, [tmp_path]):
        assert read_runs(runs).is_empty()
        assert read_runs(runs)["value"].dtype == pl.Float64


def test_all_directories_that_are_missing_are_named(tmp_path: Path) -> None:
    with pytest.raises(PipelineError) as raised:
        read_runs([tmp_path / "one", tmp_path, tmp_path / "two"])
    assert [fault.split(": ")[0] for fault in raised.value.faults] == [
        str(tmp_path / "one"),
        str(tmp_path / "two"),
    ]
