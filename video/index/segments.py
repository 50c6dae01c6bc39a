"""Segments: rows that name a part of a file, by their columns start_sec and end_sec.

A segment is a video of its own, named as a media fragment: "talk.mp4#t=12,20.5"
(https://www.w3.org/TR/media-frags/). Its times count from the file's first frame, and its frames
are those that begin in it. Its group is its file, if the index names none.
"""

import hashlib
import math
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any

import polars as pl

START, END = "start_sec", "end_sec"

# Times in whole seconds may lie beyond the end; the segment then ends with the file.
TOLERATED_SEC = 1

# Borders that people set by hand overlap a little.
_LEAST_SHARED = Fraction(1, 2)  # of the shorter one

Span = tuple[Fraction, Fraction | None]  # in seconds; None: up to the end of the file


def has_segments(table: pl.DataFrame) -> bool:
    """Return whether a column of the index or of the videos names parts of files."""
    return START in table.columns or END in table.columns


def span_of(row: Mapping[str, Any]) -> Span:
    """Return the span of a row, whose fields may be missing or empty.

    Raises `ValueError` with one sentence per fault, each on a line of its own.
    """
    faults: list[str] = []
    found: dict[str, Fraction | None] = {}
    for name in (START, END):
        text = (row.get(name) or "").strip()
        found[name] = None
        if text:
            try:
                found[name] = _seconds(text)
            except ValueError:
                faults.append(
                    f"{name}: expected seconds from the start of the file, as 12.5, got '{text}'"
                )
    start, end = found[START] or Fraction(0), found[END]
    if not faults and end is not None and start >= end:
        faults.append(f"{END}: expected more than {START}, {_shown(start)}, got {_shown(end)}")
    if faults:
        raise ValueError("\n".join(faults))
    return start, end


def _seconds(text: str) -> Fraction:
    value = float(text)
    if not 0 <= value < math.inf:
        raise ValueError
    return Fraction(text)


def _shown(seconds: Fraction) -> str:
    return repr(float(seconds)).removesuffix(".0")


def named(path: str, span: Span) -> str:
    """Return the name of a segment, that of the file if it is the whole of it."""
    start, end = span
    if end is None:
        return f"{path}#t={_shown(start)}" if start else path
    return f"{path}#t={_shown(start)},{_shown(end)}"


def segment_frames(video: Mapping[str, Any], span: Span) -> tuple[int, int]:
    """Return the first frame of a segment and the one after its last, of a file's facts.

    Raises `ValueError` if the segment is not in the file.
    """
    start, end = span
    num_frames: int = video["num_frames"]
    if start == 0 and end is None:
        return 0, num_frames
    rate, pts, end_pts = Fraction(video["fps"]), video["frame_pts"], video["end_pts"]
    if end_pts is None and not rate:
        raise ValueError("expected the whole file, for it states no times; empty the fields")
    if end_pts is None:
        duration = num_frames / rate
    else:
        duration = (end_pts - pts[0]) * Fraction(video["time_base"])
    if start >= duration or (end is not None and end > duration + TOLERATED_SEC):
        raise ValueError(
            f"expected a segment of the {float(duration):.2f} s that the file lasts, got "
            f"{named('', span).removeprefix('#t=')}; mend its times"
        )

    def first_from(time: Fraction) -> int:
        if end_pts is None:
            return min(math.ceil(time * rate), num_frames)
        return bisect_left(pts, pts[0] + time / Fraction(video["time_base"]))

    return first_from(start), num_frames if end is None else first_from(end)


def contradictory_segments(rows: pl.DataFrame, told: Sequence[str]) -> Iterator[tuple[int, str]]:
    """Yield the rows of one file that overlap by half although their `told` differ, and why.

    `rows` have spans, and no two have the same.
    """
    spans = [(*span_of(row), row) for row in rows.iter_rows(named=True)]
    spans.sort(key=lambda item: (item[0], item[2]["row"]))
    for i, (start, end, row) in enumerate(spans):
        for other_start, other_end, other in spans[i + 1 :]:
            if end is not None and other_start >= end:
                break
            lasts = [b - a for a, b in ((start, end), (other_start, other_end)) if b is not None]
            ends = [each for each in (end, other_end) if each is not None]
            shared = min(ends) - other_start if ends else None
            differs = [name for name in told if row[name] != other[name]]
            if differs and (shared is None or shared > min(lasts) * _LEAST_SHARED):
                word = {"given_split": "split"}.get(differs[0], differs[0])
                for one, two in ((row, other), (other, row)):
                    yield one["row"], f"the {word} differs from row {two['row']}, which overlaps it"


def with_group_of_file(index: pl.DataFrame) -> pl.DataFrame:
    """Return the index with the file as the group of each segment that has none."""
    if not has_segments(index):
        return index
    return index.with_columns(pl.col("group").fill_null(pl.col("video_path")))


def segment_sha256(sha256: str, span: Span) -> str:
    """Return the hash that stands for the content of a segment: of its file's and its times."""
    name = named("", span)
    return hashlib.sha256(f"{sha256}{name}".encode()).hexdigest() if name else sha256


def with_segments(videos: pl.DataFrame) -> pl.DataFrame:
    """Return the videos with a segment where a row names one; unchanged if no row can.

    `video_path`, `sha256` and `duration_sec` become those of the segment; `file_path`,
    `file_sha256`, `first_frame` and `end_frame` (the one after the last) come. The other facts stay
    those of the file.
    """
    if not has_segments(videos):
        return videos
    rows = [_segment(row) for row in videos.iter_rows(named=True)]
    schema = {
        **{"video_path": pl.String, "sha256": pl.String, "duration_sec": pl.Float64},
        **{START: pl.Float64, END: pl.Float64, "first_frame": pl.Int64, "end_frame": pl.Int64},
    }
    kept = videos.with_columns(file_path="video_path", file_sha256="sha256")
    return kept.with_columns(pl.DataFrame(rows, schema=schema).get_columns())


def _segment(row: Mapping[str, Any]) -> dict[str, Any]:
    span = span_of(row)
    first, end_frame = segment_frames(row, span)
    start, end = span
    until = row["duration_sec"] if end is None else min(float(end), row["duration_sec"])
    return {
        "video_path": named(row["video_path"], span),
        "sha256": segment_sha256(row["sha256"], span),
        "duration_sec": until - float(start),
        START: float(start),
        END: until,
        "first_frame": first,
        "end_frame": end_frame,
    }
