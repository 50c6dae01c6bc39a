"""A child process that runs `dvc repro`: its output, the stages and their times, its end.

    python -m mlops.notebook.reproduce PID STAGE …   the child, which PID has started

PipelineError
  StageFailedError    a stage has failed, in its own words
"""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from mlops.errors import PipelineError
from mlops.processes.parent import signal_with_parent

# What Jupyter tells its kernels about colors and figures, and DVC about the stage that it runs:
# stages are to find what they find in a terminal.
_OF_THE_KERNEL = ["CLICOLOR", "CLICOLOR_FORCE", "FORCE_COLOR", "MPLBACKEND"]
_OF_THE_KERNEL += ["DVC_EXP_NAME", "DVC_ROOT", "DVC_STAGE"]

# Each further interrupt is sent as the next one. The first has training save the state of the
# very step, the last costs what came after the newest checkpoint.
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)

_STARTS = re.compile(r"Running stage '(.+)':")
# DVC has done with the stage before, outs and all.
_DONE = re.compile(r"(?:Running stage|Stage) '|(?:Updating|Generating) lock file ")
_FAULT = re.compile(r"ERROR: (.*)")

Write = Callable[[str], object]


class StageFailedError(PipelineError):
    """A stage ended with an error; `faults` are the lines that it said itself.

    `stage` is its name in DVC, such as "load_data" or, of a cell, "train@small3d-0-0".
    """

    def __init__(self, stage: str, *faults: str) -> None:
        super().__init__(*faults)
        self.stage = stage


@dataclass
class _Account:
    """A record of what the lines of DVC and its stages say."""

    took_sec: dict[str, float]
    running: str | None = None
    began: float = 0.0
    errors: list[str] = field(default_factory=list)  # lines of stderr since that stage began

    def hear(self, line: str) -> None:
        if not _DONE.match(line):
            return
        self.close()
        if start := _STARTS.fullmatch(line):
            self.running, self.began = start[1], time.monotonic()
            self.errors.clear()

    def close(self) -> None:
        if self.running is not None:
            self.took_sec[self.running] = round(time.monotonic() - self.began, 3)
        self.running = None


def reproduce(root: Path, stages: Sequence[str], *, log: Write, took_sec: dict[str, float]) -> None:
    """Bring the stages and all that they need up to date; without any, all of them.

    What DVC and the stages print appears at once on this process's stdout and stderr, and goes to
    `log` as well; `took_sec` is given the seconds of each stage that has run, by its name. An
    interrupt is passed on to DVC and its stages, waits for their end and is raised then. A
    `StageFailedError` tells of a stage that failed, a `PipelineError` what else keeps DVC from its
    work.
    """
    account = _Account(took_sec)
    with _start(root, stages) as process, ThreadPoolExecutor() as pool:
        try:
            readers = [
                pool.submit(_pass_on, process.stdout or (), sys.stdout, log, account.hear),
                pool.submit(_pass_on, process.stderr or (), sys.stderr, log, account.errors.append),
            ]
            interrupts = _wait(process, readers)
        except BaseException:  # of this process itself, as of a stdout that has been closed
            _signal(process, signal.SIGINT)
            raise
    if interrupts:
        raise KeyboardInterrupt
    if process.returncode:
        raise _failure(account, process.returncode)
    account.close()


def _start(root: Path, stages: Sequence[str]) -> subprocess.Popen[str]:
    environment = {name: value for name, value in os.environ.items() if name not in _OF_THE_KERNEL}
    # The `python` of dvc.yaml is the kernel's, even if no environment is activated.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    return subprocess.Popen(
        [sys.executable, "-m", __name__, str(os.getpid()), *stages],
        cwd=root,
        env=environment | {"PATH": path},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
        # A group of its own: Ctrl-C, and Jupyter, interrupt a whole group, and a stage is to be
        # told once.
        process_group=0,
    )


def _become_dvc(parent: int, stages: Sequence[str]) -> None:
    """Replace this process by `dvc repro`, which ends when the process `parent` has ended.

    A kernel that is killed, as one that is restarted may be, would else leave DVC and its training
    at work where nobody sees them.
    """
    signal_with_parent(signal.SIGTERM)
    # It may have ended before it was watched.
    if os.getppid() != parent:
        sys.exit(f"dvc repro: the process {parent} that asked for it has ended")
    # Unbuffered, or DVC's lines come after those of the stages that they announce.
    os.execv(sys.executable, [sys.executable, "-u", "-m", "dvc", "repro", *stages])


def _pass_on(lines: Iterable[str], stream: IO[str], log: Write, hear: Write) -> None:
    """Print and log the lines of a pipe until nobody can write more."""
    try:
        for line in lines:
            hear(line.removesuffix("\n"))
            log(line)
            print(line, end="", file=stream, flush=True)
    finally:
        for _ in lines:  # at an error, so that DVC does not wait for a reader
            pass


def _wait(process: subprocess.Popen[str], readers: Sequence[Future[None]]) -> int:
    """Wait for the readers, raise the error of one that fails, and return the interrupts."""
    interrupts = 0
    while True:
        try:
            # A kernel's interrupt may reach another thread: this one must wake up to raise it.
            done, running = wait(readers, timeout=0.1, return_when=FIRST_EXCEPTION)
            for reader in done:
                reader.result()
            if not running:
                return interrupts
        except KeyboardInterrupt:
            number = _SIGNALS[min(interrupts, len(_SIGNALS) - 1)]
            print(f"pipeline: {number.name} goes to the stage, whose end is waited for")
            _signal(process, number)
            interrupts += 1


def _signal(process: subprocess.Popen[str], number: signal.Signals) -> None:
    with suppress(ProcessLookupError):  # all of them have ended
        os.killpg(process.pid, number)


def _failure(account: _Account, exit_code: int) -> PipelineError:
    said_by_dvc = [found[1] for line in account.errors if (found := _FAULT.match(line))]
    last = said_by_dvc[-1] if said_by_dvc else f"exit code {exit_code}"
    if account.running is None:
        return PipelineError(f"dvc repro: expected it to end without a fault, got: {last}")
    stage = account.running
    prefix = f"{stage.partition('@')[0]}: "
    if faults := [line for line in account.errors if line.startswith(prefix)]:
        return StageFailedError(stage, *faults)
    # A fault of the program, whose traceback stands above, or a kill.
    others = [line for line in account.errors if line.strip() and not _FAULT.match(line)]
    said = f"'{others[-1]}'" if others else "no word of its own"
    return StageFailedError(
        stage, f"{stage}: expected it to end without a fault, got {said}; {last}"
    )


if __name__ == "__main__":
    _become_dvc(int(sys.argv[1]), sys.argv[2:])
