"""What a Dask worker does with tasks: it hands each to a process of its own and waits.

This module travels to the workers as it is here. It imports nothing of the repository, so that
they need not have it on their path, nor have an old version of it in memory.
"""

import multiprocessing
import os
import platform
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from typing import Any, Literal

from distributed import Worker, get_worker
from distributed.diagnostics.plugin import WorkerPlugin

# How long a process goes on with a task that nobody waits for.
LOOK_EVERY_SEC = 0.05

# An answer's bytes, why no work can be done here, or how the process ended.
Outcome = (
    tuple[Literal["answer"], bytes]
    | tuple[Literal["unfit"], list[str]]
    | tuple[Literal["lost"], str]
)


class WorkerPool(WorkerPlugin):  # type: ignore[misc]
    """The processes of one stage on one Dask worker, as many as it has threads at work.

    `command` is run by the worker's interpreter in `directory`, with `environment` over the
    worker's own; None removes a variable. `demands` is the first that each process is told.
    """

    def __init__(
        self,
        *,
        name: str,
        command: str,
        directory: str,
        environment: Mapping[str, str | None],
        demands: bytes,
    ) -> None:
        self.name = name
        self._command = command
        self._directory = directory
        self._environment = environment
        self._demands = demands

    def setup(self, worker: Worker) -> None:
        self._worker = worker
        self._lock = threading.Lock()
        self._members: set[_WorkerProcess] = set()
        self._idle: list[_WorkerProcess] = []
        self._closed = False

    def teardown(self, worker: Worker) -> None:
        with self._lock:
            self._closed = True
            for member in self._members:
                member.kill()

    def work(self, task: bytes) -> Outcome:
        """Have a process do the task; in a thread of the worker."""
        key = self._worker.get_current_task()
        try:
            member = self._idle_member() or self._new_member()
        except (FileNotFoundError, NotADirectoryError):
            reason = (
                f"{platform.node()}: expected the clone at {self._directory}, found no such "
                "directory; put it on a file system that all machines share, at one path"
            )
            return "unfit", [reason]
        try:
            if member.unfit is None:
                member.pipe.send_bytes(self._demands)
                member.unfit = self._receive(member, key, Connection.recv)
            if not member.unfit:
                member.pipe.send_bytes(task)
                answer = self._receive(member, key, Connection.recv_bytes)
                self._idle.append(member)
                return "answer", answer
        except (EOFError, OSError):
            self._dismiss(member)
            return "lost", f"{platform.node()}: {member.end}"
        self._dismiss(member)
        return "unfit", member.unfit

    def _receive(
        self, member: "_WorkerProcess", key: Any, receive: Callable[[Connection], Any]
    ) -> Any:
        while not member.pipe.poll(LOOK_EVERY_SEC):
            state = self._worker.state.tasks.get(key)
            if state is None or state.state == "cancelled":
                # The stage has ended: what runs on would write into the outs of the next.
                member.kill()
        return receive(member.pipe)

    def _idle_member(self) -> "_WorkerProcess | None":
        while self._idle:
            member = self._idle.pop()
            if member.is_alive():
                return member
            self._dismiss(member)
        return None

    def _new_member(self) -> "_WorkerProcess":
        environment = {**os.environ, **self._environment}
        member = _WorkerProcess(
            self._command,
            self._directory,
            {name: value for name, value in environment.items() if value is not None},
        )
        with self._lock:
            self._members.add(member)
            if self._closed:
                member.kill()
        return member

    def _dismiss(self, member: "_WorkerProcess") -> None:
        member.close()
        with self._lock:
            self._members.discard(member)


class _WorkerProcess:
    """A process and the pipe to it; `unfit` is None until it has said what it misses."""

    def __init__(self, command: str, directory: str, environment: Mapping[str, str]) -> None:
        self.unfit: list[str] | None = None
        self.pipe, theirs = multiprocessing.Pipe()
        with theirs:
            # No `multiprocessing.Process`: a Dask worker is a daemon and may have no children.
            self._process = subprocess.Popen(
                [sys.executable, "-c", command, str(theirs.fileno())],
                cwd=directory,
                env=environment,
                stdin=subprocess.PIPE,  # closed by the end of this process, however it ends
                pass_fds=[theirs.fileno()],
            )

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def kill(self) -> None:
        self._process.kill()

    def close(self) -> None:
        self.kill()
        code = self._process.wait()
        self.end = f"its process ended ({f'signal {-code}' if code < 0 else f'exit code {code}'})"
        self.pipe.close()
        self._process.stdin.close()  # type: ignore[union-attr]


def work_of(name: str) -> Callable[[bytes], Outcome]:
    """The function to submit: that of the crew called `name` on the worker that runs it."""

    # A function inside another is sent by its code, not by its name.
    def work(task: bytes) -> Outcome:
        outcome: Outcome = get_worker().plugins[name].work(task)
        return outcome

    return work
