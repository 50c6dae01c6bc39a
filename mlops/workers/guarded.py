"""Work that may hang, eat memory or crash, spread over processes that are watched.

A task that misbehaves costs its own result and no other.
"""

import contextlib
import multiprocessing
import resource
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, Literal, TypeVar, cast

import psutil

from mlops.errors import PipelineError, described
from mlops.workers.pool import end_with_parent

Task = TypeVar("Task")
Result = TypeVar("Result")

# How long memory can grow unseen; a process fills about 50 MB of new memory in that time.
_LOOK_EVERY_SEC = 0.02
# Of the memory limit: as much address space a worker may ask for at once, used or not.
_MAX_ADDRESS_SPACE = 4


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What a task did instead of giving a result; `reason` is half a sentence with figures."""

    kind: Literal["timeout", "out_of_memory", "crashed", "internal_error"]
    reason: str


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What each task may take: wall-clock time, and memory beyond an idle worker's."""

    time_sec: float
    memory_mb: int


class GuardedWorkers:
    """Processes whose tasks have limits; they live until the `with` block ends.

    A task that hangs, eats memory or ends its process costs that worker, which is replaced, and
    no other task; one that raises an exception costs its own result. A task in whose worker a crash
    occurred is tried once more in a new one, so that nothing an earlier task left behind is held
    against it.
    """

    def __init__(self, workers: int, limits: Limits) -> None:
        self._most = workers
        self._limits = limits
        self._crew: list[_Worker] = []

    def __enter__(self) -> "GuardedWorkers":
        return self

    def __exit__(self, *_: object) -> None:
        self._dismiss(self._crew)

    def map(
        self, function: Callable[[Task], Result], tasks: Sequence[Task]
    ) -> Iterator[Result | Fault]:
        """Yield `function(task)` for each task, or the `Fault` that kept it from a result.

        `function` is importable, tasks can be pickled.
        """
        waiting = deque(range(len(tasks)))
        outcomes: dict[int, Result | Fault] = {}
        while len(self._crew) < min(self._most, len(tasks)):
            self._crew.append(_Worker(self._limits))
        crew = self._crew[: len(tasks)]
        for worker in crew:
            worker.prepare(function)
        try:
            for number in range(len(tasks)):
                while number not in outcomes:
                    busy = [worker for worker in crew if worker.is_busy()]
                    readable = wait([worker.pipe for worker in busy], _LOOK_EVERY_SEC)
                    for worker in busy:
                        # A result that is there counts, however late this process looks.
                        outcome = worker.receive() if worker.pipe in readable else worker.overrun()
                        if outcome is not None and worker.number is not None:
                            outcomes[worker.number] = outcome.value
                            worker.number = None
                        if worker.is_idle() and waiting:
                            worker.give(waiting[0], tasks[waiting.popleft()])
                yield outcomes.pop(number)
        finally:
            # After a fault, or when the taker stops: what is still at work answers nobody.
            self._dismiss([worker for worker in crew if worker.is_busy()])

    def _dismiss(self, workers: Sequence["_Worker"]) -> None:
        for worker in workers:
            worker.kill()
        self._crew = [worker for worker in self._crew if worker not in workers]


@dataclass(frozen=True)
class _Function:
    """What the tasks that follow are for."""

    call: Callable[[Any], Any]


@dataclass(frozen=True)
class _Outcome:
    """A result, which may be None, or a fault."""

    value: Any


