"""Tables of videos: any with a column of paths and one of labels, or that of Kinetics."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import polars as pl

from commands.index.source import Lookup, Row, Source, folders_below, split_named
from mlops.errors import PipelineError
from mlops.files.tables import listed
from video.index.spelling import plain
from video.index.table import SEPARATORS, IndexFileError, read_table

# Names of columns, without case and signs, in the order in which they are taken.
LABELS = ("label", "labels", "class", "classname", "category", "target", "action", "tag", "y")
GROUPS = (
    *("group", "groupid", "dupgroup", "source", "sourceid", "sourcevideo", "youtubeid", "original"),
    *("subject", "subjectid", "person", "personid", "actor", "patient", "patientid"),
    *("session", "scene", "camera", "recording"),
)
SPLIT_COLUMNS = ("split", "subset", "set", "partition")

ROW = "\0row"  # which no column of a user's is called

KINETICS = ["label", "youtube_id", "time_start", "time_end"]

_SAMPLE_ROWS = 200  # enough to see which column names files


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Names of the user's columns, None to find them."""

    path: str | None = None
    label: str | None = None
    group: str | None = None


@dataclass(frozen=True, kw_only=True)
class VideoTable:
    """A table whose column `path` names files of the folder, and the columns found in it."""

    name: str
    frame: pl.DataFrame
    path: str
    label: str | None
    group: str | None
    split: str | None


def read(folder: Path, name: str) -> pl.DataFrame:
    """Read a table below `folder`: its lines that are not blank, their numbers as column `ROW`.

    Columns without a name, as of a data frame's own numbers, are left out. Raises `IndexFileError`.
    """
    content = (folder / name).read_bytes()
    marked = content.startswith((b"\xff\xfe", b"\xfe\xff"))
    text = content[:10_000].decode("utf-16" if marked else "utf-8-sig", errors="ignore")
    lines = [line for line in text.splitlines() if line.strip() and "sep=" not in line[:6]]
    # Whatever the columns are called, the right separator gives the most of them.
    names = re.split(f"[{''.join(SEPARATORS)}]", lines[0]) if lines else []
    frame = read_table(content, [column.strip(' "') for column in names]).frame
    filled = ~pl.all_horizontal(pl.col(frame.columns).str.strip_chars() == "")
    return frame.with_row_index(ROW, offset=1).filter(filled).drop("", strict=False)


def kinetics(folder: Path, tables: Mapping[str, pl.DataFrame], videos: Sequence[str]) -> Source:
    """Read tables in the form of Kinetics, whose videos were cut by a downloader, or not."""
    files = {PurePosixPath(path).stem: path for path in videos}
    source = Source(form="Kinetics' table", tables=list(tables))
    missing, uncut = [], 0
    for name, frame in tables.items():
        for row in frame.iter_rows(named=True):
            place, identity = f"{folder}/{name} row {row[ROW]}", row["youtube_id"].strip()
            span = _span(row)
            if span is None:
                source.faults.append(
                    f"{place}: expected numbers of seconds in time_start and time_end, got "
                    f"'{row['time_start']}' and '{row['time_end']}'; correct the row"
                )
                continue
            cut = files.get("{}_{:06.0f}_{:06.0f}".format(identity, *span))
            path = cut or files.get(identity)
            if path is None:
                missing.append(place)
                continue
            whole = cut is None
            uncut += whole
            source.rows.append(
                Row(
                    path=path,
                    label=plain(row["label"]),
                    place=place,
                    group=identity,
                    split=split_named(row.get("split") or split_of(name)),
                    others={
                        "start_sec": f"{span[0]:g}" if whole else "",
                        "end_sec": f"{span[1]:g}" if whole else "",
                    },
                )
            )
    if not uncut:
        source.rows = [_without_segment(row) for row in source.rows]
    else:
        source.warnings.append(
            f"{uncut} rows name videos that are not cut: start_sec and end_sec say which "
            "segments are meant, and load_data takes these"
        )
    if missing:
        source.warnings.append(
            f"{len(missing)} of {len(missing) + len(source.rows)} rows have no video here, as "
            f"{missing[0]}; expected <youtube_id>_<start>_<end> or <youtube_id> with any suffix"
        )
    return source


def _span(row: Mapping[str, str]) -> tuple[float, float] | None:
    try:
        return float(row["time_start"]), float(row["time_end"])
    except ValueError:
        return None


