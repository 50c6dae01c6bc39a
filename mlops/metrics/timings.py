"""Durations of the epochs: facts of the attempts, not of the fingerprint.

They stand apart from the log of metrics, which is the same row for row whatever was killed.
"""

import json
import time
from pathlib import Path

from mlops.files.journal import Journal


class Timings(Journal):
    """Writer of `run_dir`/timings.jsonl, which also keeps the timings of steps done again."""

    def __init__(self, run_dir: Path) -> None:
        super().__init__(run_dir / "timings.jsonl", run_dir / "timings.orphans.jsonl")

    def record(self, *, epoch: int, took_sec: float, waited_sec: float) -> None:
        """Append what an attempt's steps of an epoch took, and how much was waiting for data."""
        row = {
            "epoch": epoch,
            "took_sec": round(took_sec, 6),
            "waited_sec": round(waited_sec, 6),
            "time": time.time(),
        }
        self.append(json.dumps(row).encode() + b"\n")
