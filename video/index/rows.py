"""The user's table of videos: checked row by row, so that one bad row costs one row.

A fault of the table as a whole (no such column, not UTF-8, no rows) raises `IndexFileError`, all of
them at once. A fault of a row becomes a `Rejection` with row, path and reason.
"""

import difflib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path, PurePosixPath
from typing import Any

import polars as pl

from video.index.segments import (
    contradictory_segments,
    has_segments,
    segment_frames,
    segment_sha256,
    span_of,
)
from video.index.spelling import Spellings, plain, settled
from video.index.table import IndexFileError, Table
from video.source.facts import VideoFacts, too_short

# Columns that later stages add; a user's column of such a name is renamed to `csv_<name>`.
RESERVED = frozenset(field.name for field in fields(VideoFacts)) | frozenset(
    (
        *("row", "video_path", "label", "group", "linked_group", "given_split", "split", "fold"),
        *("pack", "clip", "offset_bytes", "frames", "dtype", "clip_sha256", "copy"),
        *("file_path", "file_sha256", "first_frame", "end_frame"),
    )
)

# What pandas, R and spreadsheets write for a missing value.
_NOTHING = frozenset(("nan", "-nan", "na", "n/a", "#n/a", "#na", "<na>", "null", "none", "nat"))

# What data sets call the parts of a split.
_PARTS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}

Fault = tuple[str, str]  # verdict and reason
# The first of these is the verdict of a row with several faults.
_GRAVEST_FIRST = ["missing", "contradiction", "duplicate", "invalid"]


@dataclass(frozen=True, kw_only=True)
class Columns:
    """The user's names of the columns; without a name, none gives the split."""

    path: str
    label: str
    group: str
    split: str = ""


@dataclass(frozen=True, kw_only=True)
class Rejection:
    """A row that cannot be used. `row` counts from 1 below the header.

    verdict: "missing" (no such file), "invalid" (the row itself is at fault), "duplicate" or
    "contradiction" (other rows name the same file or segment, or the same bytes), "too_short"
    (fewer frames than asked for, as of a picture), or that of the video's inspection, see
    `VideoFacts`.
    """

    row: int
    video_path: str
    verdict: str
    reason: str


def read_index(table: Table, columns: Columns) -> pl.DataFrame:
    """Return the rows: `row, video_path, label, group` and the other columns, all as text.

    An empty group is null: such a video is a group of its own. Labels and groups are without white
    space around them and in Unicode's normal form NFC, so that what looks the same is the same.
    A column that gives the split becomes `given_split`: train, val or test.
    """
    frame = table.frame
    wanted = {key: plain(name) for key, name in vars(columns).items() if name}
    missing = [name for name in wanted.values() if name not in frame.columns]
    if missing:
        # Without the group column, copies of one video could end up in training and test. So the
        # table is refused, not taken as "every video is its own group".
        raise IndexFileError(
            *(
                f"expected a column '{name}', got the columns {_shown(frame.columns)}; add it, or "
                f"name yours in params.yaml at data.{key}_column"
                for key, name in wanted.items()
                if name in missing
            )
        )
    others = {
        name: f"csv_{name}" if name in RESERVED else name
        for name in frame.columns
        if name not in wanted.values()
    }
    taken = [name for name, kept in others.items() if kept != name and kept in others]
    if taken:
        raise IndexFileError(
            *(
                f"expected no column 'csv_{name}' beside '{name}', which is kept under that name; "
                "rename one of them"
                for name in taken
            )
        )
    # Blank lines are no rows but count as such, so that `row` is the line below the header.
    blank = pl.all_horizontal(pl.col(frame.columns).str.strip_chars() == "")
    rows = pl.int_range(1, frame.height + 1, dtype=pl.Int64).alias("row")
    index = frame.select(
        rows,
        pl.col(wanted["path"]).alias("video_path"),
        _plain(wanted["label"]).alias("label"),
        _plain(wanted["group"]).replace("", None).alias("group"),
        *(_part(name).alias("given_split") for key, name in wanted.items() if key == "split"),
        *(pl.col(name).alias(kept) for name, kept in others.items()),
    ).filter(~frame.select(blank).to_series())
    if index.is_empty():
        raise IndexFileError("expected at least one row below the header, got none; add the videos")
    faults = list(_groups_of_nothing(index, wanted["group"]))
    if "split" in wanted:
        faults += _unknown_parts(index, wanted["split"])
    if faults:
        raise IndexFileError(*faults)
    return index


def _plain(column: str) -> pl.Expr:
    return pl.col(column).str.normalize("NFC").str.strip_chars()


def _part(column: str) -> pl.Expr:
    return _plain(column).str.to_lowercase().replace(_PARTS)


