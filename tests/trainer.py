"""The train stage in processes of its own, started from one that has imported torch already.

Importing torch takes seconds, and these tests start dozens of trainers. A fork of a process that
has only imported is a process like any other: it is killed by real signals and shares nothing.
"""

import json
import multiprocessing
import os
import runpy
import signal
import sys
import time
import warnings
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import polars as pl

from mlops.files import content_hash
from mlops.ledger import read_ledger
from mlops.metrics_log import read_metrics
from tests.clone import CELL, environment, options

MODEL, HISTORY = CELL.best_model, CELL.history

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["stages.train", "torch._dynamo", "torch.optim"])


class Trainer:
    """One process that trains CELL in the clone `root`."""

    def __init__(self, root: Path, **env: str) -> None:
        self.root = root
        self._output = root.parent / f"{root.name}.trainer.log"
        self._output.unlink(missing_ok=True)
        arguments = (str(root), str(self._output), environment() | env)
        self.process: ForkServerProcess = _context.Process(target=_train, args=arguments)
        self.process.start()

    @property
    def output(self) -> str:
        return self._output.read_text() if self._output.exists() else ""

    def wait_for(self, *words: str) -> None:
        """Until all the words have been printed."""
        deadline = time.monotonic() + 60
        while not all(word in self.output for word in words):
            assert self.process.is_alive(), self.output
            assert time.monotonic() < deadline, self.output
            time.sleep(0.001)

    def wait_for_step(self, step: int) -> None:
        """Until the ledger of the newest run has this many lines."""
        deadline = time.monotonic() + 60
        while lines(newest_run(self.root), "ledger.jsonl") < step:
            assert self.process.is_alive(), self.output
            assert time.monotonic() < deadline, self.output
            time.sleep(0.001)

    def signal(self, number: signal.Signals) -> int:
        """Send a signal; the exit code, negative if it was the signal that ended the process."""
        assert self.process.pid is not None
        os.kill(self.process.pid, number)
        return self.end()

    def end(self) -> int:
        self.process.join(60)
        code = self.process.exitcode
        if code is None:
            self.process.kill()
        assert code is not None, f"still running: {self.output}"
        return code


def train(root: Path, **env: str) -> str:
    """The output of a training that ends well."""
    trainer = Trainer(root, **env)
    assert trainer.end() == 0, trainer.output
    return trainer.output


def newest_run(root: Path) -> Path | None:
    return max(root.glob("runs/*/run_*"), key=lambda path: path.name, default=None)


def the_run(root: Path) -> Path:
    """The newest run, which is there."""
    run_dir = newest_run(root)
    assert run_dir is not None
    return run_dir


def stopped_run(root: Path, step: int, number: signal.Signals) -> Path:
    """The run of a training that a signal ends once it has made so many steps."""
    trainer = Trainer(root)
    trainer.wait_for_step(step)
    trainer.signal(number)
    return the_run(root)


def lines(run_dir: Path | None, name: str) -> int:
    path = None if run_dir is None else run_dir / name
    return path.read_bytes().count(b"\n") if path is not None and path.exists() else 0


def metadata(run_dir: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((run_dir / "metadata.json").read_text())
    return document


def results(root: Path) -> dict[str, Any]:
    """All that must be the same whatever was killed: bytes of the outs, rows, and samples."""
    run_dir = newest_run(root)
    assert run_dir is not None
    return {
        "model": content_hash(root / MODEL),
        "history": content_hash(root / HISTORY),
        "rows": read_metrics(run_dir / "metrics.jsonl").drop("time").rows(),
        "samples": read_ledger(run_dir / "ledger.jsonl").rows(),
    }


def seen_once(root: Path, num_epochs: int) -> bool:
    """Whether every epoch saw each sample of the first one, once."""
    run_dir = the_run(root)
    ledger = read_ledger(run_dir / "ledger.jsonl")
    epochs = [
        sorted(ledger.filter(pl.col("epoch") == epoch)["samples"].explode().to_list())
        for epoch in range(num_epochs)
    ]
    return all(epoch == list(range(len(epochs[0]))) for epoch in epochs)


def _train(root: str, output: str, env: dict[str, str]) -> None:
    os.chdir(root)
    os.environ.clear()
    os.environ.update(env)
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.stdout, sys.stderr = open(1, "w", buffering=1), open(2, "w", buffering=1)  # noqa: SIM115
    sys.argv = ["train", *options(CELL)]
    warnings.simplefilter("ignore", RuntimeWarning)  # the module is known already: as intended
    runpy.run_module("stages.train", run_name="__main__", alter_sys=True)
