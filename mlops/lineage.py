"""Content that DVC already holds: what earlier runs made, found by its recorded hash.

DVC removes a stage's outs before the stage runs, but not their content: dvc.lock and the run
cache name the hashes of earlier outs, and the cache has the objects. Without DVC, or outside of
its repository, there is none, and a stage does all its work.
"""

import hashlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mlops.errors import PipelineError
from mlops.parameters import load_yaml

LOCK = Path("dvc.lock")


def recorded_outs(path: str) -> list[Path]:
    """The cache objects of an out's earlier contents, newest first, as far as they still exist.

    `path` is the out as dvc.yaml spells it. What dvc.lock names comes first, then what the run
    cache knows. An object whose bytes are no longer those of its hash is left out.
    """
    cache = cache_directory()
    if cache is None:
        return []
    objects = dict.fromkeys(_object(cache, md5) for md5 in _recorded_hashes(cache, path))
    return [file for file in objects if _is_whole(file)]


def cache_directory() -> Path | None:
    """The cache of the repository around the current directory, None if there is none."""
    # Asked of the program: a temporary directory of an experiment, a shared cache and settings of
    # the user all move it.
    answer = subprocess.run(
        [sys.executable, "-m", "dvc", "cache", "dir"], capture_output=True, text=True, check=False
    )
    return Path(answer.stdout.strip()) if answer.returncode == 0 else None


def _recorded_hashes(cache: Path, path: str) -> Iterator[str]:
    if LOCK.is_file():
        for stage in _mapping(LOCK).get("stages", {}).values():
            yield from _hashes_of(stage, path)
    for run in sorted(cache.glob("runs/??/*/*"), key=_age):
        # Reading the text first: the run cache holds the runs of all stages.
        if path in run.read_text(encoding="utf-8", errors="replace"):
            yield from _hashes_of(_mapping(run), path)


def _hashes_of(stage: dict[str, Any], path: str) -> Iterator[str]:
    for out in stage.get("outs", []):
        if out.get("path") == path and "md5" in out:
            yield out["md5"]


def _mapping(file: Path) -> dict[str, Any]:
    """An empty one if the file is half written or of another format."""
    try:
        document = load_yaml(file)
    except PipelineError:
        return {}
    return document if isinstance(document, dict) else {}


def _age(file: Path) -> tuple[float, str]:
    return (-file.stat().st_mtime, file.name)


def _object(cache: Path, md5: str) -> Path:
    return cache / "files/md5" / md5[:2] / md5[2:]


def _is_whole(file: Path) -> bool:
    if not file.is_file():
        return False
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "md5").hexdigest()
    return file.parent.name + file.name.removesuffix(".dir") == digest
