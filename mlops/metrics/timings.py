"""How long the epochs took: facts of the attempts, not of the fingerprint.

They stand apart from the log of metrics, which is the same row for row whatever was killed.
"""

import json
import time
from pathlib import Path

from mlops.files.journal import Journal


class Timings:
    """Appends to `run_dir`/timings.jsonl, and keeps what an attempt did that was done again."""

    def __init__(self, run_dir: Path) -> None:
        self._journal = Journal(run_dir / "timings.jsonl", run_dir / "timings.orphans.jsonl")

    def record(self, *, epoch: int, took_sec: float, waited_sec: float) -> None:
        """The steps that an attempt did of an epoch, and how much of it was waiting for data."""
        row = {
            "epoch": epoch,
            "took_sec": round(took_sec, 6),
            "waited_sec": round(waited_sec, 6),
            "time": time.time(),
        }
        self._journal.append(json.dumps(row).encode() + b"\n")
