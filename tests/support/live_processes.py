"""Processes that live, and their descendants."""

import os
import signal
import time
from collections.abc import Collection
from pathlib import Path


def children(process: int) -> list[int]:
    """Return the children of a process; none if it has ended."""
    try:
        threads = list(Path(f"/proc/{process}/task").iterdir())
        texts = [(thread / "children").read_text() for thread in threads]
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [int(child) for text in texts for child in text.split()]


def is_running(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def outliving(processes: Collection[int], seconds: float) -> list[int]:
    """Return the processes that still run after so many seconds, and kill them."""
    deadline = time.monotonic() + seconds
    while any(map(is_running, processes)) and time.monotonic() < deadline:
        time.sleep(0.02)
    left = [process for process in processes if is_running(process)]
    for process in left:
        os.kill(process, signal.SIGKILL)
    return left
