"""Attempts: the ways to start the stage, and the processes of each that can be killed.

repro    dvc repro                  trains in the workspace
exp      dvc exp run                trains in the workspace, and records an experiment
temp     dvc exp run --temp         trains in a copy, and records an experiment
queue    dvc exp run --queue        a worker in the background trains in a copy
"""

import re
import signal
import subprocess
import sys
from abc import ABC, abstractmethod
from contextlib import suppress
from typing import IO

from commands.prove.clone import LOCK, Clone
from commands.prove.processes import Process, descendants, reap_orphans, wait_for_end, wait_until
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

RWLOCK = ".dvc/tmp/rwlock"
LIMIT_SEC = 600.0  # of what DVC does beside the training, and of an orphan's life


def victims_of(mode: str) -> tuple[str, ...]:
    return (TRAINER, GROUP, DVC) if mode in COMMANDS else (TRAINER, TASK, WORKER)


def start_attempt(clone: Clone, mode: str, number: int) -> "Attempt":
    reap_orphans()
    return Queue(clone, number) if mode == "queue" else Foreground(clone, mode, number)


def start_dvc(clone: Clone, *arguments: str, output: IO[bytes] | int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "dvc", *arguments],
        cwd=clone.root,
        env=clone.environment(),
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


class Attempt(ABC):
    """One start of the stage, until it has ended or been killed."""

    def __init__(self, clone: Clone) -> None:
        self.clone = clone

    @abstractmethod
    def result(self) -> bool | None:
        """Return whether DVC recorded what it made; None while more may come of it."""

    @abstractmethod
    def printed(self) -> str: ...

    @abstractmethod
    def kill_dvc(self, victim: str) -> None:
        """Kill what is another victim than the trainer alone."""

    @abstractmethod
    def settle(self, victim: str) -> None:
        """Wait until all of a killed attempt is over."""

    def kill(self, victim: str, trainer: Process | None) -> float | None:
        """Kill the victim and wait until all of the attempt is over.

        Return how many seconds the trainer lived on, None if it was among the victims. `trainer`
        may be frozen.
        """
        if victim == TRAINER and trainer is not None:
            trainer.send(signal.SIGKILL)
        else:
            self.kill_dvc(victim)
        lived_sec: float | None = 0.0
        if trainer is not None:
            trainer.send(signal.SIGCONT)  # what was sent to it arrives where it stands
            lived_sec = wait_for_end(trainer, LIMIT_SEC)
        if lived_sec is None:
            raise PipelineError(
                f"{self.clone.target.name}: expected the trainer to end after {victim} was killed, "
                f"got one that runs on after {LIMIT_SEC:.0f} s; let the stage end with its parent"
            )
        self.settle(victim)
        return None if trainer is None or victim in (TRAINER, GROUP) else lived_sec

    def trainer(self) -> Process | None:
        """Return the process of the stage's command itself, not of its workers."""
        arguments = self.clone.target.command[1:]  # before them: the same program by another path
        return next((one for one in descendants() if one.command[1:] == arguments), None)

    def is_over(self) -> bool:
        return self.result() is not None

    def wait(self) -> bool:
        """Wait until it is over, and return whether it succeeded."""
        wait_until(self.is_over)
        return bool(self.result())


class Foreground(Attempt):
    """A command of DVC that lasts as long as the training, and has printed to a file."""

    def __init__(self, clone: Clone, mode: str, number: int) -> None:
        super().__init__(clone)
        self._output = clone.root / f".dvc/tmp/attempt-{number}.out"
        with self._output.open("wb") as output:
            self._dvc = start_dvc(clone, *COMMANDS[mode], clone.target.name, output=output)

    def result(self) -> bool | None:
        code = self._dvc.poll()
        return None if code is None else code == 0

    def printed(self) -> str:
        return self._output.read_text(errors="replace")

    def kill_dvc(self, victim: str) -> None:
        family = descendants(self._dvc.pid) if victim == GROUP else []
        self._dvc.kill()
        for process in family:
            process.send(signal.SIGKILL)

    def settle(self, victim: str) -> None:
        wait_until(self.is_over, LIMIT_SEC)


