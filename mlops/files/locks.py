"""File locks: one trainer per fingerprint, and one process per GPU.

The kernel releases a lock when its process ends, however it ends, so a held lock has an owner that
works; a forked child does not keep it. The lock file tells who the owner is.
"""

import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

POLL_SEC = 0.2

# Not what TMPDIR names: a batch system makes that anew for every job.
DEVICE_LOCKS = Path("/tmp")

# The lock of whoever gathers several devices.
TURN = {"the turn to take several": "several"}


@dataclass(frozen=True, kw_only=True)
class Locks:
    """Locks of one process: `work` tells others what for; `check` is called while it waits and may
    raise."""

    work: str
    log: Callable[[str], None]
    check: Callable[[], None]
    mode: int = -1  # as the umask gives it

    def acquire(self, paths: Mapping[str, Path], count: int, held: ExitStack) -> list[str]:
        """Acquire `count` of the locks, the first that are free, until `held` is closed.

        `paths` maps what a message calls each lock to its file. Waits while too few are free.
        """
        locks = {name: self._lock(path) for name, path in paths.items()}
        taken: list[str] = []
        waits = False
        while True:
            for name, lock in locks.items():
                if len(taken) < count and name not in taken:
                    with suppress(Timeout):
                        held.enter_context(lock.acquire(blocking=False))
                        taken.append(name)
            if len(taken) == count:
                return taken
            if not waits:
                others = [f"{n}, which {_owner(paths[n])} holds" for n in paths if n not in taken]
                self.log(f"waits for {' or '.join(others)}")
                waits = True
            self.check()
            time.sleep(POLL_SEC)

    def _lock(self, path: Path) -> FileLock:
        # Where flock is missing, the existence of a file is no substitute: it outlives a killed
        # owner.
        return FileLock(path, mode=self.mode, fallback_to_soft=False, on_acquired=self._sign)

    def _sign(self, descriptor: int) -> None:
        since = datetime.now(UTC).isoformat(timespec="seconds")
        owner = f"process {os.getpid()} on {socket.gethostname()} ({self.work}, since {since})"
        with suppress(OSError):  # on a full disk it is locked all the same
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, owner.encode(), 0)


@contextmanager
def run_lock(
    output_base: Path, identity: str, *, log: Callable[[str], None], check: Callable[[], None]
) -> Iterator[bool]:
    """Hold the lock of `identity` below `output_base`; yield whether it had to be waited for."""
    directory = output_base / ".locks"
    directory.mkdir(parents=True, exist_ok=True)
    waited: list[str] = []

    def log_and_note(text: str) -> None:
        waited.append(text)
        log(text)

    paths = {"the lock of the same fingerprint": directory / f"{identity[:16]}.lock"}
    with ExitStack() as held:
        Locks(work="training", log=log_and_note, check=check).acquire(paths, 1, held)
        yield bool(waited)


@dataclass(frozen=True, kw_only=True)
class DeviceLocks(Locks):
    """A lock per device: of the processes of a machine that want a GPU, each gets its own.

    A lock is a file in the machine's temporary directory, named by the device's own id, so that it
    is the same whatever CUDA_VISIBLE_DEVICES calls the device, in every clone and for every user.
    Processes that cannot see each other's files, as in two containers, take no notice of each
    other.
    """

    directory: Path = DEVICE_LOCKS
    mode: int = 0o666  # every user may lock it

    @contextmanager
    def hold(self, devices: Mapping[str, str], count: int) -> Iterator[list[str]]:
        """Hold `count` of the devices, the first that are free; wait while there are too few.

        `devices` maps what the caller calls each to its id, which is part of a file's name; yields
        the names of those that are held.

        No two processes wait for each other: one that wants a single device waits without holding
        any, and of those that want several one at a time gathers them. That one keeps what it has,
        and so gets all of them, however many others come for one. A process that asks again for
        what it holds would wait for itself.
        """
        with ExitStack() as held:
            with ExitStack() as turn:
                if count > 1:
                    self.acquire(self._paths(TURN), 1, turn)
                names = self.acquire(self._paths(devices), count, held)
            yield names

    def _paths(self, devices: Mapping[str, str]) -> dict[str, Path]:
        return {name: self.directory / f"cuda-{of}.lock" for name, of in devices.items()}


def _owner(path: Path) -> str:
    with suppress(OSError, UnicodeDecodeError):
        if owner := path.read_text(encoding="utf-8"):
            return owner
    return f"the process that has locked {path}"  # it has only just begun
