"""Reading a file of JSON lines while it is written: in blocks of whole lines, several at a time.

Polars reads a file by mapping it, and a file that is cut meanwhile, as a run does that goes on
from a checkpoint, then kills the reader with a bus error. So blocks are read into memory; three
at a time hide what the copy costs.

One line that is no row makes Polars refuse all of them. Then what is sound is read line by line,
and a warning says what was left out.
"""

import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import msgspec
import polars as pl

from mlops.files.journal import line_end

BLOCK_BYTES = 16 << 20
NUM_THREADS = 3
NAMED_LINES = 5

T = TypeVar("T")


class UnsoundError(ValueError):
    """A block with a line that is no row, though it is JSON."""


def read_blocks(
    path: Path,
    parse: Callable[[bytes], T],
    row: type[msgspec.Struct],
    *,
    begin: int = 0,
    end: int | None = None,
) -> list[T]:
    """What `parse` makes of each block of whole lines from offset `begin` to `end`, in order.

    A torn last line does not count. A block for which `parse` raises a Polars error or
    `UnsoundError` is parsed again from those of its lines that msgspec takes as a `row`.
    """
    decoder, encoder = msgspec.json.Decoder(row), msgspec.json.Encoder()
    left_out: list[int] = []

    def parsed(span: tuple[int, int]) -> T:
        block = os.pread(descriptor, span[1] - span[0], span[0])
        if not block.endswith(b"\n"):  # cut meanwhile
            block = block[: block.rfind(b"\n") + 1]
        try:
            return parse(block)
        except (pl.exceptions.PolarsError, UnsoundError):
            rows, unsound = _sound_rows(block, decoder)
            left_out.extend(span[0] + offset for offset in unsound)
            return parse(encoder.encode_lines(rows))

    descriptor = os.open(path, os.O_RDONLY)
    try:
        size = os.fstat(descriptor).st_size
        spans = list(_spans(descriptor, begin, size if end is None else min(end, size)))
        # A thread costs more than a small block.
        if len(spans) <= 1:
            results = [parsed(span) for span in spans]
        else:
            with ThreadPoolExecutor(NUM_THREADS) as pool:
                results = list(pool.map(parsed, spans))
        if left_out:
            _warn(path, descriptor, sorted(left_out))
    finally:
        os.close(descriptor)
    return results


def _spans(descriptor: int, begin: int, end: int) -> Iterator[tuple[int, int]]:
    size = BLOCK_BYTES
    while begin < end:
        stop = min(begin + size, end)
        cut = line_end(descriptor, begin, stop)
        if cut > begin:
            yield begin, cut
            begin, size = cut, BLOCK_BYTES
        elif stop == end:
            return
        else:
            size *= 2  # a line longer than the block, such as a run of NULs


def _sound_rows(
    block: bytes, decoder: msgspec.json.Decoder[msgspec.Struct]
) -> tuple[list[msgspec.Struct], list[int]]:
    """The rows, and the offsets in the block of the lines that are none."""
    rows, unsound, offset = [], [], 0
    for line in block.removesuffix(b"\n").split(b"\n"):
        try:
            rows.append(decoder.decode(line))
        except (msgspec.MsgspecError, UnicodeDecodeError):
            unsound.append(offset)
        offset += len(line) + 1
    return rows, unsound


def _warn(path: Path, descriptor: int, offsets: list[int]) -> None:
    numbers, number, before = [], 1, 0
    for offset in offsets[:NAMED_LINES]:
        number += _count_lines(descriptor, before, offset)
        before = offset
        numbers.append(str(number))
    more = ", …" if len(offsets) > NAMED_LINES else ""
    lines, rows = ("line", "a row") if len(offsets) == 1 else ("lines", "rows")
    print(
        f"{path}: expected {rows} in {lines} {', '.join(numbers)}{more}, got something else; "
        f"{len(offsets)} {lines} left out",
        file=sys.stderr,
    )


def _count_lines(descriptor: int, begin: int, end: int) -> int:
    count = 0
    while begin < end and (piece := os.pread(descriptor, min(BLOCK_BYTES, end - begin), begin)):
        count += piece.count(b"\n")
        begin += len(piece)
    return count
