"""The extremes of a metrics.jsonl, kept beside it so that a long log need not be read for them.

    metrics.summary.json
        {"sha256": …, "summary": {"offset_bytes": …, "tail_sha256": …, "metrics": [
            {"phase": …, "metric": …, "count": …, "least": row, "greatest": row, "last": row}, …]}}

A cache: the log is the truth. A summary covers the log up to an offset; what comes after is read
and added. One that is damaged, or whose log does not have the same bytes before the offset (it was
cut and has grown again: the times differ), is not used. A log of which an earlier line is edited by
hand is the one case that goes unnoticed: remove the summary then.
"""

import contextlib
import hashlib
import math
import os
from collections.abc import Iterable
from pathlib import Path

import msgspec
import polars as pl

from mlops.files import atomic
from mlops.files.journal import line_end
from mlops.files.jsonl import read_blocks
from mlops.metrics.rows import MetricRow, SoundRow, nonfinite_row, parse_rows

TAIL_BYTES = 4096


class Extremes(msgspec.Struct, kw_only=True):
    """Of one metric in one phase. NaN and infinities are never least or greatest."""

    phase: str
    metric: str
    count: int
    least: MetricRow | None  # the first of equals
    greatest: MetricRow | None  # the first of equals
    last: MetricRow


class _Summary(msgspec.Struct, kw_only=True):
    offset_bytes: int
    tail_sha256: str
    metrics: list[Extremes]


class _File(msgspec.Struct, kw_only=True):
    sha256: str
    summary: msgspec.Raw


def summary_path(log: Path) -> Path:
    return log.with_suffix(".summary.json")


def read_extremes(log: Path) -> list[Extremes]:
    """Of all metrics of the log as it is now, in the order of their first rows."""
    return _extended(log, None)


def update_summary(log: Path, *, most_bytes: int | None = None) -> None:
    """Bring the summary up to date, unless more than `most_bytes` of the log are new to it."""
    _extended(log, most_bytes)


def drop_stale_summary(log: Path) -> None:
    """Remove the summary if the log has been cut below what it covers."""
    if _load(log) is None:
        # One that cannot be removed, as a directory, is no summary and is never used.
        with contextlib.suppress(OSError):
            summary_path(log).unlink()


def _extended(log: Path, most_bytes: int | None) -> list[Extremes]:
    known = _load(log)
    begin = known.offset_bytes if known else 0
    metrics = known.metrics if known else []
    end = _end_of_lines(log, begin)
    if end == begin or (most_bytes is not None and end - begin > most_bytes):
        return metrics
    before = _tail_sha256(log, end)
    parts = read_blocks(log, _extremes_of_block, SoundRow, begin=begin, end=end)
    metrics = _merged([metrics, *parts])
    # If the log was cut and has grown meanwhile, these are not the extremes of what is there now.
    if before is not None and before == _tail_sha256(log, end):
        summary = _Summary(offset_bytes=end, tail_sha256=before, metrics=metrics)
        # A reader may lack the right to write here, or the disk be full.
        with contextlib.suppress(OSError):
            _save(log, summary)
    return metrics


def _load(log: Path) -> _Summary | None:
    try:
        file = msgspec.json.decode(summary_path(log).read_bytes(), type=_File)
        if hashlib.sha256(file.summary).hexdigest() != file.sha256:
            return None
        summary = msgspec.json.decode(file.summary, type=_Summary)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return None
    if _tail_sha256(log, summary.offset_bytes) != summary.tail_sha256:
        return None
    return summary


def _save(log: Path, summary: _Summary) -> None:
    content = msgspec.json.encode(summary)
    file = _File(sha256=hashlib.sha256(content).hexdigest(), summary=msgspec.Raw(content))
    atomic.write_bytes(summary_path(log), msgspec.json.encode(file) + b"\n", durable=False)


def _end_of_lines(log: Path, begin: int) -> int:
    descriptor = os.open(log, os.O_RDONLY)
    try:
        return line_end(descriptor, begin, os.fstat(descriptor).st_size)
    finally:
        os.close(descriptor)


def _tail_sha256(log: Path, offset: int) -> str | None:
    """Of the 4 KiB before `offset`; None if the log is shorter."""
    length = min(TAIL_BYTES, offset)
    with log.open("rb") as stream:
        stream.seek(offset - length)
        tail = stream.read(length)
    return hashlib.sha256(tail).hexdigest() if len(tail) == length else None


def _extremes_of_block(block: bytes) -> list[Extremes]:
    frame = parse_rows(block)
    number, value = pl.col("number"), pl.col("value")
    finite = value.filter(value.is_finite())
    groups = (
        frame.with_row_index("number")
        .group_by("phase", "metric", maintain_order=True)
        .agg(
            count=pl.len(),
            least=number.filter(value == finite.min()).first(),
            greatest=number.filter(value == finite.max()).first(),
            last=number.last(),
        )
    )
    return [
        Extremes(
            phase=phase,
            metric=metric,
            count=count,
            least=None if least is None else _row(frame, least),
            greatest=None if greatest is None else _row(frame, greatest),
            last=_row(frame, last),
        )
        for phase, metric, count, least, greatest, last in groups.iter_rows()
    ]


def _row(frame: pl.DataFrame, number: int) -> MetricRow:
    values = frame.row(number)
    return MetricRow(*values) if math.isfinite(values[4]) else nonfinite_row(*values)


def _merged(parts: Iterable[list[Extremes]]) -> list[Extremes]:
    """The parts in the order of the log; of equal rows the earlier stays."""
    whole: dict[tuple[str, str], Extremes] = {}
    for part in parts:
        for new in part:
            key = new.phase, new.metric
            old = whole.get(key)
            whole[key] = new if old is None else _joined(old, new)
    return list(whole.values())


def _joined(old: Extremes, new: Extremes) -> Extremes:
    return Extremes(
        phase=old.phase,
        metric=old.metric,
        count=old.count + new.count,
        least=_better(old.least, new.least, -1),
        greatest=_better(old.greatest, new.greatest, 1),
        last=new.last,
    )


def _better(old: MetricRow | None, new: MetricRow | None, sign: int) -> MetricRow | None:
    if old is None or new is None:
        return new if old is None else old
    assert old.value is not None and new.value is not None  # noqa: PT018, extremes are finite
    return new if sign * new.value > sign * old.value else old
