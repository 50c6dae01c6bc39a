"""Progress of a stage: a bar on a terminal, a plain line now and then in a log."""

import os
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TypeVar

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

T = TypeVar("T")

LINE_EVERY_SEC = 10.0


def track(items: Iterable[T], *, total: int, task: str, before: int = 0) -> Iterator[T]:
    """Yield `items` and show how many of `total` are done, the rate, and the time left.

    `before` of them were done before these items, and say nothing of the rate.
    """
    if sys.stdout.isatty():
        yield from _bar(items, total, task, before)
    else:
        yield from _lines(items, total, task, before)


@contextmanager
def silent_stdout() -> Iterator[None]:
    """Discard stdout, for all ranks but the main one; stderr stays."""
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
        yield


def counted(number: int, noun: str) -> str:
    """Format a number and its noun, in the plural if need be.

    >>> counted(1, "pack"), counted(299, "pack")
    ('1 pack', '299 packs')
    """
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _bar(items: Iterable[T], total: int, task: str, before: int) -> Iterator[T]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, transient=True) as progress:
        bar = progress.add_task(task, total=total, completed=before, rate="")
        start = time.monotonic()
        for done, item in enumerate(items, start=1):
            yield item
            rate = done / max(time.monotonic() - start, 1e-9)
            progress.update(bar, completed=before + done, rate=f"{rate:.1f}/s")


def _lines(items: Iterable[T], total: int, task: str, before: int) -> Iterator[T]:
    start = last = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - last >= LINE_EVERY_SEC and before + done < total:
            last = now
            rate = done / (now - start)
            left = (total - before - done) / rate
            print(f"{task}: {before + done} of {total}, {rate:.1f}/s, about {left:.0f} s left")
