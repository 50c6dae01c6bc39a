"""Prefetching: a thread makes the next batches while the caller trains on the current one."""

import threading
import time
from collections.abc import Generator, Iterator
from contextlib import closing
from queue import SimpleQueue

from video.clips.loading import NUM_BUFFERS, Batch

DEPTH = NUM_BUFFERS - 1


class Prefetched:
    """The same batches in the same order, DEPTH of them made ahead of the one in use.

    Iterate over it once. A batch may be used until the next one is requested. An error in the
    thread is raised in place of its batch; leaving the loop early, in whatever way, ends the
    thread, at the latest when its current batch has been made.
    """

    waited_sec: float
    """Seconds that the caller has waited for batches so far."""

    def __init__(self, batches: Generator[Batch, None, None]) -> None:
        self._batches = batches
        self.waited_sec = 0.0

    def __iter__(self) -> Iterator[Batch]:
        made: SimpleQueue[Batch | BaseException | None] = SimpleQueue()
        stopped = threading.Event()
        free = threading.Semaphore(DEPTH + 1)  # the batches made ahead, and the one in use
        thread = threading.Thread(
            target=_make, args=(self._batches, made, free, stopped), name="prefetch", daemon=True
        )
        thread.start()
        try:
            while (batch := self._next(made)) is not None:
                yield batch
                free.release()
        finally:
            stopped.set()
            free.release()
            thread.join()

    def _next(self, made: "SimpleQueue[Batch | BaseException | None]") -> Batch | None:
        started = time.perf_counter()
        item = made.get()
        self.waited_sec += time.perf_counter() - started
        if isinstance(item, BaseException):
            raise item
        return item


def _make(
    batches: Generator[Batch, None, None],
    made: "SimpleQueue[Batch | BaseException | None]",
    free: threading.Semaphore,
    stopped: threading.Event,
) -> None:
    try:
        # Closed in the thread that runs it, so that an abandoned generator ends its own workers.
        with closing(batches):
            while True:
                free.acquire()
                if stopped.is_set():
                    return
                batch = next(batches, None)
                made.put(batch)
                if batch is None:
                    return
    except BaseException as error:  # noqa: BLE001 - raised again in the caller
        made.put(error)
