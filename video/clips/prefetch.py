"""Batches made by a thread while the caller trains on the one before."""

import threading
import time
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from queue import SimpleQueue

from video.clips.loading import NUM_BUFFERS, Batch

DEPTH = NUM_BUFFERS - 1


@dataclass(frozen=True, kw_only=True)
class _Failure:
    error: BaseException


class Prefetched:
    """The same batches in the same order, `depth` of them made ahead of the one in use.

    To be iterated over once. A batch may be used until the next one is asked for. An error of the
    thread is raised where its batch would have come; leaving the loop early, in whatever way, ends
    the thread, at the latest when the batch that it is at has been made.

    `depth` is at most DEPTH: there are no more buffers to make batches in.
    """

    waited_sec: float
    """How long the caller has waited for batches so far."""

    def __init__(self, batches: Generator[Batch, None, None], *, depth: int = DEPTH) -> None:
        if not 1 <= depth <= DEPTH:
            raise ValueError(f"depth: expected 1 to {DEPTH} batches, got {depth}")
        self._batches = batches
        self._depth = depth
        self.waited_sec = 0.0

    def __iter__(self) -> Iterator[Batch]:
        made: SimpleQueue[Batch | _Failure | None] = SimpleQueue()
        stopped = threading.Event()
        # One for each batch that may be made: those ahead, and the one that the caller uses.
        free = threading.Semaphore(self._depth + 1)
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

    def _next(self, made: "SimpleQueue[Batch | _Failure | None]") -> Batch | None:
        started = time.perf_counter()
        item = made.get()
        self.waited_sec += time.perf_counter() - started
        if isinstance(item, _Failure):
            raise item.error
        return item


def _make(
    batches: Generator[Batch, None, None],
    made: "SimpleQueue[Batch | _Failure | None]",
    free: threading.Semaphore,
    stopped: threading.Event,
) -> None:
    try:
        # Closed in this thread, which alone has run it: an abandoned one ends its own workers.
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
        made.put(_Failure(error=error))
