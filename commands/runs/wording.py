"""How the values of runs are written."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from mlops.run.records import RunRecord

DIGITS = 8  # of a hash
MAX_FILES = 5  # named in one line


def epochs(record: RunRecord) -> str:
    wanted = record.parameters.get("train.epochs")
    return f"{record.num_epochs}" if wanted is None else f"{record.num_epochs}/{wanted}"


def figure(value: float | None) -> str:
    """
    >>> figure(0.96667), figure(0.00002), figure(None)
    ('0.9667', '2e-05', '')
    """
    if value is None:
        return ""
    return f"{value:.3g}" if 0 < abs(value) < 1e-3 else f"{value:.4f}"


def text(value: Any) -> str:
    """A value of a configuration; nothing where there is none."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value)


def duration(sec: float) -> str:
    """
    >>> duration(11), duration(754), duration(100_000)
    ('11 s', '12 min 34 s', '27 h 46 min')
    """
    whole = round(sec)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def listed(names: Sequence[str]) -> str:
    more = len(names) - MAX_FILES
    return ", ".join(names[:MAX_FILES]) + (f" and {more} more" if more > 0 else "")


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
