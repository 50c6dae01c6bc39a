"""Where tasks are done: processes of this machine, or the workers of a Dask cluster."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from mlops.workers.dask_workers import DaskWorkers
from mlops.workers.pool import map_processes

Task = TypeVar("Task")
Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class Executor:
    """The values of `runtime:` that choose one; they change the time and nothing else."""

    executor: Literal["processes", "dask"]
    workers: int  # processes of this machine
    dask_address: str  # of the scheduler, or the path of its scheduler file


def map_tasks(
    function: Callable[[Task], Result], tasks: Sequence[Task], executor: Executor
) -> Iterator[Result]:
    """Yield `function(task)` for each task, in their order.

    `function` is importable, tasks and results can be pickled. An exception of a task is raised
    here and ends the work.
    """
    if executor.executor == "dask":
        with DaskWorkers(executor.dask_address) as workers:
            yield from workers.map(function, tasks)
    else:
        yield from map_processes(function, tasks, workers=executor.workers)
