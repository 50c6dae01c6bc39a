"""The table of predictions: one row per video or window, as a file and on the terminal."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from commands.predict.models import Prediction
from mlops.files.tables import aligned

DESCRIPTION = {
    "video_path": pl.String,
    "start_sec": pl.Float64,
    "end_sec": pl.Float64,
    "verdict": pl.String,
    "reason": pl.String,
    "warning": pl.String,
}
ALWAYS_PRINTED = ("video", "predicted", "probability")

WRITERS: Mapping[str, Callable[[pl.DataFrame, Path], object]] = {
    ".csv": pl.DataFrame.write_csv,
    ".json": pl.DataFrame.write_json,
    ".jsonl": pl.DataFrame.write_ndjson,
    ".parquet": pl.DataFrame.write_parquet,
}


def prediction_table(
    predictions: Sequence[Prediction],
    warnings: Sequence[Sequence[str | None]],
    labels: Sequence[str],
    *,
    top: int = 0,
    with_times: bool = False,
) -> pl.DataFrame:
    """Return one row per video, or per window of each.

    The columns are video_path, `with_times` start_sec and end_sec, verdict, reason, warning,
    predicted, predicted_<place> and predicted_<place>_probability of the `top` classes, and
    probability_<label> of each.
    """
    described, values = [], []
    for prediction, of_spans in zip(predictions, warnings, strict=True):
        found, reading = prediction.probabilities, prediction.reading
        for i, (span, warning) in enumerate(zip(reading.spans, of_spans, strict=True)):
            described.append((str(reading.path), *span, reading.verdict, reading.reason, warning))
            values.append(np.full(len(labels), np.nan) if found is None else found[i])
    table = pl.DataFrame(described, schema=DESCRIPTION, orient="row")
    if not with_times:
        table = table.drop("start_sec", "end_sec")
    matrix = np.stack(values)
    order = np.argsort(-matrix, axis=1, kind="stable")
    usable = ~np.isnan(matrix).any(axis=1)
    columns = [named("predicted", labels, order[:, 0], usable)]
    for place in range(top):
        chosen, name = order[:, place], f"predicted_{place + 1}"
        columns.append(named(name, labels, chosen, usable))
        columns.append(known(f"{name}_probability", matrix[np.arange(len(matrix)), chosen]))
    columns += [known(f"probability_{label}", matrix[:, i]) for i, label in enumerate(labels)]
    return table.with_columns(*columns)


def named(
    name: str, labels: Sequence[str], chosen: NDArray[np.int64], usable: NDArray[np.bool_]
) -> pl.Series:
    names = [labels[i] if ok else None for i, ok in zip(chosen, usable, strict=True)]
    return pl.Series(name, names, dtype=pl.String)


def known(name: str, values: NDArray[np.float64]) -> pl.Series:
    return pl.Series(name, values).fill_nan(None)


def print_table(table: pl.DataFrame, labels: Sequence[str], *, top: int = 0) -> None:
    """Print the rows, with `top` what comes next, and a column of remarks if there is one."""
    rows = [printed(row, labels, top) for row in table.iter_rows(named=True)]
    # Not the empty columns of what nobody asked for, or nobody needs.
    kept = [name for name in rows[0] if name in ALWAYS_PRINTED or any(row[name] for row in rows)]
    print(aligned(kept, [[row[name] for name in kept] for row in rows], numbers={"from", "to"}))


def printed(row: Mapping[str, Any], labels: Sequence[str], top: int) -> dict[str, str]:
    """Return the cells of a row by the titles of their columns."""
    start, end = (row.get(name) for name in ("start_sec", "end_sec"))
    cells = {
        "video": row["video_path"],
        "from": "" if start is None else f"{start:.2f} s",
        "to": "" if end is None else f"{end:.2f} s",
    }
    if row["predicted"] is None:
        remark = f"{row['verdict']}: {row['reason']}"
        return cells | {"predicted": "", "probability": "", "next": "", "remark": remark}
    following = [
        f"{row[f'predicted_{place}']} {row[f'predicted_{place}_probability']:.3f}"
        for place in range(2, top + 1)
    ]
    return cells | {
        "predicted": row["predicted"],
        "probability": f"{max(row[f'probability_{label}'] for label in labels):.3f}",
        "next": ", ".join(following),
        "remark": row["warning"] or "",
    }
