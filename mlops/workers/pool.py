"""Pools of workers: tasks in, results out in the order of the tasks.

The workers are processes of this machine, or of the machines of a Dask cluster. Which and how many
changes the time and nothing else.
"""

import math
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from threading import Event
from typing import Any, Literal, TypeVar, cast

from mlops.errors import PipelineError, described
from mlops.workers.dask_pool import DaskProcesses
from mlops.workers.supervisor import Outcome, WorkerProcesses
from mlops.workers.worker import Call, Limits, pack, process_options, unpack

Task = TypeVar("Task")
Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class Executor:
    """The values of `runtime:` that choose a pool; they change the time and nothing else."""

    executor: Literal["processes", "dask"]
    workers: int  # processes of this machine
    dask_address: str = ""  # of the scheduler, or the path of its scheduler file


@dataclass(frozen=True, kw_only=True)
class Fault:
    """The failure of a task, instead of a result; `reason` is half a sentence with numbers."""

    kind: Literal["timeout", "out_of_memory", "crashed", "internal_error"]
    reason: str


def map_tasks(
    function: Callable[[Task], Result], tasks: Sequence[Task], executor: Executor
) -> Iterator[Result]:
    """Yield `function(task)` for each task, in their order.

    `function` is importable, tasks and results can be pickled. An exception of a task is raised
    here and ends the work.
    """
    if executor.executor == "processes" and min(executor.workers, len(tasks)) <= 1:
        yield from map(function, tasks)
        return
    with WorkerPool(executor) as pool:
        yield from cast(Iterator[Result], pool.map(function, tasks))


class WorkerPool:
    """Worker processes that are started when they are needed and live until the `with` block ends.

    With limits, a task that hangs, eats memory or ends its process costs that process, which is
    replaced, and no other task; one that raises an exception costs its own result. Without, each
    of these ends the work. A task whose process crashed is tried once more in a new one.
    """

    def __init__(
        self, executor: Executor, limits: Limits | None = None, *, max_ahead: float = math.inf
    ) -> None:
        """Prepare a pool.

        max_ahead: tasks begun or done whose results nobody has taken yet, on this machine; for
        results that are large.
        """
        self._limits = limits
        self._processes = (
            DaskProcesses(executor.dask_address, limits)
            if executor.executor == "dask"
            else _LocalProcesses(executor.workers, limits, max_ahead)
        )

    def __enter__(self) -> "WorkerPool":
        return self

    def __exit__(self, *_: object) -> None:
        self._processes.close()

    def map(
        self, function: Callable[[Task], Result], tasks: Sequence[Task]
    ) -> Iterator[Result | Fault]:
        """Yield `function(task)` for each task, or the `Fault` that kept it from a result.

        `function` is importable, tasks and results can be pickled. What is still at work after an
        exception, or when the taker stops, answers nobody.
        """
        call = partial(_guarded, function) if self._limits else function
        with closing(self._processes.outcomes([(call, task) for task in tasks])) as outcomes:
            for outcome in outcomes:
                yield _result(outcome, self._limits)


class _LocalProcesses:
    """Processes of this machine, each run by a thread."""

    def __init__(self, workers: int, limits: Limits | None, max_ahead: float) -> None:
        self._processes = WorkerProcesses(process_options(limits))
        self._threads = ThreadPoolExecutor(workers)
        self._max_ahead = max_ahead

    def outcomes(self, calls: Sequence[Call]) -> Generator[Outcome, None, None]:
        stopped = Event()

        def run(call: Call) -> Outcome:
            return self._processes.run(pack(call), lambda: not stopped.is_set())

        ahead: deque[Future[Outcome]] = deque()
        try:
            for call in calls:
                if len(ahead) >= self._max_ahead:
                    yield ahead.popleft().result()
                ahead.append(self._threads.submit(run, call))
            while ahead:
                yield ahead.popleft().result()
        finally:
            stopped.set()
            for future in ahead:
                future.cancel()

    def close(self) -> None:
        self._processes.close()
        self._threads.shutdown(cancel_futures=True)


def _guarded(function: Callable[[Task], Result], task: Task) -> Result | Fault:
    try:
        return function(task)
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever it is, it costs this task alone
        return Fault(kind="internal_error", reason=f"raised {described(error)}")


def _result(outcome: Outcome, limits: Limits | None) -> Any:
    """Return what a task returned, or its fault; raise what it raised, or a fault of a process."""
    kind, content = outcome
    if kind == "answer":
        return unpack(content)
    if kind == "raised":
        raise unpack(content)
    how, machine = content or ("", "")
    if kind == "not_started":
        raise PipelineError(
            f"a worker process on {machine} ended before it could work ({how}); its own message "
            "stands above or in the log of that Dask worker, or the system stopped it: lower "
            "runtime.workers and run the same command again"
        )
    if limits is not None:
        reason = {
            "timeout": f"took more than {limits.time_sec:g} s",
            "out_of_memory": f"took more than {limits.memory_mb} MB of memory",
            "crashed": f"ended the process that read it ({how})",
        }[kind]
        return Fault(kind=cast(Any, kind), reason=reason)
    if kind == "out_of_memory":
        raise MemoryError
    raise PipelineError(
        f"a task ended its worker process twice ({how}, on {machine}), as the system does when "
        "memory runs out; lower runtime.workers and run the same command again"
    )
