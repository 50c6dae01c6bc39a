"""Identity of processes, whether one still lives, and the end of this one's parent."""

import ctypes
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mlops.processes.signals import StopFlag

# Between a stage and the program that started it; DVC starts its stages through one.
SHELLS = {"sh", "bash", "dash", "zsh", "fish", "ksh"}

_PR_SET_PDEATHSIG = 1


def own_identity() -> dict[str, Any]:
    """Return what identifies this process, as plain types, for a later `is_alive`."""
    return {
        "host": socket.gethostname(),
        # A container has its own numbers of processes on the same boot.
        "boot": Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
        "namespace": str(Path("/proc/self/ns/pid").readlink()),
        "pid": os.getpid(),
        "start_ticks": start_ticks(os.getpid()),
    }


def is_alive(identity: dict[str, Any]) -> bool | None:
    """Return whether the process lives; None if it cannot be seen from here.

    A process of an earlier boot of this host does not live, and neither does one whose number
    another process has been given since.
    """
    here = own_identity()
    if identity["host"] != here["host"]:
        return None
    if identity["boot"] != here["boot"]:
        return False
    if identity["namespace"] != here["namespace"]:
        return None
    return start_ticks(int(identity["pid"])) == int(identity["start_ticks"])


def start_ticks(pid: int) -> int | None:
    """Return when a process started, in clock ticks since the boot; None if it has ended."""
    stat = _stat(pid)
    # One that has ended but whose parent has not asked how is a zombie.
    return None if stat is None or stat["state"] in "ZX" else stat["start_ticks"]


def watch_parent(on_death: Callable[[], None], *, every_sec: float = 1.0) -> bool:
    """Call `on_death` once, from a thread, when the program that runs this stage has ended.

    DVC killed by SIGKILL leaves its stage running, and the next `dvc repro` starts a second one.
    Watched is the nearest ancestor that is no shell, of when this module was imported, and only
    if DVC_ROOT says that this is a stage of DVC: a process started by hand, with nohup, may
    outlive who started it. The kernel also sends SIGTERM when the direct parent ends, which is
    sooner and reaches a process that is busy in C code. Returns whether anything is watched.
    """
    if "DVC_ROOT" not in os.environ:
        return False
    signal_with_parent(signal.SIGTERM)
    program, started = _STARTED_BY
    if program == 0:  # in another container: docker exec
        return False
    # It may have ended even before this module was imported.
    orphaned = _adopts_orphans(program)

    def watch() -> None:
        while not orphaned and started is not None and start_ticks(program) == started:
            time.sleep(every_sec)
        on_death()

    threading.Thread(target=watch, name="watch_parent", daemon=True).start()
    return True


def stop_flag() -> StopFlag:
    """Return a flag that is set by signals and by the end of what started this process."""
    stop = StopFlag()
    watch_parent(lambda: stop.set("the end of the process that started it"))
    return stop


def signal_with_parent(number: int) -> None:
    """Have the kernel send this signal to this process when the thread that started it ends.

    It stays so for a program that takes this one's place (`exec`), and not for a child.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)


def _adopts_orphans(pid: int) -> bool:
    """Return whether a process is not DVC but adopts the orphans of a machine or container."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return False
    return b"dvc" not in words and (pid == 1 or b"systemd" in words)


def _nearest_program(pid: int) -> int:
    """Return `pid`, or its nearest ancestor that is no shell."""
    while (stat := _stat(pid)) is not None and stat["name"] in SHELLS and stat["parent"] > 0:
        pid = stat["parent"]
    return pid


def _stat(pid: int) -> dict[str, Any] | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name stands in parentheses and may hold spaces and parentheses itself.
    name, rest = text.partition("(")[2].rsplit(")", 1)
    fields = rest.split()
    return {
        "name": name,
        "state": fields[0],
        "parent": int(fields[1]),
        "start_ticks": int(fields[19]),
    }


def _started_by() -> tuple[int, int | None]:
    program = _nearest_program(os.getppid())
    return program, start_ticks(program)


# The program that started this one, and when that was started. Noted before the imports of a
# stage (see stages/__init__.py), in which it may end: whoever adopts this process then cannot be
# told from DVC.
_STARTED_BY = _started_by()
