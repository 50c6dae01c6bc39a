"""How a user starts the stage, and which of its processes can be killed.

repro    dvc repro                  trains in the workspace
exp      dvc exp run                trains in the workspace, and records an experiment
temp     dvc exp run --temp         trains in a copy, and records an experiment
queue    dvc exp run --queue        a worker in the background trains in a copy
"""

import re
import signal
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from contextlib import suppress
from pathlib import Path

from commands.prove.clone import Clone
from commands.prove.processes import POLL_SEC, Process, descendants, reap_orphans, wait_for_end
from mlops.errors import PipelineError

# Who can be killed. "group" is dvc and all that it started, as a terminal's or a scheduler's kill
# hits them; "task" is what `dvc queue kill` hits.
TRAINER, GROUP, DVC, TASK, WORKER = "the trainer", "the group", "dvc", "the task", "the worker"

COMMANDS = {
    "repro": ("repro", "--single-item"),
    "exp": ("exp", "run", "--single-item"),
    "temp": ("exp", "run", "--temp", "--single-item"),
}
MODES = (*COMMANDS, "queue")

LIMIT_SEC = 600.0  # of what DVC does beside the training, and of an orphan's life


def victims_of(mode: str) -> tuple[str, ...]:
    return (TRAINER, GROUP, DVC) if mode in COMMANDS else (TRAINER, TASK, WORKER)


class Attempt(ABC):
    """One start of the stage, until it has ended or been killed."""

    def __init__(self, clone: Clone) -> None:
        self.clone = clone

    @abstractmethod
    def start(self) -> None: ...

    @abstractmethod
    def is_over(self) -> bool:
        """True when nothing more comes of it, neither training nor recording."""

    @abstractmethod
    def succeeded(self) -> bool:
        """Of an attempt that is over, whether DVC recorded what it made."""

    @abstractmethod
    def printed(self) -> str: ...

    @abstractmethod
    def kill(self, victim: str, trainer: Process | None) -> float | None:
        """Kill the victim and wait until all of the attempt is over.

        The seconds that the trainer lived on if it was not the victim itself, None if it was.
        `trainer` may stand still; it goes on if it is not the victim.
        """

    def trainer(self) -> Process | None:
        """The process of the stage's command itself, not of its workers."""
        arguments = self.clone.target.command[1:]  # before them: the same program by another path
        for process in descendants():
            if process.command[1:] == arguments:
                return process
        return None


