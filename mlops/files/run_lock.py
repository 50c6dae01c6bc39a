"""One trainer a fingerprint: a second one waits, and is told for whom."""

import fcntl
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

LOOK_EVERY_SEC = 0.2


@contextmanager
def run_lock(
    output_base: Path, identity: str, *, say: Callable[[str], None], check: Callable[[], None]
) -> Iterator[bool]:
    """Hold the lock of `identity` below `output_base`; wait while another process holds it.

    Gives whether it had to wait.

    The kernel lets go of it when the process ends, however it ends, so a lock that is held has
    an owner who works. `check` is called while waiting and may raise.
    """
    directory = output_base / ".locks"
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{identity[:16]}.lock"
    with path.open("a+") as file:
        waits = False
        while not _taken(file.fileno()):
            if not waits:
                say(f"waits for {_owner(path)}, which trains with the same fingerprint")
                waits = True
            check()
            time.sleep(LOOK_EVERY_SEC)
        owner = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "since": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        file.truncate(0)
        file.write(json.dumps(owner))
        file.flush()
        yield waits


def _taken(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _owner(path: Path) -> str:
    try:
        owner: dict[str, Any] = json.loads(path.read_text())
        return f"process {owner['pid']} on {owner['host']}, at work since {owner['since']}"
    except (ValueError, KeyError):  # it has only just begun
        return f"the process that holds {path}"
