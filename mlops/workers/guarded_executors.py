"""Work that may hang, eat memory or crash, with the same limits wherever it is done."""

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Protocol, TypeVar

from mlops.workers.dask_workers import DaskWorkers
from mlops.workers.executors import Executor
from mlops.workers.guarded import Fault, GuardedWorkers, Limits

Task = TypeVar("Task")
Result = TypeVar("Result")


class GuardedExecutor(Protocol):
    """What `guarded_executor` opens."""

    def map(
        self, function: Callable[[Task], Result], tasks: Sequence[Task]
    ) -> Iterator[Result | Fault]:
        """As `GuardedWorkers.map`."""


def guarded_executor(executor: Executor, limits: Limits) -> AbstractContextManager[GuardedExecutor]:
    """Processes that are watched, here or on each machine of the cluster."""
    if executor.executor == "dask":
        return _GuardedDaskWorkers(executor.dask_address, limits)
    return GuardedWorkers(executor.workers, limits)


class _GuardedDaskWorkers:
    """A cluster whose processes each have a guarded worker of their own."""

    def __init__(self, address: str, limits: Limits) -> None:
        self._workers = DaskWorkers(address)
        self._limits = limits

    def __enter__(self) -> "_GuardedDaskWorkers":
        return self

    def __exit__(self, *_: object) -> None:
        self._workers.close()

    def map(
        self, function: Callable[[Task], Result], tasks: Sequence[Task]
    ) -> Iterator[Result | Fault]:
        return self._workers.map(functools.partial(_guarded, function, self._limits), tasks)


def _guarded(function: Callable[[Task], Result], limits: Limits, task: Task) -> Result | Fault:
    (outcome,) = _guard(limits).map(function, [task])
    return outcome


@functools.lru_cache(maxsize=1)
def _guard(limits: Limits) -> GuardedWorkers:
    """Lives as long as the process of the cluster that asks for it, and ends with it."""
    return GuardedWorkers(1, limits)