class Foreground(Attempt):
    def __init__(self, clone: Clone, mode: str, output: Path) -> None:
        super().__init__(clone)
        self._arguments = (*COMMANDS[mode], clone.target.name)
        self._output = output
        self._command: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        reap_orphans()
        with self._output.open("wb") as output:
            self._command = subprocess.Popen(
                [sys.executable, "-m", "dvc", *self._arguments],
                cwd=self.clone.root,
                env=self.clone.environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def _dvc(self) -> subprocess.Popen[bytes]:
        assert self._command is not None  # started
        return self._command

    def is_over(self) -> bool:
        return self._dvc.poll() is not None

    def succeeded(self) -> bool:
        return self._dvc.wait() == 0

    def printed(self) -> str:
        return self._output.read_text(errors="replace")

    def kill(self, victim: str, trainer: Process | None) -> float | None:
        if victim == GROUP:
            family = [process for process in descendants(self._dvc.pid) if process.is_alive()]
            self._dvc.kill()
            for process in family:
                process.send(signal.SIGKILL)
        elif victim == DVC:
            self._dvc.kill()
        elif trainer is not None:
            trainer.send(signal.SIGKILL)
        if trainer is not None and victim == DVC:
            trainer.send(signal.SIGCONT)
        lived_sec = None if trainer is None else wait_for_end(trainer, LIMIT_SEC)
        if trainer is not None and lived_sec is None:
            raise PipelineError(
                f"{self.clone.target.name}: expected the trainer to end after {victim} was killed, "
                f"got one that runs on after {LIMIT_SEC:.0f} s; let the stage end with its parent"
            )
        with suppress(subprocess.TimeoutExpired):
            self._dvc.wait(LIMIT_SEC)
        return lived_sec if victim == DVC else None


class Queue(Attempt):
    def __init__(self, clone: Clone, name: str) -> None:
        super().__init__(clone)
        self._name = name
        self._executor: Process | None = None
        self._status = ""

    def start(self) -> None:
        reap_orphans()
        target = self.clone.target.name
        self.clone.dvc("exp", "run", "--queue", "--single-item", "--name", self._name, target)
        self._start_worker()
        start = time.monotonic()
        while self._find("exec-run") is None and not self._has_ended():
            if time.monotonic() - start > LIMIT_SEC:
                raise PipelineError(
                    f"{self._name}: expected the queue to start it, got none after "
                    f"{LIMIT_SEC:.0f} s; look at dvc queue logs in {self.clone.root}"
                )
            time.sleep(POLL_SEC)
        self._executor = self._find("exec-run")

    def is_over(self) -> bool:
        # Asking DVC takes a second: only when the process that runs the task has ended.
        if self._executor is not None and self._executor.is_alive():
            return False
        return self._has_ended()

    def succeeded(self) -> bool:
        return self._status == "Success"

    def printed(self) -> str:
        return self.clone.dvc("queue", "logs", self._name)

    def kill(self, victim: str, trainer: Process | None) -> float | None:
        if victim == TRAINER and trainer is not None:
            trainer.send(signal.SIGKILL)
            self._wait()
            return None
        if victim == WORKER:
            worker = self._find("queue-worker")
            if worker is not None:
                worker.send(signal.SIGKILL)
                wait_for_end(worker, LIMIT_SEC)
        with suppress(PipelineError):  # it may have ended meanwhile
            self.clone.dvc("queue", "kill", self._name)
        if trainer is not None:
            trainer.send(signal.SIGCONT)  # what was sent to it arrives where it stands
        lived_sec = None
        for process in (trainer, self._executor):
            if process is not None:
                ended_sec = wait_for_end(process, LIMIT_SEC)
                lived_sec = ended_sec if process is trainer else lived_sec
        if victim == WORKER:
            # The task of a worker that is gone stays "Running".
            with suppress(PipelineError):
                self.clone.dvc("queue", "remove", self._name)
            reap_orphans()
        else:
            self._wait()
        return lived_sec

    def stop(self) -> None:
        """End the worker, which otherwise waits a minute for more."""
        for process in descendants():
            if "queue-worker" in process.command:
                process.send(signal.SIGKILL)
                wait_for_end(process, LIMIT_SEC)
        reap_orphans()

    def _start_worker(self) -> None:
        # Into no pipe: the worker would inherit it, and reading it would take as long as that runs.
        subprocess.run(
            [sys.executable, "-m", "dvc", "queue", "start"],
            cwd=self.clone.root,
            env=self.clone.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,  # a task that is not started is told by who waits for it
        )

    def _wait(self) -> None:
        start = time.monotonic()
        while not self.is_over() and time.monotonic() - start < LIMIT_SEC:
            time.sleep(POLL_SEC)

    def _has_ended(self) -> bool:
        status = self.clone.dvc("queue", "status")
        task = re.search(rf"\s{self._name}\s.*\s(Success|Failed)\s*$", status, re.MULTILINE)
        # A task that has trained is "Failed" until its worker has recorded what it made.
        if task is None or "Worker status: 0 active" not in status:
            return False
        self._status = task[1]
        return True

    def _find(self, word: str) -> Process | None:
        return next((process for process in descendants() if word in process.command), None)


def new_attempt(clone: Clone, mode: str, number: int) -> Attempt:
    if mode == "queue":
        return Queue(clone, f"attempt-{number}")
    return Foreground(clone, mode, clone.root / f".dvc/tmp/attempt-{number}.out")
