"""Work spread over processes, with results in the order of the tasks.

Started by spawn: a forked child would inherit the threads' locks of the video libraries. The
number of workers changes the time and nothing else.
"""

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from mlops.errors import PipelineError

Task = TypeVar("Task")
Result = TypeVar("Result")


def map_processes(
    function: Callable[[Task], Result], tasks: Sequence[Task], *, workers: int
) -> Iterator[Result]:
    """Yield `function(task)` for each task; `function` is importable, tasks can be pickled.

    An exception of a task is raised here and ends the work.
    """
    workers = min(workers, len(tasks))
    if workers <= 1:
        yield from map(function, tasks)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=end_with_parent) as pool:
        try:
            yield from pool.map(function, tasks, chunksize=1)
        except BrokenProcessPool:
            raise PipelineError(
                "a worker process was killed, as the system does when memory runs out; lower "
                "runtime.workers and run the same command again"
            ) from None
        finally:
            # After a fault the tasks still waiting are of no use.
            pool.shutdown(wait=True, cancel_futures=True)


def end_with_parent() -> None:
    """End this worker when its parent is killed.

    Otherwise it would wait for its next task for ever: the workers hold each other's queue open.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None  # a worker has one

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
