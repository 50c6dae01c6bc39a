"""Request of the user, checked before anything is read."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from commands.predict.reading import videos_in
from mlops.workers.worker import Limits
from stages.paths import SPLITS, VIDEOS

TABLES = (".csv", ".json", ".jsonl", ".parquet")
PAGES = (".html", ".htm")

NO_TRAINING_VIDEOS = "none"  # as --known


@dataclass(frozen=True, kw_only=True)
class Request:
    """The arguments of the command; raises `UsageError` with all their faults."""

    paths: Sequence[str]
    top: int | None = None
    every: float | None = None
    out: Path | None = None
    html: Path | None = None
    known: str | None = None
    device: str = "auto"
    workers: int = 2
    threads: int | None = None
    time_limit: float = 300.0
    memory_limit: int = 2000
    max_duration: float = 600.0

    def __post_init__(self) -> None:
        faults = []
        if not self.models:
            faults.append(
                "expected the file of a model, ending in .pt, got none; dvc repro writes them to "
                "models/<model>/fold<N>/seed<N>/best_model.pt"
            )
        for option, path, suffixes in (
            ("--out", self.out, TABLES),
            ("--html", self.html, PAGES),
        ):
            if path is not None and path.suffix not in suffixes:
                faults.append(
                    f"{option}: expected a file that ends in {', '.join(suffixes)}, got '{path}'; "
                    "rename it"
                )
        if self.every is not None and not 0 < self.every < math.inf:
            faults.append(
                f"--every: expected a number of seconds above 0, got {self.every:g}; give the time "
                "from the start of one window to that of the next"
            )
        if faults:
            raise click.UsageError("\n".join(faults))

    @property
    def models(self) -> list[Path]:
        return [Path(path) for path in self.paths if path.endswith(".pt")]

    def videos(self) -> list[Path]:
        return videos_in([Path(path) for path in self.paths if not path.endswith(".pt")])

    @property
    def limits(self) -> Limits:
        return Limits(time_sec=self.time_limit, memory_mb=self.memory_limit)

    @property
    def training_tables(self) -> tuple[Path, Path] | None:
        """The tables of the training videos and of their splits, which lie side by side."""
        if self.known == NO_TRAINING_VIDEOS:
            return None
        videos = VIDEOS if self.known is None else Path(self.known)
        return videos, videos.with_name(SPLITS.name)
