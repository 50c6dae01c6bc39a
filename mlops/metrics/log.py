"""The log of a run, and of several, read as tables.

Reading is safe while the run writes, and while it is cut back and goes on.
"""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import polars as pl

from mlops.errors import PipelineError
from mlops.files.jsonl import read_blocks
from mlops.metrics.rows import COLUMNS, SoundRow, parse_rows
from mlops.metrics.summary import read_extremes

LOG = "metrics.jsonl"

RUN_COLUMNS: dict[str, type[pl.DataType]] = {"run_id": pl.String, "experiment": pl.String}


def read_metrics(path: Path) -> pl.DataFrame:
    """The rows of a metrics.jsonl: step, epoch, phase, metric, value, time.

    A torn last line does not count; lines that are no rows are left out with a warning.
    """
    frames = read_blocks(path, parse_rows, SoundRow)
    return pl.concat([pl.DataFrame(schema=COLUMNS), *frames], rechunk=False)


def best_row(path: Path, metric: str, *, phase: str, maximize: bool) -> dict[str, Any] | None:
    """The row with the best finite value, the earliest of equals; None if there is none."""
    for extremes in read_extremes(path):
        if (extremes.phase, extremes.metric) == (phase, metric):
            row = extremes.greatest if maximize else extremes.least
            return {name: getattr(row, name) for name in COLUMNS} if row else None
    return None


def read_runs(run_dirs: Iterable[Path | str]) -> pl.DataFrame:
    """The logs of several runs in one frame, with the columns run_id and experiment in front."""
    frames = [read_metrics(log).select(*_names(log.parent), *COLUMNS) for log in _logs(run_dirs)]
    return pl.concat([pl.DataFrame(schema=RUN_COLUMNS | COLUMNS), *frames], rechunk=False)


def best_of_runs(
    run_dirs: Iterable[Path | str], metric: str, *, phase: str, maximize: bool
) -> pl.DataFrame:
    """The best row of each run, best run first; runs without a finite value are left out.

    Equal runs stay in the order given.
    """
    rows = []
    for log in _logs(run_dirs):
        if best := best_row(log, metric, phase=phase, maximize=maximize):
            rows.append({"run_id": log.parent.name, "experiment": log.parent.parent.name} | best)
    return pl.DataFrame(rows, schema=RUN_COLUMNS | COLUMNS).sort(
        "value", descending=maximize, maintain_order=True
    )


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
