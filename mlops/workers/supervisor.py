"""Supervision of worker processes: start them, give each one task at a time, hold it to its limits.

This module also travels to Dask workers as it is here. It imports nothing of the repository, so
that they need not have it on their path, nor have an old version of it in memory.
"""

import math
import multiprocessing
import os
import platform
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import psutil

# Python code; its argument is the descriptor of the pipe.
_COMMAND = "import sys; from mlops.workers.worker import serve; serve(int(sys.argv[1]))"

# How long memory can grow unseen; a process fills about 50 MB of new memory in that time.
_LOOK_EVERY_SEC = 0.02
# From the end of its pipe to its own.
_EXIT_SEC = 5.0
# The second process is new, so that nothing an earlier task left behind is held against a task.
_MAX_TRIES = 2

# "answer" or "raised", with what a task returned or raised, pickled; "timeout" or "out_of_memory";
# or "crashed" or "not_started", with how the process ended and on which machine. A plain tuple,
# because a class of this module would be another one where it arrives.
Outcome = tuple[str, Any]


@dataclass(frozen=True, kw_only=True)
class ProcessOptions:
    """Options of a worker process, and the limits of each of its tasks."""

    code: str  # the directory of the repository's code
    setup: bytes  # the first message to the process
    time_sec: float
    memory_bytes: float  # beyond what the process held before the task


class WorkerProcesses:
    """One worker process for each thread that calls `run`.

    A process ends with its thread, so the threads must live as long as the processes are needed.
    """

    def __init__(self, options: ProcessOptions) -> None:
        self._options = options
        self._processes: dict[int, _WorkerProcess] = {}  # by the threads' identifiers
        self._closed = False

    def run(self, task: bytes, is_wanted: Callable[[], bool]) -> Outcome:
        """Return the outcome of a task; kill its process when it is not wanted any more."""

        def goes_on() -> bool:
            return not self._closed and is_wanted()

        for _ in range(_MAX_TRIES):
            process = self._process_of_this_thread()
            outcome = process.run(task, goes_on)
            if outcome[0] not in ("answer", "raised"):
                process.kill()
            if outcome[0] not in ("crashed", "not_started") or not goes_on():
                break
        return outcome

    def close(self) -> None:
        """Kill all processes; what is still at work has no answer."""
        self._closed = True
        for process in list(self._processes.values()):
            process.kill()

    def _process_of_this_thread(self) -> "_WorkerProcess":
        process = self._processes.get(threading.get_ident())
        if process is None or not process.is_alive():
            process = _WorkerProcess(self._options)
            self._processes[threading.get_ident()] = process
        return process


class _WorkerProcess:
    """A process and the pipe to it; no other process shares the pipe, so a kill locks nobody."""

    def __init__(self, options: ProcessOptions) -> None:
        self._options = options
        self._pipe, theirs = multiprocessing.Pipe()
        with theirs:
            # No `multiprocessing.Process`: a Dask worker is a daemon and may have no children.
            self._process = subprocess.Popen(
                [sys.executable, "-c", _COMMAND, str(theirs.fileno())],
                cwd=options.code,
                env=os.environ | {"PYTHONPATH": options.code},
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )
        with suppress(BrokenPipeError):  # its end is told by `run`
            self._pipe.send_bytes(options.setup)

    def run(self, task: bytes, is_wanted: Callable[[], bool]) -> Outcome:
        """Return the answer of the process, or the limit that it passed, or how it ended.

        When the task begins, the process says how much memory it holds; then the limits apply.
        """
        failure = "not_started"
        try:
            self._pipe.send_bytes(task)
            message = self._receive(is_wanted, math.inf, math.inf)
            if isinstance(message, int):
                failure = "crashed"
                deadline_sec = time.monotonic() + self._options.time_sec
                max_bytes = message + self._options.memory_bytes
                message = self._receive(is_wanted, deadline_sec, max_bytes)
        except (EOFError, OSError):
            message = failure, (self._ending(), platform.node())
        outcome: Outcome = message
        return outcome

    def _receive(self, is_wanted: Callable[[], bool], deadline_sec: float, max_bytes: float) -> Any:
        # A result that is there counts, however late this process looks.
        while not self._pipe.poll(_LOOK_EVERY_SEC):
            if not is_wanted():
                self.kill()
            elif time.monotonic() > deadline_sec:
                return "timeout", None
            elif self._resident_bytes() > max_bytes:
                return "out_of_memory", None
        return self._pipe.recv()

    def _resident_bytes(self) -> int:
        """Return the resident memory of the process; 0 once it has ended."""
        try:
            return int(psutil.Process(self._process.pid).memory_info().rss)
        except psutil.NoSuchProcess:
            return 0

    def _ending(self) -> str:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_EXIT_SEC)
        self.kill()
        code = self._process.returncode
        return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