def _unknown_parts(index: pl.DataFrame, column: str) -> Iterator[str]:
    unknown = index.filter(~pl.col("given_split").is_in(sorted(set(_PARTS.values()))))
    for name, rows in unknown.group_by("given_split", maintain_order=True):
        yield (
            f"{column}: expected train, val or test in each row, got '{name[0]}' in "
            f"{rows.height} of them, the first of which is row {rows['row'][0]}; mend them, or "
            "leave data.split_column empty: the pipeline then splits by itself"
        )
    if unknown.is_empty():
        parts = set(index["given_split"])
        for part in sorted({"train", "test"} - parts):
            remedy = "val may be missing, for folds of train can validate"
            yield f"{column}: expected rows of train and of test, got none of {part}; {remedy}"


def _groups_of_nothing(index: pl.DataFrame, column: str) -> Iterator[str]:
    """Find groups that several videos are in and that are no name but a word for "no value".

    Whether they are one group or none, only their owner knows.
    """
    sizes = index["group"].drop_nulls().value_counts(sort=True)
    for name, count in sizes.filter(pl.col("count") > 1).iter_rows():
        if name.casefold() in _NOTHING:
            yield (
                f"{column}: expected the name of a group or an empty field, got '{name}' in "
                f"{count} rows, which programs write for a missing value; leave the field empty "
                "for videos of no group, or give the group another name"
            )


def _shown(names: Sequence[object], max_names: int = 20) -> str:
    more = len(names) - max_names
    return ", ".join(map(str, names[:max_names])) + (f" and {more} more" if more > 0 else "")


def settle_paths(index: pl.DataFrame, root: Path) -> pl.DataFrame:
    """Return the index with each path as the file below `root` is spelled: see `settled`."""
    names = index["video_path"].unique().to_list()
    spelled = [settled(name, root) for name in names]
    return index.with_columns(pl.col("video_path").replace(names, spelled))


def alike_names(names: pl.Series) -> list[list[str]]:
    """Return the names that differ in case or white space alone, sorted."""
    spelled: dict[str, list[str]] = {}
    for name in names.drop_nulls().unique().sort():
        spelled.setdefault("".join(name.casefold().split()), []).append(name)
    return [names for names in spelled.values() if len(names) > 1]


def check_rows(
    frame: pl.DataFrame, root: Path, labels: Sequence[str]
) -> tuple[pl.DataFrame, list[Rejection]]:
    """Split the rows into those that name an existing file below `root`, and rejections.

    Each row is in exactly one of the two; the reason of a rejection names all faults of the row.
    """
    repeated = _repeated(frame)
    files = Spellings(root)
    rejections: list[Rejection] = []
    for row in frame.iter_rows(named=True):
        faults = [
            *_path_faults(row["video_path"], root, files),
            *_label_faults(row["label"], labels),
            *_span_faults(row),
            *repeated.get(row["row"], []),
        ]
        if faults:
            verdicts, reasons = zip(*faults, strict=True)
            rejections.append(
                Rejection(
                    row=row["row"],
                    video_path=row["video_path"],
                    verdict=min(verdicts, key=_GRAVEST_FIRST.index),
                    reason="; ".join(reasons),
                )
            )
    return _without(frame, rejections), rejections


def accept_rows(
    frame: pl.DataFrame,
    facts: Mapping[str, VideoFacts],
    verdicts: Sequence[str],
    min_frames: int = 1,
) -> tuple[pl.DataFrame, list[Rejection]]:
    """Split the rows into those with an accepted verdict and so many frames, and rejections.

    `facts` is by video path. Of copies whose labels contradict each other, none is accepted.
    """
    refused, sha256s = [], []
    for row in frame.iter_rows(named=True):
        found = facts[row["video_path"]]
        fault = _unusable(row, found, verdicts, min_frames)
        if fault:
            verdict, reason = fault
            refused.append(
                Rejection(
                    row=row["row"], video_path=row["video_path"], verdict=verdict, reason=reason
                )
            )
        else:
            sha256s.append(segment_sha256(found.sha256, span_of(row)))
    refused += contradictory_copies(_without(frame, refused), sha256s)
    return _without(frame, refused), refused


def _unusable(
    row: Mapping[str, Any], facts: VideoFacts, verdicts: Sequence[str], min_frames: int
) -> Fault | None:
    if facts.verdict not in verdicts:
        return facts.verdict, facts.reason
    try:
        first, end = segment_frames(vars(facts), span_of(row))
    except ValueError as error:
        return "invalid", str(error)
    return too_short(facts, end - first, min_frames)


def _without(frame: pl.DataFrame, rejections: Sequence[Rejection]) -> pl.DataFrame:
    return frame.filter(~pl.col("row").is_in([rejection.row for rejection in rejections]))


def names_a_file(video_path: str, root: Path) -> bool:
    """Return whether a path leads to a file below `root`, whatever other faults its row has."""
    return not _path_faults(video_path, root, None)


def contradictory_copies(frame: pl.DataFrame, sha256: Sequence[str]) -> list[Rejection]:
    """Reject the rows whose files are equal by `sha256` but whose labels differ.

    The right label is unknown, so none of the rows is used.
    """
    table = frame.select("row", "video_path", "label").with_columns(
        sha256=pl.Series(sha256, dtype=pl.String)
    )
    return [
        Rejection(
            row=row,
            video_path=video_path,
            verdict="contradiction",
            reason=f"row {others} holds the same bytes with another label",
        )
        for copies in table.partition_by("sha256", maintain_order=True)
        if copies["label"].n_unique() > 1
        for row, video_path in copies.select("row", "video_path").iter_rows()
        for others in [_others(copies["row"].to_list(), row)]
    ]


