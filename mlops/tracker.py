"""Tracker of a run: metrics.jsonl, metadata.json and config.json in its directory.

Metrics are appended, one per line, and never rewritten; `mlops.metrics.log` reads them. Rows are
encoded with msgspec and written with one `os.write` a call: what `log` has returned from survives
a kill of the process.
"""

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import msgspec
import polars as pl

from mlops.errors import PipelineError
from mlops.files import atomic
from mlops.files.canonical import config_document
from mlops.files.journal import Journal
from mlops.metrics.log import LOG, best_row, read_metrics
from mlops.metrics.rows import MetricRow, nonfinite_row
from mlops.run.directory import write_metadata


class Config(Protocol):
    def to_dict(self) -> dict[str, Any]: ...


class ExperimentTracker:
    """Writer of `run_dir`/metrics.jsonl; one per run, which holds its lock."""

    def __init__(self, run_dir: Path | str, run_id: str) -> None:
        """Open the log of a run directory, as `create_run_directory` makes one.

        Raises `PipelineError` if there is none, or if another process has the log open.
        """
        self.run_id = run_id
        self.run_dir = Path(run_dir)
        self.path = self.run_dir / LOG
        self.journal = Journal(self.path)
        self._append = self.journal.append
        self._encode = msgspec.json.Encoder().encode_lines

    def log(self, metrics: Mapping[str, float], *, step: int, epoch: int, phase: str) -> None:
        """Append one row per metric. `step` counts optimizer steps, `epoch` from 0.

        `phase` is any name; the train stage writes "step", "train" and "val". NaN and infinities
        are kept, and never the best. Where the disk is full, rows wait in memory and are written
        when there is room: `flush` tells.
        """
        now = time.time()
        step, epoch = int(step), int(epoch)
        # Spelled out in one expression: this is called in every step of training.
        self._append(
            self._encode(
                [
                    MetricRow(step, epoch, phase, name, number, now)
                    if math.isfinite(number := float(value))
                    else nonfinite_row(step, epoch, phase, name, number, now)
                    for name, value in metrics.items()
                ]
            )
        )

    def log_metadata(self, entries: Mapping[str, Any]) -> None:
        """Add or replace entries of metadata.json."""
        write_metadata(self.run_dir, **entries)

    def log_config(self, config: Mapping[str, Any] | Config) -> None:
        """Write config.json: the configuration, a mapping or what has `to_dict`, and its hash."""
        document = dict(config) if isinstance(config, Mapping) else config.to_dict()
        atomic.write_json(self.run_dir / "config.json", config_document(document))

    def get_metrics(self) -> pl.DataFrame:
        """Return the log as a frame of step, epoch, phase, metric, value, and time in seconds since
        1970."""
        self.flush()
        return read_metrics(self.path)

    def get_best_metric(self, metric: str, *, phase: str, maximize: bool) -> dict[str, Any] | None:
        """Return the row with the best finite value, the earliest of equals; None if there is none.

        Best is the highest if `maximize`, else the lowest. The row is a dict with the keys step,
        epoch, phase, metric, value and time.
        """
        return best_row(self.path, metric, phase=phase, maximize=maximize)

    def state_dict(self) -> dict[str, Any]:
        """Return the run and the length of its log; call `sync` before the state is kept."""
        return {"run_id": self.run_id, **self.journal.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any] | None) -> None:
        """Cut the log where the state was saved, so that no step is logged twice.

        Rows after that point go to orphans.jsonl. `None` stands for a run without a checkpoint.
        """
        if state and state["run_id"] != self.run_id:
            raise PipelineError(
                f"{self.run_dir}: expected a checkpoint of {self.run_id}, got one of "
                f"{state['run_id']}; remove the checkpoint and run again"
            )
        self.journal.load_state_dict(state)

    def adopt(self, run_dir: Path, state: Mapping[str, Any]) -> None:
        """Begin with another run's log up to a state of its tracker."""
        self.journal.adopt(run_dir / LOG, state)

    def sync(self) -> None:
        """Flush the log to disk. Any thread may call it, before it renames a checkpoint."""
        self.journal.sync()

    def flush(self) -> None:
        """Write the rows that a full disk had no room for, or raise `PipelineError`."""
        self.journal.flush()

    def close(self) -> None:
        self.flush()
        self.journal.close()