class _Worker:
    """A process with a pipe of its own: killing it leaves no lock or queue behind.

    It is told a function, says how much memory it holds when it is ready, and answers each task.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._function: Callable[[Any], Any] | None = None
        self.number: int | None = None
        self._task: Any = None
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, self._limits), daemon=True)
        self._process.start()
        # With the only other end in the worker, its death is an end of file here.
        theirs.close()
        self._deadline = 0.0
        self._fresh = True

    def prepare(self, function: Callable[[Any], Any]) -> None:
        self._function = function
        self._idle_bytes = 0  # until it says
        # If it died while idle, the end of file will tell.
        with contextlib.suppress(BrokenPipeError):
            self.pipe.send(_Function(function))

    def is_busy(self) -> bool:
        """At work, or not yet ready."""
        return self.number is not None or not self._idle_bytes

    def is_idle(self) -> bool:
        return not self.is_busy()

    def give(self, number: int, task: Any) -> None:
        self.number, self._task = number, task
        self._deadline = time.monotonic() + self._limits.time_sec
        with contextlib.suppress(BrokenPipeError):
            self.pipe.send(task)

    def receive(self) -> _Outcome | None:
        """What a readable pipe says; None if there is nothing yet to say of the task."""
        try:
            message = self.pipe.recv()
        except (EOFError, ConnectionResetError):
            return self._crashed()
        if not self._idle_bytes:
            self._idle_bytes = message
            if self.number is not None:
                self.give(self.number, self._task)
            return None
        self._fresh = False
        if isinstance(message.value, Fault) and message.value.kind == "out_of_memory":
            self._replace()
        return cast(_Outcome, message)

    def overrun(self) -> _Outcome | None:
        """The fault, and a new process, where the task has passed a limit."""
        if self.number is None or not self._idle_bytes:
            return None
        if time.monotonic() > self._deadline:
            self._replace()
            return _Outcome(
                Fault(kind="timeout", reason=f"took more than {self._limits.time_sec:g} s")
            )
        if _resident_bytes(self._process.pid) > self._idle_bytes + _in_bytes(self._limits):
            self._replace()
            return _Outcome(_out_of_memory(self._limits))
        return None

    def _crashed(self) -> _Outcome | None:
        self._process.join()
        code = self._process.exitcode or 0
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        if not self._idle_bytes and self._fresh:
            raise PipelineError(
                f"a worker process ended before it could work ({how}); its own message stands "
                "above, or the system stopped it: lower runtime.workers and run the same command "
                "again"
            )
        fresh = self._fresh
        self._replace()
        if not fresh:
            return None  # the task, still at hand, is given to the new process when it is ready
        return _Outcome(Fault(kind="crashed", reason=f"ended the process that read it ({how})"))

    def _replace(self) -> None:
        assert self._function is not None  # a task was at hand
        self.kill()
        self._start()
        self.prepare(self._function)

    def kill(self) -> None:
        self._process.kill()
        self._process.join()
        self.pipe.close()


def _serve(pipe: Connection, limits: Limits) -> None:
    """Learn functions and answer tasks until the pipe closes.

    Resident memory is the limit, seen from outside and once more here, where a short peak shows.
    A limit of the address space alone would not do: a decoder that is refused memory may call it
    damaged data and go on. It stands further out, against what grows faster than anyone looks.
    """
    end_with_parent()
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    function: Callable[[Any], Any] | None = None
    most_bytes = 0
    while True:
        try:
            message = pipe.recv()
        except EOFError:
            return
        if isinstance(message, _Function):
            function = message.call
            memory = psutil.Process().memory_info()
            # The peak of the parent is inherited.
            most_bytes = max(memory.rss + _in_bytes(limits), _peak_bytes())
            space = memory.vms + _MAX_ADDRESS_SPACE * _in_bytes(limits)
            resource.setrlimit(resource.RLIMIT_AS, (space, hard))
            pipe.send(memory.rss)
            continue
        assert function is not None
        answer: Any
        try:
            answer = function(message)
        except MemoryError:
            answer = _out_of_memory(limits)
        except Exception as error:  # noqa: BLE001 - whatever it is, it costs this task alone
            answer = Fault(kind="internal_error", reason=f"raised {described(error)}")
        pipe.send(_Outcome(_out_of_memory(limits) if _peak_bytes() > most_bytes else answer))


def _out_of_memory(limits: Limits) -> Fault:
    return Fault(kind="out_of_memory", reason=f"took more than {limits.memory_mb} MB of memory")


def _in_bytes(limits: Limits) -> int:
    return limits.memory_mb * 1_000_000


def _resident_bytes(pid: int | None) -> int:
    """Return the resident memory of a process; 0 once it has ended."""
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.NoSuchProcess:
        return 0


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
