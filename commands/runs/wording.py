"""Values of runs as text."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from mlops.run.records import RunRecord

DIGITS = 8  # of a hash
BLOCKS = "▁▂▃▄▅▆▇█"
MAX_BLOCKS = 24


def epochs(record: RunRecord) -> str:
    wanted = record.parameters.get("train.epochs")
    return f"{record.num_epochs}" if wanted is None else f"{record.num_epochs}/{wanted}"


def metric_text(value: float | None) -> str:
    """Format the value of a metric; "" for None.

    >>> metric_text(0.96667), metric_text(0.00002), metric_text(None)
    ('0.9667', '2e-05', '')
    """
    if value is None:
        return ""
    return f"{value:.3g}" if 0 < abs(value) < 1e-3 else f"{value:.4f}"


def text(value: Any) -> str:
    """Return a value of a configuration; an empty text if there is none."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value)


def duration(sec: float) -> str:
    """Format a duration in at most two units.

    >>> duration(11), duration(754), duration(100_000)
    ('11 s', '12 min 34 s', '27 h 46 min')
    """
    whole = round(sec)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def sparklines(curves: Sequence[Sequence[float]]) -> list[str]:
    """Draw curves on one scale, a longer one by the last value of each of `MAX_BLOCKS` parts.

    >>> sparklines([[0.0, 0.5, math.nan], [1.0], []])
    ['▁▅×', '█', '']
    """
    finite = [value for curve in curves for value in curve if math.isfinite(value)]
    low, high = min(finite, default=0.0), max(finite, default=0.0)

    def block(value: float) -> str:
        if not math.isfinite(value):
            return "×"
        share = (value - low) / (high - low) if high > low else 0.0
        return BLOCKS[min(int(share * len(BLOCKS)), len(BLOCKS) - 1)]

    parts = [min(len(curve), MAX_BLOCKS) for curve in curves]
    return [
        "".join(block(curve[len(curve) * part // count - 1]) for part in range(1, count + 1))
        for curve, count in zip(curves, parts, strict=True)
    ]


def pairs(values: Mapping[str, Any]) -> str:
    width = max(map(len, values), default=0)
    return "\n".join(f"  {key:{width}}  {text(values[key])}" for key in values) or "  none"


def document(record: RunRecord, phase: str, metric: str | None) -> dict[str, Any]:
    metric = metric or record.monitor
    return {
        "run": record.id,
        "experiment": record.experiment,
        "directory": str(record.path),
        "status": record.status,
        "epochs": record.num_epochs,
        "metric": metric,
        "phase": phase,
        "best": None if metric is None else record.best(phase, metric),
        "duration_sec": record.duration_sec,
        "host": record.host,
        "inputs_md5": dict(record.inputs),
        "published": dict(record.published),
        "parameters": dict(record.parameters),
    }
