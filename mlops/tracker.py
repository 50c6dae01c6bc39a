"""The log of a run: metrics.jsonl, one metric a line, appended and never rewritten.

    {"step":40,"epoch":1,"phase":"val","metric":"accuracy","value":0.91,"time":1732341.5}

Rows are encoded with msgspec and written with one `os.write` on an `O_APPEND` descriptor per
call: what `log` has returned from survives a kill of the process. JSON has no NaN and no
infinity, and one such token makes a whole file unreadable for Polars; they are written as null
with `"nonfinite": "nan" | "inf" | "-inf"` and mapped back on reading.
"""

import fcntl
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import polars as pl

from mlops.errors import PipelineError

SCHEMA = {
    "step": pl.Int64,
    "epoch": pl.Int64,
    "phase": pl.String,
    "metric": pl.String,
    "value": pl.Float64,
    "time": pl.Float64,
    "nonfinite": pl.String,
}


class _Row(msgspec.Struct, omit_defaults=True):
    step: int
    epoch: int
    phase: str
    metric: str
    value: float | None
    time: float
    nonfinite: str = ""


class ExperimentTracker:
    """Appends metrics to `run_dir`/metrics.jsonl; one writer a run, which holds its lock."""

    def __init__(self, run_dir: Path, run_id: str) -> None:
        self.run_id = run_id
        self.path = run_dir / "metrics.jsonl"
        self._orphans = run_dir / "orphans.jsonl"
        self._encoder = msgspec.json.Encoder()
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            # The kernel lets go of it when the process ends, however it ends.
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._descriptor)
            raise PipelineError(
                f"{run_dir}: expected a run that no process is in, got one that another process "
                "trains in; wait for its end, then run again"
            ) from None

    def log(self, metrics: Mapping[str, float], *, step: int, epoch: int, phase: str) -> None:
        """Append one row a metric. `step` counts optimizer steps, `epoch` from 0."""
        now = time.time()
        rows = [_row(step, epoch, phase, name, value, now) for name, value in metrics.items()]
        block = self._encoder.encode_lines(rows)
        # On a full disk a write can stop half-way; the next one then raises.
        while block:
            block = block[os.write(self._descriptor, block) :]

    def state_dict(self) -> dict[str, Any]:
        """Sync the log; what lies before `offset_bytes` belongs to the state being saved."""
        os.fdatasync(self._descriptor)
        return {"run_id": self.run_id, "offset_bytes": os.fstat(self._descriptor).st_size}

    def load_state_dict(self, state: Mapping[str, Any] | None) -> None:
        """Cut the log where the state was saved, so that no step is logged twice.

        Rows after that point go to orphans.jsonl. `None` stands for a run without a checkpoint.
        """
        offset = state["offset_bytes"] if state else 0
        size = os.fstat(self._descriptor).st_size
        if state and state["run_id"] != self.run_id:
            raise PipelineError(
                f"{self.path.parent}: expected a checkpoint of {self.run_id}, got one of "
                f"{state['run_id']}; remove the checkpoint and run again"
            )
        if offset > size:
            raise PipelineError(
                f"{self.path}: expected at least {offset} bytes, as the checkpoint says, got "
                f"{size}; put the file back, or remove the checkpoint and run again"
            )
        if offset and os.pread(self._descriptor, 1, offset - 1) != b"\n":
            raise PipelineError(
                f"{self.path}: expected the end of a line at byte {offset}, as the checkpoint "
                "says, got a changed file; put it back, or remove the checkpoint and run again"
            )
        if tail := os.pread(self._descriptor, size - offset, offset):
            with self._orphans.open("ab") as orphans:
                orphans.write(tail if tail.endswith(b"\n") else tail + b"\n")
                orphans.flush()
                os.fsync(orphans.fileno())
            os.ftruncate(self._descriptor, offset)
            os.fsync(self._descriptor)

    def get_metrics(self) -> pl.DataFrame:
        """The log as a frame of the columns step, epoch, phase, metric, value, time."""
        return read_metrics(self.path)

    def get_best_metric(self, metric: str, *, phase: str, maximize: bool) -> dict[str, Any] | None:
        """The row with the best finite value, the earliest of equals; None if there is none."""
        rows = self.get_metrics().filter(
            pl.col("metric") == metric, pl.col("phase") == phase, pl.col("value").is_finite()
        )
        if rows.is_empty():
            return None
        best = rows["value"].arg_max() if maximize else rows["value"].arg_min()
        assert best is not None  # the column is not empty
        return rows.row(best, named=True)

    def close(self) -> None:
        os.close(self._descriptor)


def read_metrics(path: Path) -> pl.DataFrame:
    """Read a metrics.jsonl, also one that is being written: a torn last line does not count."""
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    columns = [name for name in SCHEMA if name != "nonfinite"]
    if not whole:
        return pl.DataFrame(schema=SCHEMA).select(columns)
    frame = pl.read_ndjson(whole, schema=SCHEMA)
    # "nan", "inf" and "-inf" are what the cast reads as such.
    value = pl.coalesce("value", pl.col("nonfinite").cast(pl.Float64))
    return frame.with_columns(value=value).select(columns)


def _row(step: int, epoch: int, phase: str, metric: str, value: float, now: float) -> _Row:
    number = float(value)
    if math.isfinite(number):
        return _Row(int(step), int(epoch), phase, metric, number, now)
    return _Row(int(step), int(epoch), phase, metric, None, now, str(number))
