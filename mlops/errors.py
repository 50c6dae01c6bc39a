"""Errors that a user can correct, each with place, expected, got and remedy.

    PipelineError    faults of the input, the parameters or the environment

Anything else that escapes a stage is a fault of the program and keeps its traceback.
"""

import re
import traceback
from collections.abc import Iterable, Sequence
from pathlib import Path

from mlops.files.tables import listed

CODE = Path(__file__).resolve().parents[1]

# Of thousands of faults most are the same one over and over.
MAX_ALIKE = 3
MAX_KINDS = 40

# Faults that differ in these alone are of one kind: what is in quotes, paths, hashes, numbers.
_PARTICULARS = re.compile(r"'[^']*'|\"[^\"]*\"|\S*/\S*|\b[0-9a-f]{8,}\b|\d+")
_ROW = re.compile(r"\b(row|line) (\d+)\b")


class PipelineError(Exception):
    """One or more faults, all of those that could be found.

    `faults` are sentences of the form "where: expected, got; what to do", without the
    stage's name, which `mlops.stage.run_stage` puts in front of each. The text of the error has a
    line for each, or for several: see `grouped`.
    """

    def __init__(self, *faults: str) -> None:
        super().__init__("\n".join(grouped(faults)))
        self.faults: Sequence[str] = faults


def grouped(faults: Iterable[str]) -> list[str]:
    """Return the lines to print of any number of faults, in their order.

    Equal faults of several rows are one line, of each kind the first `MAX_ALIKE` are shown, and of
    at most `MAX_KINDS` kinds; what is left out is counted.

    >>> grouped(f"a.csv: row {number}: expected 3 fields, got 4" for number in range(1, 9))
    ['a.csv: rows 1, 2, 3, 4, 5 and 3 more: expected 3 fields, got 4']
    >>> grouped(f"'{name}' not found" for name in "abcde")[2:]
    ["'c' not found", 'and 2 more like this']
    """
    kinds: dict[str, list[str]] = {}
    for fault in _with_rows(faults):
        kinds.setdefault(_PARTICULARS.sub("", fault), []).append(fault)
    lines = []
    for alike in list(kinds.values())[:MAX_KINDS]:
        more = len(alike) - MAX_ALIKE
        lines += alike[:MAX_ALIKE] + ([f"and {more} more like this"] if more > 0 else [])
    hidden = sum(map(len, list(kinds.values())[MAX_KINDS:]))
    return [*lines, f"and {hidden} other faults"] if hidden else lines


def _with_rows(faults: Iterable[str]) -> list[str]:
    """Return the faults, equal ones of several rows (or lines) as one that names the rows."""
    rows: dict[tuple[str, ...], list[str]] = {}
    for fault in faults:
        before, *numbered = _ROW.split(fault, maxsplit=1)
        noun, number, after = numbered or ("", "", "")
        rows.setdefault((before, noun, after), []).append(number)
    return [
        before + (_numbered(noun, numbers) if noun else "") + after
        for (before, noun, after), numbers in rows.items()
    ]


def _numbered(noun: str, numbers: Sequence[str]) -> str:
    return f"{noun}{'s' if len(numbers) > 1 else ''} {listed(numbers)}"


def described(error: Exception) -> str:
    """Return type, text and place of an exception in one line, as a bug report needs them.

    The place is the last one in this repository's own code, if the exception came through any.
    """
    places = traceback.extract_tb(error.__traceback__)
    own = [
        place
        for place in places
        if Path(place.filename).is_relative_to(CODE) and "site-packages" not in place.filename
    ]
    place = (own or places)[-1]
    name = Path(place.filename).relative_to(CODE) if own else Path(place.filename).name
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text} (line {place.lineno} of {name})"
