"""Processes that descend from this one, and signals to exactly those.

This process adopts what its descendants leave behind, a daemon or an orphan, so all that a proof
started stays below it, and nothing else is ever looked at.
"""

import ctypes
import math
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import psutil

PR_SET_CHILD_SUBREAPER = 36  # of linux/prctl.h
POLL_SEC = 0.02


@dataclass(frozen=True)
class Process:
    """A process, told from a later one that got the same number."""

    handle: psutil.Process

    @property
    def pid(self) -> int:
        return int(self.handle.pid)

    @property
    def command(self) -> tuple[str, ...]:
        with suppress(psutil.Error):
            return tuple(self.handle.cmdline())
        return ()

    def is_alive(self) -> bool:
        """Return False as soon as it has ended, also if no one has waited for it yet."""
        with suppress(psutil.NoSuchProcess):
            return bool(self.handle.is_running() and self.handle.status() != psutil.STATUS_ZOMBIE)
        return False

    def send(self, number: signal.Signals) -> None:
        with suppress(psutil.NoSuchProcess):
            self.handle.send_signal(number)

    def freeze(self) -> None:
        """Stop it, as far as it goes: a thread that waits for the disk stops after that."""
        self.send(signal.SIGSTOP)
        wait_until(lambda: set(self._states()) <= {psutil.STATUS_STOPPED}, 1.0, poll_sec=0.0005)

    def _states(self) -> Iterator[str]:
        with suppress(psutil.NoSuchProcess):
            for thread in self.handle.threads():
                yield psutil.Process(thread.id).status()


def wait_until(
    condition: Callable[[], bool], limit_sec: float = math.inf, *, poll_sec: float = POLL_SEC
) -> bool:
    """Return True as soon as the condition holds, False if it does not within the limit."""
    deadline = time.monotonic() + limit_sec
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(poll_sec)
    return True


def wait_for_end(process: Process, limit_sec: float) -> float | None:
    """Return how many seconds it took to end; None if it has not."""
    start = time.monotonic()
    ended = wait_until(lambda: not process.is_alive(), limit_sec)
    return time.monotonic() - start if ended else None


@contextmanager
def adopting_orphans() -> Iterator[None]:
    """Make this process the parent of every descendant whose own parent has ended."""
    prctl = ctypes.CDLL(None).prctl
    prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        yield
    finally:
        prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


def descendants(root: int | None = None) -> list[Process]:
    """Return all living processes below `root`, or below this one, parents before children."""
    with suppress(psutil.NoSuchProcess):
        below = map(Process, psutil.Process(root).children(recursive=True))
        return [process for process in below if process.is_alive()]
    return []


def reap_orphans() -> None:
    """Wait for adopted processes that have ended, lest their numbers look alive to DVC.

    Only while no child of this process's own is left: its exit code would be lost.
    """
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
