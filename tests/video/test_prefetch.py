"""Batches read ahead are those read in turn; whatever ends the loop ends the thread."""

import threading
import time
from collections.abc import Generator, Iterator

import numpy as np
import pytest

from video.clips.loading import Batch
from video.clips.prefetch import DEPTH, Prefetched


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    before = threading.active_count()
    yield
    assert threading.active_count() == before


class Source:
    """Makes numbered batches, and counts them."""

    def __init__(self, count: int, *, fails_at: int | None = None, each_sec: float = 0.0) -> None:
        self.made = 0
        self.closed_in = ""
        self._count, self._fails_at, self._each_sec = count, fails_at, each_sec

    def batches(self) -> Generator[Batch, None, None]:
        try:
            for number in range(self._count):
                if number == self._fails_at:
                    raise OSError(f"batch {number}")
                time.sleep(self._each_sec)
                self.made += 1
                clips = np.full((1, 1, 1, 1, 3), number, np.uint8)
                yield Batch(clips=clips, labels=np.array([0]), rows=[number])
        finally:
            self.closed_in = threading.current_thread().name


def numbers(batches: Prefetched) -> list[int]:
    return [int(batch.clips.max()) for batch in batches]


@pytest.mark.parametrize("count", [0, 1, 2, 9])
def test_the_batches_come_in_their_order(count: int) -> None:
    assert numbers(Prefetched(Source(count).batches())) == list(range(count))


def test_an_error_comes_where_its_batch_would_have() -> None:
    batches = iter(Prefetched(Source(9, fails_at=3).batches()))

    assert [next(batches).rows[0] for _ in range(3)] == [0, 1, 2]
    with pytest.raises(OSError, match="batch 3"):
        next(batches)


def test_no_more_is_made_than_the_buffers_hold() -> None:
    source = Source(20)
    for number, _ in enumerate(Prefetched(source.batches())):
        time.sleep(0.01)
        assert source.made <= number + 1 + DEPTH


def test_what_is_read_ahead_is_made_while_the_caller_is_busy() -> None:
    source = Source(20)
    iterator = iter(Prefetched(source.batches()))
    next(iterator)
    deadline = time.monotonic() + 10
    while source.made < 1 + DEPTH and time.monotonic() < deadline:
        time.sleep(0.001)
    assert source.made == 1 + DEPTH
    del iterator


def test_a_loop_left_early_ends_the_thread_and_closes_the_source_there() -> None:
    source = Source(1000)
    for _ in Prefetched(source.batches()):
        break
    assert source.closed_in == "prefetch"
    assert source.made <= 1 + DEPTH


def test_an_error_in_the_loop_ends_the_thread() -> None:
    source = Source(1000)
    with pytest.raises(ZeroDivisionError):
        [1 / batch.rows[0] for batch in Prefetched(source.batches())]
    assert source.closed_in == "prefetch"


def test_a_generator_around_it_that_is_closed_ends_the_thread() -> None:
    source = Source(1000)
    outer = (batch for batch in Prefetched(source.batches()))
    next(outer)
    outer.close()
    assert source.closed_in == "prefetch"


def test_the_wait_is_what_the_caller_waited() -> None:
    slow = Prefetched(Source(5, each_sec=0.05).batches())
    numbers(slow)
    assert slow.waited_sec > 0.2

    busy = Prefetched(Source(5, each_sec=0.01).batches())
    for _ in busy:
        time.sleep(0.1)
    assert busy.waited_sec < 0.1
