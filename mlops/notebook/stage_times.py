"""How long the stages took that made what the workspace's dvc.lock records."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from mlops.errors import PipelineError
from mlops.files.canonical import config_hash
from mlops.recorded.dvc_lock import LOCK, LockError, StageRecord, recorded_stages
from mlops.run.directory import change_metadata
from mlops.run.documents import DamagedRecordError, read_metadata, run_directories
from mlops.run.records import RunRecord, read_record

_KEY = "stages"  # of the metadata.json of a run of the whole pipeline


def note_times(run_dir: Path, root: Path, took_sec: Mapping[str, float]) -> None:
    """Keep in the run how long each stage took, with what identifies the results it took so
    long to make."""
    entries = _entries(root)
    notes = {
        name: {"took_sec": sec, "recorded": _identity(entries[name])}
        for name, sec in took_sec.items()
        if name in entries
    }
    change_metadata(run_dir, lambda document: document | {_KEY: document.get(_KEY, {}) | notes})


def known_times(root: Path) -> dict[str, float]:
    """Seconds by stage, of those that a run below `root`/runs tells of.

    By the run of the whole pipeline that a stage was part of: from its start to the recording of
    its outs. By a training's own run if no pipeline's knows of it, or if it was killed on the way:
    that one counts all attempts.
    """
    entries = _entries(root)
    recorded = {name: _identity(entry) for name, entry in entries.items()}
    made = {name: entry.made_md5s for name, entry in entries.items()}
    times: dict[str, float] = {}
    trainings: dict[str, RunRecord] = {}
    for run_dir, metadata in _runs(root):
        for name, note in metadata.get(_KEY, {}).items():
            if note["recorded"] == recorded.get(name):
                times[name] = note["took_sec"]
        if published := metadata.get("published"):
            for name, outs in made.items():
                if outs == published:
                    with suppress(PipelineError):  # its configuration or its log is damaged
                        trainings[name] = read_record(run_dir)
    for name, record in trainings.items():
        if name not in times or len(record.attempts) > 1:
            times[name] = record.duration_sec
    return times


def publisher(root: Path, path: str, md5: str) -> Path | None:
    """The newest run below `root`/runs that has published these bytes as `path`."""
    found = None
    for run_dir, metadata in _runs(root):
        if metadata.get("published", {}).get(path) == md5:
            found = run_dir
    return found


def _identity(entry: StageRecord) -> str:
    return config_hash(msgspec.to_builtins(entry))


def _entries(root: Path) -> dict[str, StageRecord]:
    """What dvc.lock records, by stage; nothing where there is no sound one."""
    try:
        return recorded_stages((root / LOCK).read_bytes())
    except (FileNotFoundError, LockError):
        return {}


def _runs(root: Path) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    """The runs whose record can be read, oldest first."""
    for run_dir in run_directories(root / "runs"):
        with suppress(FileNotFoundError, DamagedRecordError):  # the first if removed meanwhile
            yield run_dir, read_metadata(run_dir)
