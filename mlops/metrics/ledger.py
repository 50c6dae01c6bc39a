"""The ledger of a run: which training samples every optimizer step saw.

    {"epoch":0,"step":12,"samples":[5,3]}

Samples are row numbers of the training table. It is cut back with the log when a run goes on from
a checkpoint, and so shows each step that is part of the final weights, once.
"""

from collections.abc import Sequence
from pathlib import Path

import msgspec
import polars as pl

from mlops.files.journal import Journal
from mlops.files.jsonl import UnsoundError, read_rows
from mlops.metrics.rows import Count

LEDGER = "ledger.jsonl"

COLUMNS: dict[str, pl.DataType | type[pl.DataType]] = {
    "epoch": pl.Int64,
    "step": pl.Int64,
    "samples": pl.List(pl.Int64),
}


class _Step(msgspec.Struct, gc=False):
    epoch: Count
    step: Count
    samples: list[Count]


class Ledger(Journal):
    """Writer of `run_dir`/ledger.jsonl; one per run, which holds its lock.

    Lines that are cut off go to ledger.orphans.jsonl.
    """

    def __init__(self, run_dir: Path | str) -> None:
        path = Path(run_dir) / LEDGER
        super().__init__(path, path.with_name("ledger.orphans.jsonl"))
        self._encode = msgspec.json.Encoder().encode_lines

    def record(self, *, epoch: int, step: int, samples: Sequence[int]) -> None:
        """Append the step's line. `samples` are rows of the training table, as in the batch."""
        rows = [int(row) for row in samples]
        self.append(self._encode([_Step(int(epoch), int(step), rows)]))


def read_ledger(path: Path) -> pl.DataFrame:
    """Return the columns epoch, step and samples (a list), one row per optimizer step.

    A torn last line does not count; lines that are no rows are left out with a warning.
    """
    return read_rows(path, _parse, _Step)


def _parse(lines: bytes) -> pl.DataFrame:
    frame = pl.read_ndjson(lines, schema=COLUMNS) if lines else pl.DataFrame(schema=COLUMNS)
    samples = frame["samples"].explode(empty_as_null=False, keep_nulls=False)
    if any(frame.null_count().row(0)) or samples.has_nulls():
        raise UnsoundError("expected all keys in each row")
    return frame
