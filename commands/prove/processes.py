"""Processes that descend from this one, and signals to exactly those.

This process adopts what its descendants leave behind, a daemon or an orphan, so all that a proof
started stays below it, and nothing else is ever looked at.
"""

import ctypes
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36  # of linux/prctl.h
POLL_SEC = 0.02


@dataclass(frozen=True, kw_only=True)
class Process:
    """`started` tells it from a later process that got the same number."""

    pid: int
    parent: int
    started: int  # clock ticks since boot

    @property
    def command(self) -> tuple[str, ...]:
        try:
            content = Path(f"/proc/{self.pid}/cmdline").read_bytes()
        except OSError:
            return ()
        return tuple(content.decode(errors="replace").split("\0")[:-1])

    def is_alive(self) -> bool:
        """False as soon as it has ended, also if no one has waited for it yet."""
        now = _read(self.pid)
        return now is not None and now[0].started == self.started

    def send(self, number: signal.Signals) -> None:
        if self.is_alive():
            os.kill(self.pid, number)

    def freeze(self) -> None:
        """Stop it, as far as it goes: a thread that waits for the disk stops after that."""
        self.send(signal.SIGSTOP)
        deadline = time.monotonic() + 1
        while time.monotonic() < deadline and set(_states_of_threads(self.pid)) - {"T"}:
            time.sleep(0.0005)


@contextmanager
def adopting_orphans() -> Iterator[None]:
    """Within it, this process is the parent of every descendant whose own parent has ended."""
    prctl = ctypes.CDLL(None).prctl
    prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        yield
    finally:
        prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


def descendants(root: int | None = None) -> list[Process]:
    """All living processes below `root`, or below this process, parents before children."""
    children: dict[int, list[Process]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (found := _read(int(entry.name))) is not None:
            children.setdefault(found[0].parent, []).append(found[0])
    below: list[Process] = []
    parents = [os.getpid() if root is None else root]
    while parents:
        found_below = [child for parent in parents for child in children.get(parent, [])]
        below += found_below
        parents = [child.pid for child in found_below]
    return below


def reap_orphans() -> None:
    """Wait for adopted processes that have ended, lest their numbers look alive to DVC.

    Only while no child of this process's own is left: its exit code would be lost.
    """
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def wait_for_end(process: Process, limit_sec: float) -> float | None:
    """How long it took to end; None if it has not."""
    start = time.monotonic()
    while process.is_alive():
        if time.monotonic() - start > limit_sec:
            return None
        time.sleep(POLL_SEC)
    return time.monotonic() - start


def _read(pid: int) -> tuple[Process, str] | None:
    """A living process and its state's letter; None if there is none."""
    try:
        # The name, in parentheses, may hold anything.
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rsplit(")", 1)[1].split()
    except (OSError, IndexError):
        return None
    if fields[0] in "ZX":
        return None
    return Process(pid=pid, parent=int(fields[1]), started=int(fields[19])), fields[0]


def _states_of_threads(pid: int) -> Iterator[str]:
    for task in Path(f"/proc/{pid}/task").glob("*/stat"):
        try:
            yield task.read_text(errors="replace").rsplit(")", 1)[1].split()[0]
        except (OSError, IndexError):
            continue
