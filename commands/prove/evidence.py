"""What of a run lies on disk, and which part of training a kill hit.

The part is told by what is there while the trainer stands still, never by what was intended.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from commands.prove.clone import Clone
from commands.prove.processes import Process
from mlops.run.directory import FINISHED

START_UP = "start-up"
TRAINING = "training"
SAVE = "saving"
LOGGING = "logging"
VALIDATION = "validation"
PUBLISHING = "publishing"
RECORDING = "recording"  # by DVC, of what the stage has written

PARTS = (START_UP, TRAINING, LOGGING, SAVE, VALIDATION, PUBLISHING, RECORDING)

METRICS, LEDGER, METADATA = "metrics.jsonl", "ledger.jsonl", "metadata.json"
LOGS = (METRICS, LEDGER)
TEMPORARY = ".*.tmp*"

# So long after a row was written, a kill counts as one inside logging: the write itself takes
# microseconds, and the times of files go by the ticks of the kernel, 4 ms or less.
JUST_WRITTEN_SEC = 0.005


@dataclass
class Scene:
    """The run that a trainer is in, watched from outside."""

    clone: Clone
    trainer: Process
    directory: Path  # that the trainer works in
    output: Path | None  # the file that it prints to
    stale: set[Path] = field(default_factory=set)  # temporary files of earlier kills

    def run_dir(self) -> Path | None:
        """The run directory whose log the trainer has open."""
        for link in self._open_files():
            if link.name == METRICS and link.parent.parent.parent == self.clone.runs:
                return link.parent
        return None

    def saves(self) -> set[Path]:
        """Unfinished writes of checkpoints that no earlier kill has left."""
        found = set(self.clone.runs.glob(f"*/run_*/checkpoints/{TEMPORARY}"))
        return found - self.stale

    def publications(self) -> set[Path]:
        outs = [self.directory / out for out in self.clone.target.outs]
        return {path for out in outs for path in out.parent.glob(f".{out.stem}.*.tmp*")}

    def log_sizes(self, run_dir: Path) -> int:
        return sum((run_dir / name).stat().st_size for name in LOGS if (run_dir / name).exists())

    def validates(self) -> bool:
        """The epoch's training is printed, its validation is not."""
        lines = re.findall(r"^\w+: .*: epoch \d+: (train|val) ", self.printed(), re.MULTILINE)
        return bool(lines) and lines[-1] == "train"

    def printed(self) -> str:
        """What the trainer has printed, and DVC before it, since this start."""
        if self.output is None or not self.output.exists():
            return ""
        return self.output.read_text(errors="replace")

    def part(self, run_dir: Path | None, now: float) -> str:
        """Where the trainer is, which stands still since the time `now`."""
        if run_dir is None:
            return START_UP
        if self.saves():
            return SAVE
        if self.publications() or status(run_dir) == FINISHED:
            return PUBLISHING
        if any(
            is_torn(path) or now - path.stat().st_mtime < JUST_WRITTEN_SEC
            for name in LOGS
            if (path := run_dir / name).exists()
        ):
            return LOGGING
        return VALIDATION if self.validates() else TRAINING

    def _open_files(self) -> Iterator[Path]:
        try:
            for link in Path(f"/proc/{self.trainer.pid}/fd").iterdir():
                yield link.readlink()
        except OSError:
            return


def look(clone: Clone, trainer: Process) -> Scene | None:
    """The scene of a trainer that has just started; None if it has ended already."""
    try:
        directory = Path(f"/proc/{trainer.pid}/cwd").readlink()
        output = Path(f"/proc/{trainer.pid}/fd/1").readlink()
    except OSError:
        return None
    scene = Scene(clone, trainer, directory, output if output.is_absolute() else None)
    scene.stale = scene.saves()
    return scene


def is_torn(path: Path) -> bool:
    content = path.read_bytes()
    return bool(content) and not content.endswith(b"\n")


def status(run_dir: Path) -> str:
    return str(metadata(run_dir).get("status", ""))


def metadata(run_dir: Path) -> dict[str, Any]:
    path = run_dir / METADATA
    return json.loads(path.read_text()) if path.exists() else {}


def last_row(run_dir: Path | None) -> str:
    """How far the log goes, in words."""
    if run_dir is None:
        return "no log yet"
    for name in (LEDGER, METRICS):
        if (run_dir / name).exists():
            whole = (run_dir / name).read_bytes().rsplit(b"\n", 1)[0].splitlines()
            if whole:
                row = json.loads(whole[-1])
                return f"epoch {row['epoch']}, step {row['step']}"
    return "nothing logged"
