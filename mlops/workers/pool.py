"""Work spread over processes, with results in the order of the tasks.

Started by spawn: a forked child would inherit the threads' locks of the video libraries. The
number of workers changes the time and nothing else.
"""

import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from mlops.errors import PipelineError

Task = TypeVar("Task")
Result = TypeVar("Result")


def map_processes(
    function: Callable[[Task], Result], tasks: Sequence[Task], *, workers: int
) -> Iterator[Result]:
    """Yield `function(task)` for each task; `function` is importable, tasks can be pickled.

    This process is one of the workers: it works while the others start. An exception of a task is
    raised here and ends the work.
    """
    others = min(workers, len(tasks)) - 1
    if others < 1:
        yield from map(function, tasks)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(others, mp_context=context, initializer=end_with_parent) as pool:
        try:
            yield from _share(function, tasks, pool, others)
        except BrokenProcessPool:
            raise PipelineError(
                "a worker process was killed, as the system does when memory runs out; lower "
                "runtime.workers and run the same command again"
            ) from None
        finally:
            # After a fault the tasks still waiting are of no use.
            pool.shutdown(wait=True, cancel_futures=True)


def _share(
    function: Callable[[Task], Result],
    tasks: Sequence[Task],
    pool: ProcessPoolExecutor,
    others: int,
) -> Iterator[Result]:
    """Yield results in order, and do a task here whenever the others have enough to do."""
    waiting = deque(range(len(tasks)))
    given: dict[int, Future[Result]] = {}
    own: dict[int, Result] = {}
    for number in range(len(tasks)):
        while number not in own and not (number in given and given[number].done()):
            busy = sum(not future.done() for future in given.values())
            # One at work and one in hand for each, so that none waits for this process.
            for _ in range(min(2 * others - busy, len(waiting))):
                task = waiting.popleft()
                given[task] = pool.submit(function, tasks[task])
            if waiting:
                task = waiting.popleft()
                own[task] = function(tasks[task])
            elif number in given:
                wait([given[number]])
        yield own.pop(number) if number in own else given.pop(number).result()


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
