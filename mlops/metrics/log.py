"""The log of a run, and of several, read as tables.

Reading is safe while the run writes, and while it is cut back and goes on.
"""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from mlops.errors import PipelineError
from mlops.files.jsonl import read_rows
from mlops.metrics.rows import COLUMNS, SoundRow, parse_rows

LOG = "metrics.jsonl"

RUN_COLUMNS: dict[str, type[pl.DataType]] = {"run_id": pl.String, "experiment": pl.String}


class Extremes(NamedTuple):
    """Min, max and last value of one metric in one phase. NaN and infinities are no extremes."""

    phase: str
    metric: str
    min: float | None
    max: float | None
    last: float
    last_epoch: int


def read_metrics(path: Path) -> pl.DataFrame:
    """Return the rows of a metrics.jsonl: step, epoch, phase, metric, value, time.

    A torn last line does not count; lines that are no rows are left out with a warning.
    """
    return read_rows(path, parse_rows, SoundRow)


def read_extremes(path: Path) -> list[Extremes]:
    """Return those of all metrics of a log, in the order of their first rows."""
    value = pl.col("value")
    finite = value.filter(value.is_finite())
    groups = read_metrics(path).group_by("phase", "metric", maintain_order=True)
    found = groups.agg(
        finite.min().alias("min"),
        finite.max().alias("max"),
        value.last(),
        pl.col("epoch").last(),
    )
    return [Extremes(*row) for row in found.iter_rows()]


def best_row(path: Path, metric: str, *, phase: str, maximize: bool) -> dict[str, Any] | None:
    """Return the row with the best finite value, the earliest of equals; None if there is none."""
    value = pl.col("value")
    rows = read_metrics(path).filter(
        pl.col("phase") == phase, pl.col("metric") == metric, value.is_finite()
    )
    best = rows.filter(value == (value.max() if maximize else value.min()))
    return None if best.is_empty() else best.row(0, named=True)


def read_runs(run_dirs: Iterable[Path | str]) -> pl.DataFrame:
    """Return the logs of several runs in one frame, run_id and experiment in front."""
    frames = [read_metrics(log).select(*_names(log.parent), *COLUMNS) for log in _logs(run_dirs)]
    return pl.concat([pl.DataFrame(schema=RUN_COLUMNS | COLUMNS), *frames], rechunk=False)


def _logs(run_dirs: Iterable[Path | str]) -> list[Path]:
    """Return the logs of the runs that have logged; raise for all paths that are not there.

    Other files and directories, which a pattern such as `runs/*/run_*` may match, have no log.
    """
    paths = [Path(run_dir).absolute() for run_dir in run_dirs]
    if missing := [path for path in paths if not os.path.lexists(path)]:
        raise PipelineError(
            *(f"{path}: expected the directory of a run, found none" for path in missing)
        )
    return [path / LOG for path in paths if (path / LOG).is_file()]


def _names(run_dir: Path) -> list[pl.Expr]:
    return [pl.lit(run_dir.name).alias("run_id"), pl.lit(run_dir.parent.name).alias("experiment")]
