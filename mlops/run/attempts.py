"""The attempts of a run: one for every start of its process, and whether the last one still lives.

    "attempts": [
      {"number": 1, "started": "2026-11-23T08:00:00+00:00", "ended": "2026-11-23T08:41:07+00:00",
       "reason": "killed", "host": "node7", "pid": 4711, "log": "logs/attempt_001.log"},
      {"number": 2, "started": "2026-11-23T09:12:30+00:00", "ended": null, "reason": null, …}
    ]

They stand in metadata.json. `heartbeat` beside it names the process of the last attempt, and its
time of change is when that process was last seen alive.
"""

import json
import math
import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mlops.errors import PipelineError
from mlops.files import atomic
from mlops.processes.parent import is_alive, own_identity
from mlops.processes.signals import StoppedError
from mlops.run.attempt_log import log_name
from mlops.run.directory import change_metadata
from mlops.run.documents import METADATA, RunStatus, read_metadata

KILLED = "killed"
BEAT_EVERY_SEC = 10.0
# A shared file system may show another host's heartbeat late.
PATIENCE_SEC = 60.0


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One start of a run's process."""

    run_dir: Path
    number: int  # from 1

    @property
    def log(self) -> str:
        return log_name(self.number)

    def end(self, reason: str, **entries: Any) -> None:
        """Note why this attempt ends, its `entries`, and what that makes of the run.

        `reason` is "finished", "failed: " and the first line of the error, or what interrupted
        it, as "stopped by SIGTERM"; the run's status follows from it.
        """
        ended = {"ended": _now(), "reason": reason.strip().partition("\n")[0]} | entries

        def close(document: dict[str, Any]) -> dict[str, Any]:
            attempts = [
                attempt | ended if attempt["number"] == self.number else attempt
                for attempt in document.get("attempts", [])
            ]
            return document | {"status": status_after(reason), "attempts": attempts}

        change_metadata(self.run_dir, close)


def start_attempt(run_dir: Path, **entries: Any) -> Attempt:
    """Begin an attempt of the run, which is now running, and close those that were killed.

    To be called by the one process that holds the run, after it has taken the lock of the log.
    An attempt without an end was killed; it ended when its process was last seen alive.
    """
    seen = _modified(run_dir / "heartbeat")
    started = _now()
    new = {
        "started": started,
        "ended": None,
        "reason": None,
        "host": own_identity()["host"],
        "pid": os.getpid(),
    }

    def begin(document: dict[str, Any]) -> dict[str, Any]:
        earlier = [_closed(attempt, seen) for attempt in document.get("attempts", [])]
        number = max((attempt["number"] for attempt in earlier), default=0) + 1
        attempt = {"number": number} | new | {"log": log_name(number)} | entries
        return document | {"status": "running", "attempts": [*earlier, attempt]}

    # Before the status: whoever reads that it is running finds the process that runs it.
    _write_heartbeat(run_dir, stopped=False)
    document = change_metadata(run_dir, begin)
    return Attempt(run_dir=run_dir, number=document["attempts"][-1]["number"])


@contextmanager
def recorded_attempt(run_dir: Path, **entries: Any) -> Iterator[Attempt]:
    """Record the block as an attempt, with a heartbeat; what leaves the block is why it ended."""
    attempt = start_attempt(run_dir, **entries)
    with heartbeat(run_dir):
        try:
            yield attempt
        except StoppedError as error:
            _end(attempt, f"stopped by {error.reason}")
            raise
        except BaseException as error:
            _end(attempt, f"failed: {str(error) or type(error).__name__}")
            raise
        _end(attempt, "finished")


def _end(attempt: Attempt, reason: str) -> None:
    # On a full disk the reason is not recorded; it must not take the place of the error itself.
    try:
        attempt.end(reason)
    except (OSError, PipelineError) as error:
        # Of a directory that is gone the error itself tells.
        if attempt.run_dir.is_dir() or reason == "finished":
            print(f"{attempt.run_dir}: {reason}, which cannot be noted: {error}", file=sys.stderr)


