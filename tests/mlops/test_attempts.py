"""Every start of a run is on record, and no run is said to be running that is not."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from mlops.run.attempts import heartbeat, run_status, start_attempt
from mlops.run.directory import write_metadata

ROOT = Path(__file__).resolve().parents[2]

TRAINS = """
import sys, time
from pathlib import Path
from mlops.run.attempts import heartbeat, start_attempt
run_dir = Path(sys.argv[1])
attempt = start_attempt(run_dir)
with heartbeat(run_dir, every_sec=0.05):
    print("ready", flush=True)
    sys.stdin.readline()
    attempt.end("finished")
"""


def metadata(run_dir: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((run_dir / "metadata.json").read_text())
    return document


def change_pulse(run_dir: Path, **entries: Any) -> None:
    path = run_dir / "heartbeat"
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


def make_older(path: Path, seconds: float) -> None:
    moment = time.time() - seconds
    os.utime(path, (moment, moment))


@contextmanager
def training(run_dir: Path) -> Iterator[subprocess.Popen[str]]:
    """Start a process in the middle of an attempt, which it ends when it is sent a line."""
    with subprocess.Popen(
        [sys.executable, "-c", TRAINS, str(run_dir)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
        if process.poll() is None:
            process.kill()


def test_an_attempt_is_on_record_from_its_start(tmp_path: Path) -> None:
    write_metadata(tmp_path, run_id="run_1")
    attempt = start_attempt(tmp_path, steps=[0, None])
    document = metadata(tmp_path)
    started = datetime.fromisoformat(document["attempts"][0].pop("started"))
    assert abs(datetime.now(UTC) - started) < timedelta(seconds=30)
    assert document == {
        "run_id": "run_1",
        "status": "running",
        "attempts": [
            {
                "number": 1,
                "ended": None,
                "reason": None,
                "host": socket.gethostname(),
                "pid": os.getpid(),
                "log": "logs/attempt_001.log",
                "steps": [0, None],
            }
        ],
    }
    assert (attempt.number, attempt.log) == (1, "logs/attempt_001.log")


@pytest.mark.parametrize(
    ("reason", "status"),
    [
        ("finished", "finished"),
        ("failed: out of memory", "failed"),
        ("stopped by SIGTERM", "interrupted"),
        ("interrupted", "interrupted"),
    ],
)
def test_the_reason_of_the_end_gives_the_status(reason: str, status: str, tmp_path: Path) -> None:
    start_attempt(tmp_path).end(reason, steps=[0, 40])
    (attempt,) = metadata(tmp_path)["attempts"]
    assert (attempt["reason"], attempt["steps"]) == (reason, [0, 40])
    assert attempt["ended"] >= attempt["started"]
    assert metadata(tmp_path)["status"] == run_status(tmp_path) == status


def test_of_an_error_the_first_line_is_kept(tmp_path: Path) -> None:
    start_attempt(tmp_path).end("failed: one\ntwo\n")
    assert metadata(tmp_path)["attempts"][0]["reason"] == "failed: one"


def test_attempts_are_counted_and_earlier_ones_stay(tmp_path: Path) -> None:
    start_attempt(tmp_path).end("stopped by SIGTERM")
    first = metadata(tmp_path)["attempts"][0]
    start_attempt(tmp_path).end("finished")
    attempts = metadata(tmp_path)["attempts"]
    assert [attempt["number"] for attempt in attempts] == [1, 2]
    assert attempts[0] == first
    assert attempts[1]["log"] == "logs/attempt_002.log"


def test_an_attempt_that_was_killed_ended_when_it_was_last_seen(tmp_path: Path) -> None:
    with training(tmp_path) as process:
        process.kill()
    seen = datetime.fromtimestamp((tmp_path / "heartbeat").stat().st_mtime, UTC)
    make_older(tmp_path / "heartbeat", -3600)  # later than the attempt's start
    start_attempt(tmp_path)
    killed, new = metadata(tmp_path)["attempts"]
    ended = datetime.fromisoformat(killed["ended"])
    assert killed["reason"] == "killed"
    assert timedelta(minutes=59) < ended - seen < timedelta(minutes=61)
    assert (new["ended"], new["pid"]) == (None, os.getpid())


def test_an_attempt_that_was_never_seen_ended_when_it_started(tmp_path: Path) -> None:
    start_attempt(tmp_path)
    (tmp_path / "heartbeat").unlink()
    start_attempt(tmp_path)
    killed = metadata(tmp_path)["attempts"][0]
    assert (killed["ended"], killed["reason"]) == (killed["started"], "killed")


def test_a_heartbeat_shows_that_the_process_goes_on(tmp_path: Path) -> None:
    start_attempt(tmp_path)
    with heartbeat(tmp_path, every_sec=0.05):
        make_older(tmp_path / "heartbeat", 1000)
        deadline = time.monotonic() + 10
        while time.time() - (tmp_path / "heartbeat").stat().st_mtime > 100:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    make_older(tmp_path / "heartbeat", 1000)
    time.sleep(0.3)
    assert time.time() - (tmp_path / "heartbeat").stat().st_mtime > 900


def test_a_run_is_running_while_its_process_lives(tmp_path: Path) -> None:
    with training(tmp_path) as process:
        assert run_status(tmp_path) == "running"
        make_older(tmp_path / "heartbeat", 1e6)  # its clock does not matter on this host
        assert run_status(tmp_path) == "running"
        process.communicate("\n")
    assert run_status(tmp_path) == "finished"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_run_whose_process_was_killed_is_dead(number: int, tmp_path: Path) -> None:
    with training(tmp_path) as process:
        process.send_signal(number)
        process.wait()
        assert run_status(tmp_path) == "dead"
        assert metadata(tmp_path)["status"] == "running"


def test_a_run_is_dead_whose_number_of_process_another_has_now(tmp_path: Path) -> None:
    start_attempt(tmp_path)
    assert run_status(tmp_path) == "running"
    change_pulse(tmp_path, start_ticks=1)
    assert run_status(tmp_path) == "dead"


def test_a_run_is_dead_after_the_boot_of_its_host(tmp_path: Path) -> None:
    start_attempt(tmp_path)
    change_pulse(tmp_path, boot="another")
    assert run_status(tmp_path) == "dead"


@pytest.mark.parametrize("elsewhere", [{"host": "node7"}, {"namespace": "pid:[1]"}])
@pytest.mark.parametrize(
    ("age_sec", "status"),
    [(50, "running"), (70, "dead")],
)
def test_a_run_elsewhere_is_known_by_the_age_of_its_heartbeat(
    elsewhere: dict[str, str], age_sec: float, status: str, tmp_path: Path
) -> None:
    start_attempt(tmp_path)
    change_pulse(tmp_path, **elsewhere)
    make_older(tmp_path / "heartbeat", age_sec)
    assert run_status(tmp_path) == status


def test_a_run_that_is_being_created_is_running_for_a_minute(tmp_path: Path) -> None:
    run_dir = tmp_path / "run_1"
    run_dir.mkdir()
    assert run_status(run_dir) == "running"
    make_older(run_dir, 70)
    assert run_status(run_dir) == "dead"
    write_metadata(run_dir, status="running")
    assert run_status(run_dir) == "running"
    make_older(run_dir, 70)
    assert run_status(run_dir) == "dead"


def test_a_run_is_dead_when_its_process_goes_on_without_it(tmp_path: Path) -> None:
    """As a notebook does in which training has failed."""
    start_attempt(tmp_path)
    with heartbeat(tmp_path):
        assert run_status(tmp_path) == "running"
    assert run_status(tmp_path) == "dead"


def test_a_run_that_ends_while_its_status_is_asked_is_not_dead(tmp_path: Path) -> None:
    attempt = start_attempt(tmp_path)
    pulse = json.loads((tmp_path / "heartbeat").read_text())
    (tmp_path / "heartbeat").unlink()
    os.mkfifo(tmp_path / "heartbeat")  # who reads it waits for a writer
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(run_status, tmp_path)
        with (tmp_path / "heartbeat").open("w") as stream:
            attempt.end("finished")
            stream.write(json.dumps(pulse | {"stopped": True}))
        assert answer.result(timeout=10) == "finished"


def test_the_status_can_be_asked_at_any_moment(tmp_path: Path) -> None:
    """While metadata.json and the heartbeat are replaced: no error, and never dead."""
    code = """
import sys
from pathlib import Path
from mlops.run.attempts import heartbeat, start_attempt
run_dir = Path(sys.argv[1])
for _ in range(60):
    attempt = start_attempt(run_dir)
    with heartbeat(run_dir, every_sec=0.001):
        attempt.end("interrupted")
attempt = start_attempt(run_dir)
attempt.end("finished")
"""
    seen = set()
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT) as process:
        while process.poll() is None:
            seen.add(run_status(tmp_path))
    assert process.returncode == 0
    assert seen - {"finished"} == {"running", "interrupted"}
    assert run_status(tmp_path) == "finished"
