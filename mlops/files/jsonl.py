"""Files of JSON lines as frames, also of a file that is written or damaged meanwhile.

Polars reads a file by mapping it, and a file that is cut meanwhile, as a run does that goes on
from a checkpoint, then kills the reader with a bus error. So the file is read into memory first.

One line that is no row makes Polars refuse all of them. Then what is sound is read line by line,
and a warning says what was left out.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import polars as pl

from mlops.files.tables import listed


class UnsoundError(ValueError):
    """A line that is no row, though it is JSON."""


def read_rows(
    path: Path, parse: Callable[[bytes], pl.DataFrame], row: type[msgspec.Struct]
) -> pl.DataFrame:
    """Return what `parse` makes of the whole lines of a file; a torn last line does not count.

    If `parse` raises a Polars error or `UnsoundError`, it is given those lines alone that msgspec
    takes as a `row`.
    """
    content = path.read_bytes()
    content = content[: content.rfind(b"\n") + 1]
    try:
        return parse(content)
    except (pl.exceptions.PolarsError, UnsoundError):
        rows, unsound = _sound_rows(content, msgspec.json.Decoder(row))
        _warn(path, unsound)
        return parse(msgspec.json.Encoder().encode_lines(rows))


def _sound_rows(
    content: bytes, decoder: msgspec.json.Decoder[msgspec.Struct]
) -> tuple[list[msgspec.Struct], list[int]]:
    """Return the rows, and the numbers of the lines that are none."""
    rows, unsound = [], []
    for number, line in enumerate(content.removesuffix(b"\n").split(b"\n"), 1):
        try:
            rows.append(decoder.decode(line))
        except (msgspec.MsgspecError, UnicodeDecodeError):
            unsound.append(number)
    return rows, unsound


def _warn(path: Path, numbers: list[int]) -> None:
    lines, rows = ("line", "a row") if len(numbers) == 1 else ("lines", "rows")
    print(
        f"{path}: expected {rows} in {lines} {listed(numbers)}, got something else; "
        f"{len(numbers)} {lines} left out",
        file=sys.stderr,
    )
