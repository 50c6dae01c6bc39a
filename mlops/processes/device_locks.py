"""A lock per device: of the processes of a machine that want a GPU, each gets its own.

A lock is a file in the machine's temporary directory, named by the device's own id, so that it is
the same whatever CUDA_VISIBLE_DEVICES calls the device, in every clone and for every user. The
kernel lets go of it when the process ends, however it ends: a device that is taken has an owner
who works. Processes that cannot see each other's files, as in two containers, take no notice of
each other.
"""

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

# Not what TMPDIR names: a batch system makes that anew for every job.
DIRECTORY = Path("/tmp")

LOOK_EVERY_SEC = 0.2

# The lock of whoever gathers several devices.
TURN = {"the turn to take several": "several"}


@dataclass(frozen=True, kw_only=True)
class DeviceLocks:
    """How one process takes devices: `work` tells others what for, `check` is called while it
    waits and may raise."""

    work: str
    say: Callable[[str], None]
    check: Callable[[], None]
    directory: Path = DIRECTORY

    @contextmanager
    def hold(self, devices: Mapping[str, str], count: int) -> Iterator[list[str]]:
        """Hold `count` of the devices, the first that are free; wait while there are too few.

        `devices` maps what the caller calls each to its id, which is part of a file's name; given
        are the names of those that are held.

        Nobody waits for one who waits for him: who wants one device waits with empty hands, and of
        those who want several one at a time gathers them. That one keeps what he has, and so gets
        all of them, however many come for one. A process holds once: what it holds already, it
        would wait for.
        """
        with ExitStack() as held:
            with ExitStack() as turn:
                if count > 1:
                    self._take(TURN, 1, turn)
                names = self._take(devices, count, held)
            yield names

    def _take(self, devices: Mapping[str, str], count: int, held: ExitStack) -> list[str]:
        paths = {name: self.directory / f"cuda-{of}.lock" for name, of in devices.items()}
        taken: list[str] = []
        waits = False
        while True:
            for name, path in paths.items():
                if len(taken) < count and name not in taken and self._locked(path, held):
                    taken.append(name)
            if len(taken) == count:
                return taken
            if not waits:
                others = [
                    f"{name}, which {_owner(path)} holds"
                    for name, path in paths.items()
                    if name not in taken
                ]
                self.say(f"waits for {' or '.join(others)}")
                waits = True
            self.check()
            time.sleep(LOOK_EVERY_SEC)

    def _locked(self, path: Path, held: ExitStack) -> bool:
        descriptor = _open(path)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        held.callback(os.close, descriptor)
        owner = {
            "pid": os.getpid(),
            "work": self.work,
            "since": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        try:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(owner).encode(), 0)
        except OSError:
            pass  # a full disk, or another user's file: it is locked all the same
        return True


def _open(path: Path) -> int:
    """Also what another user has made: to lock a file, reading it is enough."""
    options = os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        # Not to be made: in a directory of everyone's files the kernel may refuse to "make" what
        # is there and another's.
        return os.open(path, os.O_RDWR | options)
    except PermissionError:
        return os.open(path, os.O_RDONLY | options)
    except FileNotFoundError:
        pass
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | options, 0o666)
    except FileExistsError:  # made meanwhile
        return _open(path)
    os.fchmod(descriptor, 0o666)
    return descriptor


def _owner(path: Path) -> str:
    try:
        owner = json.loads(path.read_text())
        return f"process {owner['pid']} ({owner['work']}, since {owner['since']})"
    except (OSError, ValueError, KeyError):  # it has only just begun
        return f"the process that has locked {path}"
