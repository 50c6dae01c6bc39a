"""The train stage in processes of its own, started from one that has imported torch already.

Importing torch takes seconds, and these tests start dozens of trainers. A fork of a process that
has only imported is a process like any other: it is killed by real signals and shares nothing.

The whole training takes half a second, less than a busy machine may keep the test from looking.
So a trainer that is to be stopped somewhere is told before where to hold: there it stops itself
as a debugger would, by SIGSTOP, with all its threads wherever they are.
"""

import json
import multiprocessing
import os
import runpy
import signal
import sys
import time
import warnings
from io import TextIOWrapper
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import polars as pl

from mlops.checkpoint import CheckpointManager
from mlops.files.atomic import content_hash
from mlops.metrics.ledger import Ledger, read_ledger
from mlops.metrics.log import read_metrics
from tests.support.clone import CELL, environment, options

MODEL, HISTORY = CELL.best_model, CELL.history

TRAINED = "trained"

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["stages.train", "torch._dynamo", "torch.optim"])


class Trainer:
    """One process that trains CELL in the clone `root`.

    `hold` is where it stops itself: after the step of this number, after a line with these words,
    or at TRAINED, once the last state is on the disk. `held` waits until it does.
    """

    def __init__(self, root: Path, hold: int | str | None = None, **env: str) -> None:
        self.root = root
        self._output = root.parent / f"{root.name}.trainer.log"
        self._output.unlink(missing_ok=True)
        arguments = (str(root), str(self._output), environment() | env, hold)
        self.process: ForkServerProcess = _context.Process(target=_train, args=arguments)
        self.process.start()

    @property
    def output(self) -> str:
        return self._output.read_text() if self._output.exists() else ""

    def wait_for(self, *words: str) -> None:
        """Wait until all the words have been printed."""
        deadline = time.monotonic() + 60
        while not all(word in self.output for word in words):
            assert self.process.is_alive(), self.output
            assert time.monotonic() < deadline, self.output
            time.sleep(0.001)

    def held(self) -> "Trainer":
        """Return itself, once it holds where it was told to."""
        deadline = time.monotonic() + 60
        while _state_of(self.pid) != "T":
            assert self.process.is_alive(), self.output
            assert time.monotonic() < deadline, self.output
            time.sleep(0.001)
        return self

    def wait_for_step(self, step: int) -> None:
        """Wait until the ledger of the newest run has this many lines."""
        deadline = time.monotonic() + 60
        while lines(newest_run(self.root), "ledger.jsonl") < step:
            assert self.process.is_alive(), self.output
            assert time.monotonic() < deadline, self.output
            time.sleep(0.001)

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    def signal(self, number: signal.Signals) -> int:
        """Send a signal; the exit code, negative if it was the signal that ended the process."""
        os.kill(self.pid, number)
        os.kill(self.pid, signal.SIGCONT)  # one that holds would not hear of it
        return self.end()

    def end(self) -> int:
        self.process.join(60)
        code = self.process.exitcode
        if code is None:
            self.process.kill()
        assert code is not None, f"still running: {self.output}"
        return code


def train(root: Path, **env: str) -> str:
    """Run a training that must succeed; return its output."""
    trainer = Trainer(root, **env)
    assert trainer.end() == 0, trainer.output
    return trainer.output


def newest_run(root: Path) -> Path | None:
    return max(root.glob("runs/*/run_*"), key=lambda path: path.name, default=None)


def the_run(root: Path) -> Path:
    """Return the newest run, which must exist."""
    run_dir = newest_run(root)
    assert run_dir is not None
    return run_dir


def stopped_run(root: Path, step: int, number: signal.Signals) -> Path:
    """Train until a step, stop by a signal; return the run."""
    Trainer(root, hold=step).held().signal(number)
    return the_run(root)


def lines(run_dir: Path | None, name: str) -> int:
    path = None if run_dir is None else run_dir / name
    return path.read_bytes().count(b"\n") if path is not None and path.exists() else 0


def metadata(run_dir: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((run_dir / "metadata.json").read_text())
    return document


def results(root: Path) -> dict[str, Any]:
    """Return all that no kill may change: bytes of the outs, rows, and samples."""
    run_dir = newest_run(root)
    assert run_dir is not None
    return {
        "model": content_hash(root / MODEL),
        "history": content_hash(root / HISTORY),
        "rows": read_metrics(run_dir / "metrics.jsonl").drop("time").rows(),
        "samples": read_ledger(run_dir / "ledger.jsonl").rows(),
    }


def seen_once(root: Path, num_epochs: int) -> bool:
    """Return whether every epoch saw each sample of the first one, once."""
    run_dir = the_run(root)
    ledger = read_ledger(run_dir / "ledger.jsonl")
    epochs = [
        sorted(ledger.filter(pl.col("epoch") == epoch)["samples"].explode().to_list())
        for epoch in range(num_epochs)
    ]
    return all(epoch == list(range(len(epochs[0]))) for epoch in epochs)


def _state_of(pid: int) -> str:
    """Return the state of a process, one letter as `ps` prints it; X if it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return "X"


def _train(root: str, output: str, env: dict[str, str], hold: int | str | None) -> None:
    os.chdir(root)
    os.environ.clear()
    os.environ.update(env)
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.stdout, sys.stderr = open(1, "w", buffering=1), open(2, "w", buffering=1)  # noqa: SIM115
    train_and_hold([hold] if hold is not None else [])


def train_and_hold(places: list[int | str]) -> None:
    """Run the train stage in this process; hold after each of these steps and lines."""
    _hold_after_steps([place for place in places if isinstance(place, int)])
    _hold_after_lines([place for place in places if isinstance(place, str) and place != TRAINED])
    if TRAINED in places:
        _hold_after_training()
    sys.argv = ["train", *options(CELL)]
    warnings.simplefilter("ignore", RuntimeWarning)  # the module is known already: as intended
    runpy.run_module("stages.train", run_name="__main__", alter_sys=True)


def _hold_after_steps(steps: list[int]) -> None:
    record = Ledger.record

    def record_and_hold(self: Ledger, **row: Any) -> None:
        record(self, **row)
        if row["step"] in steps:
            os.kill(os.getpid(), signal.SIGSTOP)

    Ledger.record = record_and_hold  # type: ignore[method-assign, assignment]


def _hold_after_training() -> None:
    finish = CheckpointManager.finish

    def finish_and_hold(self: CheckpointManager) -> None:
        finish(self)
        os.kill(os.getpid(), signal.SIGSTOP)

    CheckpointManager.finish = finish_and_hold  # type: ignore[method-assign]


def _hold_after_lines(words: list[str]) -> None:
    class Holding(TextIOWrapper):
        line = ""

        def write(self, text: str) -> int:
            num_written = super().write(text)
            self.line += text
            if self.line.endswith("\n"):
                line, self.line = self.line, ""
                if any(word in line for word in words):
                    os.kill(os.getpid(), signal.SIGSTOP)
            return num_written

    sys.stdout = Holding(sys.stdout.detach(), line_buffering=True)  # type: ignore[union-attr]


if __name__ == "__main__":
    train_and_hold([int(place) for place in sys.argv[1:]])
