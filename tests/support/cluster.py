"""A Dask cluster of two workers on this machine, and tasks for it.

It runs in a process of its own, whose workers are processes with one thread each.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from distributed import Client, LocalCluster

from mlops.errors import PipelineError
from tests.support.live_processes import children

ROOT = Path(__file__).parents[2]


class Cluster:
    """Its processes find modules and packages in the directory `before`, if given, first."""

    def __init__(self, before: Path | None = None) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.cluster"],
            cwd=ROOT,
            env=os.environ | ({"PYTHONPATH": str(before)} if before else {}),
            stdin=subprocess.PIPE,  # closed, it ends
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self._process.stdout is not None
        self.address = self._process.stdout.readline().strip()

    def workers(self) -> list[int]:
        """Return the process ids of the workers; a killed one is replaced after a while."""
        with Client(self.address, set_as_default=False) as client:
            return sorted(client.run(os.getpid).values())

    def close(self) -> None:
        self._process.communicate()


def serving(process: int) -> list[int]:
    """Return the children of a worker that do tasks."""
    return [child for child in children(process) if b"workers.worker" in command(child)]


def command(process: int) -> bytes:
    """Return the command line of a process; empty once it has ended."""
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


# Functions that the workers import from here.


def slower_at_first(task: int) -> int:
    time.sleep(0.3 if task == 0 else 0)
    return task * task


def fail_at_2(task: int) -> int:
    if task == 2:
        raise PipelineError("video.mp4: expected frames, got none; remove it", "a second fault")
    return task


def misbehave(task: str) -> str:
    """Do what the task says, else return it."""
    if task == "hang":
        time.sleep(600)
    if task == "eat":
        task = bytes([1]).decode() * 300_000_000
    if task == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    return task


def die_once(mark: Path) -> str:
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "done"


def mark_and_hang(path: Path) -> None:
    path.touch()
    time.sleep(600)


if __name__ == "__main__":
    with LocalCluster(
        n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address=":0"
    ) as cluster:
        print(cluster.scheduler_address, flush=True)
        sys.stdin.read()
