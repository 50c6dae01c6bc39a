"""`dvc repro` as a child of this process: what it prints, which stage takes how long, how it ends.

PipelineError
  StageFailedError    a stage has failed, in its own words
"""

import codecs
import os
import re
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from mlops.errors import PipelineError

# What Jupyter tells its kernels about colours and figures, and DVC about the stage that it runs:
# stages are to find what they find in a terminal.
_OF_THE_KERNEL = (
    "CLICOLOR",
    "CLICOLOR_FORCE",
    "DVC_EXP_NAME",
    "DVC_ROOT",
    "DVC_STAGE",
    "FORCE_COLOR",
    "MPLBACKEND",
)

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
    """What is understood of the lines that DVC and its stages print."""

    took_sec: dict[str, float]
    at_work: str | None = None
    began: float = 0.0
    errors: list[str] = field(default_factory=list)  # lines of stderr since that stage began

    def hear(self, line: str) -> None:
        if not _DONE.match(line):
            return
        self.close()
        if start := _STARTS.fullmatch(line):
            self.at_work, self.began = start[1], time.monotonic()
            self.errors.clear()

    def close(self) -> None:
        if self.at_work is not None:
            self.took_sec[self.at_work] = round(time.monotonic() - self.began, 3)
        self.at_work = None


def reproduce(root: Path, stages: Sequence[str], *, log: Write, took_sec: dict[str, float]) -> None:
    """Bring the stages and all that they need up to date.

    What DVC and the stages print appears at once on this process's stdout and stderr, and goes to
    `log` as well; `took_sec` is given the seconds of each stage that has run, by its name. An
    interrupt is passed on to DVC and its stages, waits for their end and is raised then. A
    `StageFailedError` tells of a stage that failed, a `PipelineError` what else keeps DVC from its
    work.
    """
    account = _Account(took_sec)
    with _start(root, stages) as process:
        try:
            interrupts = _follow(process, account, log)
        finally:
            # An error of this process's own, as of a stdout that has been closed.
            if process.poll() is None:
                _signal(process, signal.SIGINT)
    if interrupts:
        raise KeyboardInterrupt
    if process.returncode:
        raise _failure(account, process.returncode)
    account.close()


def _start(root: Path, stages: Sequence[str]) -> subprocess.Popen[bytes]:
    # Unbuffered, or DVC's lines come after those of the stages that they announce.
    dvc = [sys.executable, "-u", "-m", "dvc", "repro", *stages]
    environment = {name: value for name, value in os.environ.items() if name not in _OF_THE_KERNEL}
    # The `python` of dvc.yaml is the kernel's, even if no environment is activated.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    return subprocess.Popen(
        [sys.executable, "-m", "mlops.processes.with_parent", str(os.getpid()), *dvc],
        cwd=root,
        env=environment | {"PATH": path},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # A group of its own: Ctrl-C, and Jupyter, interrupt a whole group, and a stage is to be
        # told once.
        process_group=0,
    )


def _follow(process: subprocess.Popen[bytes], account: _Account, log: Write) -> int:
    """Pass on and understand what is printed until nobody can print more; the interrupts."""
    with selectors.DefaultSelector() as selector:
        for pipe, stream in ((process.stdout, sys.stdout), (process.stderr, sys.stderr)):
            assert pipe is not None  # as asked for above
            selector.register(pipe, selectors.EVENT_READ, _Lines(pipe, stream))
        interrupts = 0
        while selector.get_map():
            try:
                # In the order of the file descriptors: of lines that wait, stdout comes first.
                for key, _ in sorted(selector.select(), key=lambda event: event[0].fd):
                    _pass_on(key.data, account, log)
                    if key.data.at_end:
                        selector.unregister(key.fileobj)
            except KeyboardInterrupt:
                number = _SIGNALS[min(interrupts, len(_SIGNALS) - 1)]
                print(f"pipeline: {number.name} goes to the stage, whose end is waited for")
                _signal(process, number)
                interrupts += 1
        return interrupts


class _Lines:
    """The whole lines that come through a pipe."""

    def __init__(self, pipe: IO[bytes], stream: IO[str]) -> None:
        self.stream = stream
        self.at_end = False
        self.is_stderr = stream is sys.stderr
        self._descriptor = pipe.fileno()
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._rest = ""

    def read(self) -> list[str]:
        content = os.read(self._descriptor, 1 << 16)
        self.at_end = not content
        text = self._rest + self._decoder.decode(content, final=self.at_end)
        *lines, self._rest = text.split("\n")
        return [*lines, self._rest] if self.at_end and self._rest else lines


def _pass_on(source: _Lines, account: _Account, log: Write) -> None:
    lines = source.read()
    for line in lines:
        if source.is_stderr:
            account.errors.append(line)
        else:
            account.hear(line)
    text = "".join(f"{line}\n" for line in lines)
    log(text)
    print(text, end="", file=source.stream, flush=True)


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with suppress(ProcessLookupError):  # all of them have ended
        os.killpg(process.pid, number)


def _failure(account: _Account, exit_code: int) -> PipelineError:
    said_by_dvc = [found[1] for line in account.errors if (found := _FAULT.match(line))]
    last = said_by_dvc[-1] if said_by_dvc else f"exit code {exit_code}"
    if account.at_work is None:
        return PipelineError(f"dvc repro: expected it to end without a fault, got: {last}")
    stage = account.at_work
    prefix = f"{stage.partition('@')[0]}: "
    if faults := [line for line in account.errors if line.startswith(prefix)]:
        return StageFailedError(stage, *faults)
    # A fault of the program, whose traceback stands above, or a kill.
    others = [line for line in account.errors if line.strip() and not _FAULT.match(line)]
    said = f"'{others[-1]}'" if others else "no word of its own"
    return StageFailedError(
        stage, f"{stage}: expected it to end without a fault, got {said}; {last}"
    )
