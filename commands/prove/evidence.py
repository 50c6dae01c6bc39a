"""Evidence of a run on disk, and of the part of training that a kill hit.

The part is told by what is there while the trainer stands still, never by what was intended.
"""

import json
import re
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from commands.prove.clone import Clone
from commands.prove.processes import Process
from mlops.run.directory import FINISHED


class Part(StrEnum):
    START_UP = "start-up"
    TRAINING = "training"
    LOGGING = "logging"
    SAVE = "saving"
    VALIDATION = "validation"
    PUBLISHING = "publishing"
    RECORDING = "recording"  # by DVC, of what the stage has written


METRICS, LEDGER, METADATA = "metrics.jsonl", "ledger.jsonl", "metadata.json"
LOGS = (METRICS, LEDGER)
CHECKPOINTS = "*/run_*/checkpoints"
TEMPORARY = ".*.tmp*"

# So long after a row was written, a kill counts as one inside logging: the write itself takes
# microseconds, and the times of files go by the ticks of the kernel, 4 ms or less.
JUST_WRITTEN_SEC = 0.005


@dataclass
class Scene:
    """A trainer, and the run that it is in, watched from outside."""

    clone: Clone
    trainer: Process
    directory: Path  # that the trainer works in
    output: Path | None  # the file that it prints to
    run_dir: Path | None = None  # as soon as the trainer has its log open
    stale: set[Path] = field(default_factory=set)  # temporary files of earlier kills

    def part(self, now: float) -> Part:
        """Return where the trainer is at the time `now`, in seconds since 1970."""
        self.run_dir = self.run_dir or self._open_run()
        if self.run_dir is None:
            return Part.START_UP
        if set(self.run_dir.glob(f"checkpoints/{TEMPORARY}")) - self.stale:
            return Part.SAVE
        if self._publishes() or metadata(self.run_dir).get("status") == FINISHED:
            return Part.PUBLISHING
        logs = [log for name in LOGS if (log := self.run_dir / name).exists()]
        if any(is_torn(log) or now - log.stat().st_mtime < JUST_WRITTEN_SEC for log in logs):
            return Part.LOGGING
        return Part.VALIDATION if self._validates() else Part.TRAINING

    def _open_run(self) -> Path | None:
        """Return the run directory whose log the trainer has open."""
        try:
            for descriptor in Path(f"/proc/{self.trainer.pid}/fd").iterdir():
                log = descriptor.readlink()
                if log.name == METRICS and log.parent.parent.parent == self.clone.runs:
                    return log.parent
        except OSError:  # it has ended, or closed a file meanwhile
            pass
        return None

    def _publishes(self) -> bool:
        outs = [self.directory / out for out in self.clone.target.outs]
        return any(True for out in outs for _ in out.parent.glob(f".{out.stem}.*.tmp*"))

    def _validates(self) -> bool:
        """Return whether the epoch's training is printed and its validation is not."""
        if self.output is None or not self.output.exists():
            return False
        printed = self.output.read_text(errors="replace")
        lines = re.findall(r"^\w+: .*: epoch \d+: (train|val) ", printed, re.MULTILINE)
        return bool(lines) and lines[-1] == "train"


def look(clone: Clone, trainer: Process) -> Scene | None:
    """Return the scene of a trainer that has just started; None if it has ended already."""
    try:
        directory = Path(f"/proc/{trainer.pid}/cwd").readlink()
        output = Path(f"/proc/{trainer.pid}/fd/1").readlink()
    except OSError:
        return None
    stale = set(clone.runs.glob(f"{CHECKPOINTS}/{TEMPORARY}"))
    return Scene(clone, trainer, directory, output if output.is_absolute() else None, stale=stale)


def is_torn(log: Path) -> bool:
    """Return whether the last row has no end yet."""
    with log.open("rb") as stream:
        stream.seek(max(0, stream.seek(0, 2) - 1))
        return stream.read() not in (b"", b"\n")


def metadata(run_dir: Path) -> dict[str, Any]:
    path = run_dir / METADATA
    return json.loads(path.read_bytes()) if path.exists() else {}


def last_step(run_dir: Path | None) -> str:
    """Return how far the ledger goes, in words."""
    if run_dir is None:
        return "no log yet"
    ledger = run_dir / LEDGER
    whole = ledger.read_bytes().rpartition(b"\n")[0].splitlines() if ledger.exists() else []
    if not whole:
        return "nothing logged"
    row = json.loads(whole[-1])
    return f"epoch {row['epoch']}, step {row['step']}"
