"""The user's table as text, in whatever form spreadsheets and scripts leave a CSV file.

Taken are UTF-8, with or without a byte order mark, and UTF-16 with one; lines that end in LF, CRLF
or CR; a first line `sep=;`; commas, semicolons, tabs or bars between the fields, and fields in
quotation marks. White space around the names of the columns is no part of them.
"""

import codecs
import csv
import io
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from video.index.spelling import plain

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}

_MARKS = {
    codecs.BOM_UTF8: ("utf-8-sig", "UTF-8 with a byte order mark"),
    codecs.BOM_UTF16_LE: ("utf-16", "UTF-16"),
    codecs.BOM_UTF16_BE: ("utf-16", "UTF-16"),
}
_SEPARATOR_LINE = re.compile(r'"?sep=(.)"?\1*(?:\r\n|\r|\n|$)', re.IGNORECASE)


class IndexFileError(ValueError):
    """The table as a whole cannot be used; `faults` has one sentence per fault."""

    def __init__(self, *faults: str) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows as texts, one below the header each, blank lines as rows of empty texts.

    form: what the file was taken for, in words.
    """

    frame: pl.DataFrame
    form: str


def read_table(content: bytes, wanted: Sequence[str]) -> Table:
    """Read a table; the separator is the one by which most of the `wanted` columns are there.

    Raises `IndexFileError`.
    """
    text, encoding = _decoded(content)
    named = _SEPARATOR_LINE.match(text)
    body = text[named.end() :] if named else text
    if not body.strip():
        raise IndexFileError("expected a header and rows, got an empty file; add the videos")
    separator = named[1] if named else _separator(body, wanted)
    form = f"{encoding}, fields separated by {SEPARATORS.get(separator, repr(separator))}"
    rows = _rows(body.lstrip("\r\n"), separator, first_line=2 if named else 1)
    return Table(frame=_frame(rows), form=form + (", as its first line says" if named else ""))


def _decoded(content: bytes) -> tuple[str, str]:
    known = [form for mark, form in _MARKS.items() if content.startswith(mark)]
    encoding, name = known[0] if known else ("utf-8", "UTF-8")
    try:
        return content.decode(encoding), name
    except UnicodeDecodeError as error:
        line = len(content[: error.start].splitlines() or [b""]) + content[: error.start].endswith(
            (b"\n", b"\r")
        )
        raise IndexFileError(
            f"line {line}: expected {name}, got byte {content[error.start]:#04x}; save it as UTF-8"
        ) from None


def _separator(text: str, wanted: Sequence[str]) -> str:
    header = next(line for line in text.splitlines() if line.strip())

    def columns_found(separator: str) -> int:
        names = next(csv.reader([header], delimiter=separator))
        return len(set(map(plain, names)) & set(map(plain, wanted)))

    return max(SEPARATORS, key=columns_found)  # of equals the first, the comma


def _rows(text: str, separator: str, *, first_line: int) -> list[list[str]]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        header, *rows = reader
    except csv.Error as error:
        raise IndexFileError(_unparsable(text, reader.line_num, error, first_line)) from None
    faults = []
    for number, row in enumerate(rows, start=1):
        # A separator at the end of each line makes fields that hold nothing.
        while len(row) > len(header) and not row[-1].strip():
            row.pop()
        if len(row) > len(header):
            noun = SEPARATORS.get(separator, repr(separator)).removesuffix("s")
            faults.append(
                f"row {number}: expected {len(header)} fields, got {len(row)}; quote a field that "
                f"holds a {noun}"
            )
        row += [""] * (len(header) - len(row))
    if faults:
        raise IndexFileError(*faults)
    return [header, *rows]


def _unparsable(text: str, line: int, error: csv.Error, first_line: int) -> str:
    marked = [number for number, one in enumerate(text.splitlines()) if one.count('"') % 2]
    if text.count('"') % 2:
        return (
            f"line {marked[0] + first_line}: expected quotation marks in pairs, got one without "
            "its second here or further down; quote the whole field and write a mark inside it "
            "twice"
        )
    return (
        f"line {line + first_line - 1}: expected a CSV table, got one that does not parse: "
        f"{error}; quote the whole field and write a mark inside it twice"
    )


def _frame(rows: Sequence[Sequence[str]]) -> pl.DataFrame:
    header, *others = rows
    names = [plain(name) for name in header]
    columns = list(zip(*others, strict=True)) if others else [()] * len(header)
    # A column without a name, as of a separator too many in each line.
    named = [
        (name, column)
        for name, column in zip(names, columns, strict=True)
        if name or any(field.strip() for field in column)
    ]
    counts = Counter(name for name, _ in named)
    if twice := [name for name, count in counts.items() if count > 1]:
        raise IndexFileError(
            *(
                f"expected every column once, got '{name}' more than once; remove or rename one"
                for name in twice
            )
        )
    return pl.DataFrame(dict(named), schema=dict.fromkeys(counts, pl.String))
