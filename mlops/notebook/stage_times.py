"""Durations of the stages that made what a repository's dvc.lock records."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from mlops.errors import PipelineError
from mlops.files.canonical import config_hash
from mlops.recorded.dvc_lock import StageRecord, workspace_stages
from mlops.run.directory import change_metadata
from mlops.run.documents import DamagedRecordError, read_metadata, run_directories
from mlops.run.records import RunRecord, read_record

_KEY = "stages"  # of the metadata.json of a run of the whole pipeline


def note_times(run_dir: Path, root: Path, took_sec: Mapping[str, float]) -> None:
    """Record in the run how long each stage took, and the identity of the results that it made."""
    recorded = workspace_stages(root)
    notes = {
        name: {"took_sec": sec, "recorded": _identity(recorded[name])}
        for name, sec in took_sec.items()
        if name in recorded
    }
    change_metadata(run_dir, lambda document: document | {_KEY: document.get(_KEY, {}) | notes})


def known_times(root: Path) -> dict[str, float]:
    """Return the seconds by stage, of those that a run below `root`/runs tells of.

    By the run of the whole pipeline that a stage was part of: from its start to the recording of
    its outs. By a training's own run if no pipeline's knows of it, or if it was killed on the way:
    that one counts all attempts.
    """
    recorded = workspace_stages(root)
    identities = {name: _identity(record) for name, record in recorded.items()}
    times: dict[str, float] = {}
    trainings: dict[str, RunRecord] = {}
    for run_dir, metadata in _runs(root):
        for name, note in metadata.get(_KEY, {}).items():
            if note["recorded"] == identities.get(name):
                times[name] = note["took_sec"]
        if published := metadata.get("published"):
            for name, record in recorded.items():
                if record.made_md5s == published:
                    with suppress(PipelineError):  # its configuration or its log is damaged
                        trainings[name] = read_record(run_dir)
    for name, training in trainings.items():
        if name not in times or len(training.attempts) > 1:
            times[name] = training.duration_sec
    return times


def publisher(root: Path, path: str, md5: str) -> Path | None:
    """Return the newest run below `root`/runs that has published these bytes as `path`."""
    found = [run for run, data in _runs(root) if data.get("published", {}).get(path) == md5]
    return found[-1] if found else None


def _identity(record: StageRecord) -> str:
    return config_hash(msgspec.to_builtins(record))


def _runs(root: Path) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    """Yield the runs whose record can be read, oldest first."""
    for run_dir in run_directories(root / "runs"):
        with suppress(FileNotFoundError, DamagedRecordError):  # the first if removed meanwhile
            yield run_dir, read_metadata(run_dir)