class Queue(Attempt):
    """A task of DVC's queue, and the worker that runs it in the background."""

    def __init__(self, clone: Clone, number: int) -> None:
        super().__init__(clone)
        self._name = f"attempt-{number}"
        self._executor: Process | None = None
        clone.dvc("exp", "run", "--queue", "--single-item", "--name", self._name, clone.target.name)
        # Into no pipe: the worker would inherit it, and reading it would take as long as that runs.
        start_dvc(clone, "queue", "start", output=subprocess.DEVNULL).wait()
        if not wait_until(lambda: bool(_find("exec-run")) or self.is_over(), LIMIT_SEC):
            raise PipelineError(
                f"{self._name}: expected the queue to start it, got none after {LIMIT_SEC:.0f} s; "
                f"look at dvc queue logs in {clone.root}"
            )
        self._executor = _find("exec-run")

    def result(self) -> bool | None:
        # Asking DVC takes a second: only when the process that runs the task has ended.
        if self._executor is not None and self._executor.is_alive():
            return None
        status = self.clone.dvc("queue", "status")
        task = re.search(rf"\s{self._name}\s.*\s(Success|Failed)\s*$", status, re.MULTILINE)
        # A task that has trained is "Failed" until its worker has recorded what it made.
        if task is None or "Worker status: 0 active" not in status:
            return None
        return task[1] == "Success"

    def printed(self) -> str:
        return self.clone.dvc("queue", "logs", self._name)

    def kill_dvc(self, victim: str) -> None:
        if victim == WORKER:
            _end_worker()
        with suppress(PipelineError):  # it may have ended meanwhile
            self.clone.dvc("queue", "kill", self._name)

    def settle(self, victim: str) -> None:
        if victim != WORKER:
            wait_until(self.is_over, LIMIT_SEC)
            return
        if self._executor is not None:
            wait_for_end(self._executor, LIMIT_SEC)
        # The task of a worker that is gone stays "Running".
        with suppress(PipelineError):
            self.clone.dvc("queue", "remove", self._name)


def stop_queue() -> None:
    """End the queue's worker, which otherwise waits a minute for more."""
    _end_worker()
    reap_orphans()


def _end_worker() -> None:
    while (worker := _find("queue-worker")) is not None:
        worker.send(signal.SIGKILL)
        wait_for_end(worker, LIMIT_SEC)


def _find(word: str) -> Process | None:
    return next((process for process in descendants() if word in process.command), None)


def mended_dvc(attempt: Attempt) -> bool:
    """Return whether the attempt ended at a file of DVC's own that a kill had cut off; mend it.

    DVC writes its list of locks and dvc.lock in place. Killed in between, it refuses to start
    until the one is removed or the other put back, which no stage can do for it. If dvc.lock is
    gone altogether, `dvc exp run` removes all outs from the workspace, which are in its cache.
    """
    if attempt.wait():
        return False
    clone, words = attempt.clone, attempt.printed()
    if "RWLock-file" in words:
        (clone.root / RWLOCK).unlink(missing_ok=True)
        done = f"has cut off DVC's own {RWLOCK}, so that DVC did not start; removed it"
    elif re.search(rf"{LOCK}' (validation failed|is invalid)|{LOCK}.*corrupted", words):
        clone.git("checkout", "HEAD", "--", LOCK)
        done = f"has cut off DVC's own {LOCK}, and DVC did not start; put it back"
    elif "No file hash info found" in words:
        clone.git("checkout", "HEAD", "--", LOCK)
        clone.dvc("checkout", "--quiet")
        done = f"has left no {LOCK}, by which DVC knows the outs; put both back"
    else:
        return False
    print(f"prove: a kill {done}")
    return True