def _without_segment(row: Row) -> Row:
    return Row(**{**vars(row), "others": {}})


def find_columns(
    name: str, frame: pl.DataFrame, lookup: Lookup, choice: Choice
) -> VideoTable | None:
    """Return the table with the columns found; None if none names videos of the folder."""
    columns = frame.columns[1:]
    wanted = [column for column in vars(choice).values() if column is not None]
    if absent := [column for column in wanted if column not in columns]:
        raise IndexFileError(
            *(
                f"expected a column '{column}', got {listed(columns, 20)}; correct the option"
                for column in absent
            )
        )
    path = choice.path or _path_column(frame, lookup)
    if path is None:
        return None
    if "." in path and lookup.find(path):
        raise IndexFileError(
            f"line 1: expected the names of the columns, got a row with '{path}'; write a line "
            "above it, as video_path,label"
        )
    left = [column for column in columns if column not in (path, *wanted)]
    label = choice.label or _named(left, LABELS) or (left[0] if len(left) == 1 else None)
    left = [column for column in left if column != label]
    split = _named(left, SPLIT_COLUMNS)
    if split and not all(split_named(value) for value in frame[split].unique()):
        split = None
    return VideoTable(
        name=name,
        frame=frame,
        path=path,
        label=label,
        group=choice.group or _named(left, GROUPS),
        split=split,
    )


def _path_column(frame: pl.DataFrame, lookup: Lookup) -> str | None:
    """Return the column that names most videos, if it does so in more than half of its rows."""
    head = frame.head(_SAMPLE_ROWS)
    found = {
        column: sum(lookup.find(value) is not None for value in head[column])
        for column in frame.columns[1:]
    }
    best = max(found, key=lambda column: found[column], default=None)
    return best if best is not None and 2 * found[best] > head.height else None


def _named(columns: Sequence[str], names: Sequence[str]) -> str | None:
    known = {re.sub(r"[\W_]", "", column).casefold(): column for column in reversed(columns)}
    return next((known[name] for name in names if name in known), None)


def one_table(folder: Path, tables: Sequence[VideoTable]) -> list[VideoTable]:
    """Return the one table, or those that are parts of one: train.csv, val.csv and so on."""
    splits = [split_of(table.name) for table in tables]
    alike = len({tuple(table.frame.columns) for table in tables}) == 1
    if len(tables) > 1 and not (alike and all(splits) and len(set(splits)) == len(tables)):
        raise PipelineError(
            f"{folder}: expected one table of the videos, got {len(tables)}: "
            f"{listed([table.name for table in tables])}; choose with --table, as --table "
            f"{tables[0].name}"
        )
    return list(tables)


def split_of(name: str) -> str:
    """Return the split that the name of a file tells, as kinetics_val.csv."""
    words = re.findall(r"[^\W\d_]+", PurePosixPath(name).stem.casefold())
    told = {split_named(word) for word in words} - {""}
    return told.pop() if len(told) == 1 else ""


def rows_of_tables(folder: Path, tables: Sequence[VideoTable], lookup: Lookup) -> Source:
    first = tables[0]
    taken = {"path": first.path, "label": first.label, "group": first.group, "split": first.split}
    told = ", ".join(f"{key} '{column}'" for key, column in taken.items() if column)
    names = [table.name for table in tables]
    source = Source(form=f"table {listed(names)}: {told}", tables=names)
    for table in tables:
        source.rows += _rows(folder, table, lookup, source)
    return source


def _rows(folder: Path, table: VideoTable, lookup: Lookup, source: Source) -> Iterator[Row]:
    assert table.label is not None
    taken = (ROW, table.path, table.label, table.group, table.split)
    of_file = split_of(table.name)
    for row in table.frame.iter_rows(named=True):
        place = f"{folder}/{table.name} row {row[ROW]}"
        path, label = lookup.find(row[table.path]), plain(row[table.label])
        if path is None:
            source.warnings.append(no_video_named(place, row[table.path], folder))
            continue
        yield Row(
            path=path,
            label=label,
            place=place,
            folders=folders_below(label, path),
            group=plain(row[table.group]) if table.group else None,
            split=split_named(row[table.split]) if table.split else of_file,
            others={key: value for key, value in row.items() if key not in taken},
        )


def no_video_named(place: str, name: str, folder: Path) -> str:
    return (
        f"{place}: expected a video below {folder}, found none for '{name}'; put it there or "
        "remove the row, which the index leaves out"
    )