def status_after(reason: str) -> RunStatus:
    """Return the status of a run whose last attempt ended for this reason."""
    if reason == "finished":
        return "finished"
    return "failed" if reason.startswith("failed") else "interrupted"


@contextmanager
def heartbeat(run_dir: Path, *, every_sec: float = BEAT_EVERY_SEC) -> Iterator[None]:
    """Show, until the block ends or the process does, that this process works on the run.

    A thread sets the time of `heartbeat`, which `start_attempt` has written. `Attempt.end` belongs
    inside the block: after it, a run whose attempt has not ended is dead.
    """
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(every_sec):
            # On a full or absent file system the run goes on; it only looks dead from elsewhere.
            with suppress(OSError):
                os.utime(run_dir / "heartbeat")

    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        # The process may live on, as that of a notebook does.
        _write_heartbeat(run_dir, stopped=True)


def run_status(run_dir: Path) -> RunStatus:
    """Return what has become of a run; never "running" for ever.

    | metadata.json says             | the process that `heartbeat` names     | status      |
    | ------------------------------ | -------------------------------------- | ----------- |
    | finished, failed, interrupted  | is not asked                           | as it says  |
    | running, or is not there yet   | lives, on this host                    | running     |
    |                                | has ended, has stopped its heartbeat,  |             |
    |                                | or was of an earlier boot              | dead        |
    |                                | is on another host or in another       |             |
    |                                | container: seen within 60 s            | running     |
    |                                | and not seen for longer                | dead        |
    |                                | is not named yet: directory and        |             |
    |                                | metadata.json are not older than 60 s  | running     |
    |                                | and not for longer                     | dead        |
    """
    said = _recorded_status(run_dir)
    while said[0] == "running" and not _is_worked_on(run_dir):
        # It may have ended, and said so, between the two looks, or even begun again.
        before, said = said, _recorded_status(run_dir)
        if said == before:
            return "dead"
    return said[0]


def _recorded_status(run_dir: Path) -> tuple[RunStatus, int]:
    """Return the status that metadata.json tells, and the number of attempts."""
    try:
        document = read_metadata(run_dir)
    except FileNotFoundError:
        return "running", 0
    status: RunStatus = document.get("status", "running")
    return status, len(document.get("attempts", []))


def _is_worked_on(run_dir: Path) -> bool:
    try:
        pulse = json.loads((run_dir / "heartbeat").read_bytes())
        alive = False if pulse["stopped"] else is_alive(pulse)
    except FileNotFoundError:
        # A run that has just been created. Its record tells when; one without a record is no run,
        # or of earlier code.
        made = [path for path in (run_dir, run_dir / METADATA) if path.exists()]
        return max(map(_age_sec, made), default=math.inf) < PATIENCE_SEC
    except (OSError, ValueError, KeyError, TypeError):
        alive = None  # it is written without a sync, and so may be empty after a power cut
    return _age_sec(run_dir / "heartbeat") < PATIENCE_SEC if alive is None else alive


def _closed(attempt: Mapping[str, Any], seen: float | None) -> dict[str, Any]:
    if attempt["ended"] is not None:
        return dict(attempt)
    last = max(seen or 0.0, datetime.fromisoformat(attempt["started"]).timestamp())
    return dict(attempt) | {"ended": _iso(last), "reason": KILLED}


def _write_heartbeat(run_dir: Path, *, stopped: bool) -> None:
    pulse = json.dumps(own_identity() | {"stopped": stopped}) + "\n"
    # One that was removed meanwhile is not to come back.
    if run_dir.is_dir():
        with suppress(OSError):
            atomic.write_bytes(run_dir / "heartbeat", pulse.encode(), durable=False)


def _modified(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except OSError:
        return None


def _age_sec(path: Path) -> float:
    return time.time() - (_modified(path) or 0.0)


def _now() -> str:
    return _iso(time.time())


def _iso(timestamp: float) -> str:
    return datetime.fromtimestamp(timestamp, UTC).isoformat(timespec="seconds")