def _path_faults(video_path: str, root: Path, files: Spellings | None) -> list[Fault]:
    """Return what is wrong with a path; `files` are those that it may mean, if that is asked."""
    if not video_path:
        return [("invalid", "video_path is empty")]
    # Not resolved: links below the root are intended, as `data/mine` may be a link to a disk.
    if Path(video_path).is_absolute() or ".." in Path(video_path).parts:
        reason = f"video_path '{video_path}' leaves {root}; give a path below it, without '..'"
        return [("invalid", reason + _meant(video_path, files))]
    path = root / video_path
    try:
        os.fsencode(path)
        if path.is_file():
            return []
        found = path.exists()
    except UnicodeEncodeError as error:
        reason = f"has signs that the locale's encoding, {error.encoding}, lacks"
        return [("invalid", f"video_path '{video_path}' {reason}; run export LC_ALL=C.UTF-8")]
    except OSError as error:
        return [("invalid", f"video_path '{video_path}' cannot be looked up: {error.strerror}")]
    if found:
        return [("invalid", f"video_path '{video_path}' is no file; name the video itself")]
    reason = f"video_path '{video_path}' not found under {root}; put the file there or drop the row"
    return [("missing", reason + _meant(video_path, files))]


def _meant(video_path: str, files: Spellings | None) -> str:
    near = files.near(video_path) if files else None
    return f", or write '{near}', which is there" if near else ""


def unknown_labels(index: pl.DataFrame, labels: Sequence[str]) -> list[str]:
    """Return a sentence for each label of the index that is none of `labels`."""
    near = {label.casefold(): label for label in labels}
    counts = index["label"].value_counts().sort(["count", "label"], descending=[True, False])
    sentences = []
    for label, count in counts.filter(~pl.col("label").is_in(list(labels))).iter_rows():
        close = difflib.get_close_matches(label.casefold(), near, n=1)
        advice = f"did you mean {near[close[0]]}?" if close else "add it there, or mend the rows"
        known = _shown(labels)
        rows = f"{count} row{'s' if count > 1 else ''}"
        sentences.append(f"label '{label}' ({rows}) is not in data.labels [{known}]; {advice}")
    return sentences


def _label_faults(label: str, labels: Sequence[str]) -> list[Fault]:
    if label in labels:
        return []
    return [("invalid", f"label: expected one of {', '.join(labels)}, got '{label}'")]


def _span_faults(row: Mapping[str, Any]) -> list[Fault]:
    try:
        span_of(row)
    except ValueError as error:
        return [("invalid", fault) for fault in str(error).splitlines()]
    return []


def _repeated(frame: pl.DataFrame) -> dict[int, list[Fault]]:
    """Return the fault of each row whose video another row names too, in whatever spelling.

    If the labels (and given parts) agree, the first row stays; `linked_groups` joins their groups.
    If they differ, the right one is unknown, so none of the rows is used.
    """
    faults: dict[int, list[Fault]] = {}
    told = [name for name in ("label", "given_split") if name in frame.columns]
    what = "segment" if has_segments(frame) else "file"
    named = frame.filter(pl.col("video_path") != "")
    spelled_alike = [str(PurePosixPath(path)) for path in named["video_path"]]
    spans = [
        None if _span_faults(row) else str(span_of(row)) for row in named.iter_rows(named=True)
    ]
    named = named.with_columns(
        pl.Series("file", spelled_alike, dtype=pl.String), pl.Series("span", spans, dtype=pl.String)
    ).drop_nulls("span")
    for rows in named.partition_by("file", maintain_order=True):
        if rows.height == 1:
            continue
        for alike in rows.partition_by("span", maintain_order=True):
            faults |= _same(alike, told, what)
        segments = rows.unique("span", keep="first", maintain_order=True)
        for row, reason in contradictory_segments(segments, told) if segments.height > 1 else ():
            faults.setdefault(row, [("contradiction", reason)])
    return faults


def _same(rows: pl.DataFrame, told: Sequence[str], what: str) -> dict[int, list[Fault]]:
    differs = [name for name in told if rows[name].n_unique() > 1]
    numbers = rows["row"].to_list()
    if not differs:
        reason = f"row {numbers[0]} names the same {what}"
        return {number: [("duplicate", reason)] for number in numbers[1:]}
    word = {"label": "label", "given_split": "split"}[differs[0]]
    return {
        number: [
            (
                "contradiction",
                f"the {word} differs from row {_others(numbers, number)} of the same {what}",
            )
        ]
        for number in numbers
    }


def _others(rows: Sequence[int], row: int) -> str:
    """Return the other rows, the first of them: thousands of rows may name one file."""
    first = [other for other in rows[:7] if other != row][:5]
    return _shown(first + [0] * (len(rows) - 1 - len(first)), 5)
