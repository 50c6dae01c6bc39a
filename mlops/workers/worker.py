"""The worker process: answers tasks until none come any more.

It is started in the clone, by a stage or by a Dask worker, and is not that Dask worker itself. So
it runs the code as it is now, sees relative paths as the stage does, and two clones can work on
one cluster at once.
"""

import math
import os
import platform
import resource
import signal
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import spawn
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import psutil

from mlops.errors import PipelineError
from mlops.processes.parent import signal_with_parent
from mlops.workers.requirements import Requirements, unmet_requirements
from mlops.workers.supervisor import Outcome, ProcessOptions

CODE = Path(__file__).resolve().parents[2]

# After so long without a task a process ends; the next task starts another.
_IDLE_SEC = 60.0
# Of the memory limit: as much address space a task may ask for at once, used or not.
_MAX_ADDRESS_SPACE = 4


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of each task: wall-clock time, and memory beyond that of the process before it."""

    time_sec: float
    memory_mb: int

    @property
    def memory_bytes(self) -> int:
        return self.memory_mb * 1_000_000


@dataclass(frozen=True, kw_only=True)
class _Setup:
    """The first message to a process: to be as the stage is, wherever it was started."""

    limits: Limits | None
    requirements: Requirements | None  # None on the stage's own machine
    directory: str
    dvc_root: str
    main: dict[str, Any]  # what `multiprocessing` tells a process of `__main__` and sys.path


# A function and its task.
Call = tuple[Callable[[Any], Any], Any]


def pack(item: Any) -> bytes:
    """Return `item` pickled."""
    return bytes(ForkingPickler.dumps(item))


def unpack(content: bytes) -> Any:
    """Return what `pack` was given."""
    return ForkingPickler.loads(content)


def process_options(
    limits: Limits | None, requirements: Requirements | None = None
) -> ProcessOptions:
    """Return how to start a worker process that works as this one does."""
    known = spawn.get_preparation_data("worker")
    names = ["init_main_from_name", "init_main_from_path", *([] if requirements else ["sys_path"])]
    setup = _Setup(
        limits=limits,
        requirements=requirements,
        directory=str(Path.cwd()),
        dvc_root=os.environ.get("DVC_ROOT", "."),
        main={name: known[name] for name in names if name in known},
    )
    return ProcessOptions(
        code=str(CODE),
        setup=pack(setup),
        time_sec=limits.time_sec if limits else math.inf,
        memory_bytes=limits.memory_bytes if limits else math.inf,
    )


def serve(descriptor: int) -> None:
    """Answer tasks from the pipe until none come any more.

    Ends at once when the thread that started this process does, also if that is killed.
    """
    signal_with_parent(signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the starter, which kills this
    pipe = Connection(descriptor)
    with suppress(EOFError, ConnectionError):
        setup: _Setup = unpack(pipe.recv_bytes())
        unmet = _set_up(setup)
        while pipe.poll(_IDLE_SEC):
            pipe.send(_answer(pipe, setup.limits, unmet))


def _set_up(setup: _Setup) -> list[str]:
    """Take over the state of the stage; return what this machine lacks for it."""
    os.environ["DVC_ROOT"] = setup.dvc_root
    if setup.requirements and (unmet := unmet_requirements(setup.requirements)):
        return unmet
    os.chdir(setup.directory)
    spawn.prepare(setup.main)
    return []


def _answer(pipe: Connection, limits: Limits | None, unmet: list[str]) -> Outcome:
    """Receive a task from the pipe, send how much memory is held before it, return its outcome."""
    content = pipe.recv_bytes()
    try:
        if unmet:
            raise PipelineError(*unmet)
        function, task = unpack(content)
        max_bytes = _limit_memory(limits)
        pipe.send(psutil.Process().memory_info().rss)
        answer = pack(function(task))
        return ("out_of_memory", None) if _peak_bytes() > max_bytes else ("answer", answer)
    except MemoryError:
        return "out_of_memory", None
    except Exception as error:  # noqa: BLE001 - raised again where the stage runs
        error.add_note(f"on {platform.node()}:\n{traceback.format_exc()}")
        return "raised", pack(error)


def _limit_memory(limits: Limits | None) -> float:
    """Limit the address space; return how much resident memory the process may have had at most.

    Resident memory is the limit, seen by the starter and once more here, where a short peak shows.
    A limit of the address space alone would not do: a decoder that is refused memory may call it
    damaged data and go on. It stands further out, against what grows faster than anyone looks.
    """
    if limits is None:
        return math.inf
    memory = psutil.Process().memory_info()
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(
        resource.RLIMIT_AS, (memory.vms + _MAX_ADDRESS_SPACE * limits.memory_bytes, hard)
    )
    # The peak of the starter is inherited.
    return max(int(memory.rss) + limits.memory_bytes, _peak_bytes())


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
