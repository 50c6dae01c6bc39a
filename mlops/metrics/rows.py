"""One metric as a line of JSON.

    {"step":40,"epoch":1,"phase":"val","metric":"accuracy","value":0.91,"time":1732341.5}

JSON has no NaN and no infinity, and one such token makes a whole file unreadable for Polars; they
are written as null with `"nonfinite": "nan" | "inf" | "-inf"` and mapped back on reading.
"""

import math
from typing import Annotated, Literal

import msgspec
import polars as pl

from mlops.files.jsonl import UnsoundError

COLUMNS: dict[str, type[pl.DataType]] = {
    "step": pl.Int64,
    "epoch": pl.Int64,
    "phase": pl.String,
    "metric": pl.String,
    "value": pl.Float64,
    "time": pl.Float64,
}

# As many as a column of Polars holds.
Count = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]


class MetricRow(msgspec.Struct, omit_defaults=True, gc=False):
    step: Count
    epoch: Count
    phase: str
    metric: str
    value: float | None
    time: float  # seconds since 1970
    nonfinite: Literal["", "nan", "inf", "-inf"] = ""


class SoundRow(MetricRow):
    """Row as it is read, which msgspec refuses without a value; a check would slow `log`."""

    def __post_init__(self) -> None:
        if self.value is None and not self.nonfinite:
            raise ValueError("expected a value")


def nonfinite_row(
    step: int, epoch: int, phase: str, metric: str, value: float, time: float
) -> MetricRow:
    """Return the row of NaN or an infinity."""
    name: Literal["nan", "inf", "-inf"] = "nan" if math.isnan(value) else "inf"
    return MetricRow(step, epoch, phase, metric, None, time, "-inf" if value == -math.inf else name)


def parse_rows(lines: bytes) -> pl.DataFrame:
    """Parse whole lines; raise a Polars error or `UnsoundError` if one is no row."""
    if not lines:
        return pl.DataFrame(schema=COLUMNS)
    # Both are costs of a whole column, and a log without a NaN has neither.
    if b'"nonfinite"' not in lines:
        frame = pl.read_ndjson(lines, schema=COLUMNS)
    else:
        frame = pl.read_ndjson(lines, schema=COLUMNS | {"nonfinite": pl.String})
        # "nan", "inf" and "-inf" are what the cast reads as such.
        value = pl.coalesce("value", pl.col("nonfinite").cast(pl.Float64))
        frame = frame.with_columns(value=value).select(*COLUMNS)
    if any(frame.null_count().row(0)):
        raise UnsoundError("expected all keys in each row")
    return frame
