"""The ledger of a run: which training samples every optimizer step saw.

    {"epoch":0,"step":12,"samples":[5,3]}

Samples are row numbers of the training table. It is cut back with the log when a run goes on from
a checkpoint, and so shows each step that is part of the final weights, once.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
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

NAMED_SAMPLES = 5


class _Step(msgspec.Struct, gc=False):
    epoch: Count
    step: Count
    samples: list[Count]


class Ledger:
    """Appends to `run_dir`/ledger.jsonl; one writer a run, which holds its lock."""

    def __init__(self, run_dir: Path | str) -> None:
        self.path = Path(run_dir) / LEDGER
        self.journal = Journal(self.path, self.path.with_name("ledger.orphans.jsonl"))
        self._encode = msgspec.json.Encoder().encode_lines

    def record(self, *, epoch: int, step: int, samples: Sequence[int]) -> None:
        """Append the step's line. `samples` are rows of the training table, as in the batch."""
        rows = [int(row) for row in samples]
        self.journal.append(self._encode([_Step(int(epoch), int(step), rows)]))

    def state_dict(self) -> dict[str, Any]:
        return self.journal.state_dict()

    def load_state_dict(self, state: Mapping[str, Any] | None) -> None:
        """Cut the ledger where the state was saved; later lines go to ledger.orphans.jsonl."""
        self.journal.load_state_dict(state)

    def adopt(self, run_dir: Path, state: Mapping[str, Any]) -> None:
        """Begin with another run's ledger up to a state of it."""
        self.journal.adopt(run_dir / LEDGER, state)

    def sync(self) -> None:
        """Bring the ledger to the disk. Any thread may call it, before it renames a checkpoint."""
        self.journal.sync()

    def flush(self) -> None:
        """Write the lines that a full disk had no room for, or raise `PipelineError`."""
        self.journal.flush()

    def close(self) -> None:
        self.journal.close()


def read_ledger(path: Path) -> pl.DataFrame:
    """Return the columns epoch, step and samples (a list), one row per optimizer step.

    A torn last line does not count; lines that are no rows are left out with a warning.
    """
    return read_rows(path, _parse, _Step)


def check_ledger(
    ledger: pl.DataFrame, num_samples: int, *, num_epochs: int | None = None
) -> list[str]:
    """What speaks against each of `num_samples` samples having been seen once in every epoch.

    `num_epochs` epochs, counted from 0, are finished; unless it is given, all but the last one in
    the ledger. Of an epoch that is not finished, no sample need have been seen, but none twice.
    For training that draws samples with replacement this does not hold and is not to be asked.
    """
    last = ledger["epoch"].max()
    seen_epochs = last + 1 if isinstance(last, int) else 0
    finished = max(seen_epochs - 1, 0) if num_epochs is None else num_epochs
    faults = _faults_of_steps(ledger)
    by_epoch = ledger.partition_by("epoch", as_dict=True)
    for epoch in range(max(finished, seen_epochs)):
        steps = by_epoch.get((epoch,), ledger.clear())
        samples = steps["samples"].explode(empty_as_null=False).to_numpy()
        faults += _faults_of_epoch(epoch, samples, num_samples, is_finished=epoch < finished)
    return faults


def _faults_of_steps(ledger: pl.DataFrame) -> list[str]:
    twice = ledger.filter(pl.col("step").is_duplicated())["step"].unique().sort().to_list()
    return [f"steps recorded more than once: {_named(twice)}"] if twice else []


def _faults_of_epoch(
    epoch: int, samples: np.typing.NDArray[np.int64], num_samples: int, *, is_finished: bool
) -> list[str]:
    known = (samples >= 0) & (samples < num_samples)
    counts = np.bincount(samples[known], minlength=num_samples)
    kinds = {
        "never seen": np.flatnonzero(counts == 0) if is_finished else samples[:0],
        "seen more than once": np.flatnonzero(counts > 1),
        f"outside of 0 to {num_samples - 1}": np.unique(samples[~known]),
    }
    return [
        f"epoch {epoch}: samples {kind}: {_named(rows.tolist())}"
        for kind, rows in kinds.items()
        if len(rows)
    ]


def _named(numbers: list[int]) -> str:
    named = ", ".join(str(number) for number in numbers[:NAMED_SAMPLES])
    more = len(numbers) - NAMED_SAMPLES
    return f"{named} and {more} more" if more > 0 else named


def _parse(lines: bytes) -> pl.DataFrame:
    frame = pl.read_ndjson(lines, schema=COLUMNS) if lines else pl.DataFrame(schema=COLUMNS)
    samples = frame["samples"].explode(empty_as_null=False, keep_nulls=False)
    if any(frame.null_count().row(0)) or samples.has_nulls():
        raise UnsoundError("expected all keys in each row")
    return frame
