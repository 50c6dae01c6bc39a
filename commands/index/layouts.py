"""The layouts in which people have videos, tried one after another."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import polars as pl

from commands.index.files import Files
from commands.index.lists import hmdb51, mmaction2, ucf101
from commands.index.source import Lookup, Row, Source, split_named
from commands.index.tables import (
    KINETICS,
    Choice,
    find_columns,
    kinetics,
    one_table,
    read,
    rows_of_tables,
)
from mlops.errors import PipelineError
from mlops.files.tables import listed
from video.index.spelling import plain
from video.index.table import IndexFileError

# A folder of such a name, if it holds all videos, is no class.
_HOLDERS = frozenset(("videos", "video", "data", "dataset", "clips", "ucf-101", "ucf101", "hmdb51"))


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """The choices of the command line about the source.

    table: the one to read, relative to the folder; None to find it.
    official_split: of UCF101 and HMDB51, which have three.
    """

    table: str | None
    columns: Choice
    official_split: int


def read_source(folder: Path, files: Files, wanted: Wanted) -> Source:
    """Read the first layout that fits: published lists, a table, or folders of classes."""
    names = [wanted.table] if wanted.table else files.tables
    if wanted.table and not (folder / wanted.table).is_file():
        known = f"; there is {listed(files.tables)}" if files.tables else ""
        raise PipelineError(
            f"--table: expected a file below {folder}, found no '{wanted.table}'{known}; give its "
            "path relative to the folder"
        )
    lookup = Lookup(folder, files.videos)
    source = (
        ucf101(folder, names, lookup, wanted.official_split)
        or hmdb51(folder, names, lookup, wanted.official_split)
        or mmaction2(folder, names, lookup)
    )
    if source:
        return source
    frames, unread = _frames(folder, names)
    if of_kinetics := {
        name: frame for name, frame in frames.items() if {*KINETICS} <= {*frame.columns}
    }:
        return kinetics(folder, of_kinetics, files.videos)
    tables = []
    for name, frame in frames.items():
        try:
            table = find_columns(name, frame, lookup, wanted.columns)
        except IndexFileError as error:
            unread += [f"{folder}/{name}: {fault}" for fault in error.faults]
            continue
        if table is None:
            unread.append(
                f"{folder}/{name}: expected a column that names videos below {folder}, found none; "
                "give their paths relative to it, or name the column with --path-column"
            )
        elif table.label is None:
            unread.append(
                f"{folder}/{name}: expected a column of labels, got the columns "
                f"{listed(frame.columns[1:], 20)}; call it label, or name it with --label-column"
            )
        else:
            tables.append(table)
    if tables:
        return rows_of_tables(folder, one_table(folder, tables), lookup)
    if unread and (wanted.table or wanted.columns != Choice()):
        raise PipelineError(*unread)
    source = folders_as_source(folder, files.videos, unread)
    # Most texts among videos are no tables of them.
    source.warnings += [fault for fault in unread if ".txt: " not in fault]
    return source


def _frames(folder: Path, names: Sequence[str]) -> tuple[dict[str, pl.DataFrame], list[str]]:
    """Return the tables, and why others cannot be read."""
    frames, faults = {}, []
    for name in names:
        try:
            frames[name] = read(folder, name)
        except IndexFileError as error:
            faults += [f"{folder}/{name}: {fault}" for fault in error.faults]
    # A text with one column is no table.
    tables = {name: frame for name, frame in frames.items() if frame.width > 2}
    return tables, faults


def folders_as_source(folder: Path, videos: Sequence[str], unread: Sequence[str] = ()) -> Source:
    """Read the classes, and the splits if there are, from the names of the folders.

    `unread` are the faults of tables, which are to blame if there are no folders.
    """
    parts = {path: PurePosixPath(path).parts[:-1] for path in videos}
    depth = _holders(folder, list(parts.values()))
    tops = {names[depth] for names in parts.values() if len(names) > depth}
    splits = {top: split_named(top) for top in tops}
    by_split = "train" in splits.values() and all(splits.values())
    of_class = depth + by_split
    source = Source(
        form=f"split folders {listed(sorted(tops))} over class folders"
        if by_split
        else "class folders"
    )
    for path, names in parts.items():
        if len(names) <= of_class:
            source.left_out[path] = "it lies in no folder of a class"
            continue
        source.rows.append(
            Row(
                path=path,
                label=plain(names[of_class]),
                place=f"{folder}/{path}",
                folders=names[of_class + 1 :],
                split=splits[names[depth]] if by_split else "",
            )
        )
    if not source.rows:
        raise PipelineError(
            *unread,
            f"{folder}: expected a folder for each class, or a table with a column of paths and "
            f"one of labels, got {len(videos)} videos side by side, as {listed(list(videos), 3)}; "
            "move the videos of each class into a folder of its name, or put a CSV file with the "
            "columns video_path and label beside them",
        )
    return source


def _holders(folder: Path, directories: Sequence[Sequence[str]]) -> int:
    """Return how many folders, one in another, hold all videos and are no classes."""
    names = _HOLDERS | {folder.name.casefold()}
    depth = 0
    while True:
        at = {parts[depth] if len(parts) > depth else "" for parts in directories}
        deeper = any(len(parts) > depth + 1 for parts in directories)
        if len(at) != 1 or not deeper or next(iter(at)).casefold() not in names:
            return depth
        depth += 1
