"""What DVC still has of earlier runs: the contents of outs that it removed before the stage.

DVC deletes a stage's outs before it runs the command, but every version that it has recorded
stays in its cache: a file as the object of its md5, a directory as a `.dir` object, a JSON list
of names and md5. So a stage finds here what it need not make again, in the workspace, in
`dvc exp run --temp` and in the queue alike, for all share one cache. Without DVC, or outside of
its repository, there is nothing, and a stage does all its work.
"""

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from mlops.recorded.dvc_lock import (
    LOCK,
    LockError,
    StageRecord,
    recorded_run,
    recorded_stages,
)


def cache_directory() -> Path | None:
    """DVC's cache for the current directory; None outside a DVC repository."""
    # A repository that has cached nothing yet names a directory that does not exist.
    lines = ask_dvc("cache", "dir")
    return Path(lines[-1]) if lines else None


def ask_dvc(*arguments: str) -> list[str]:
    """The lines that a command of DVC prints, in the current directory; none if it fails."""
    answer = subprocess.run(
        [sys.executable, "-m", "dvc", *arguments],
        env=os.environ | {"DVC_NO_ANALYTICS": "1"},
        text=True,
        capture_output=True,
        check=False,
    )
    return answer.stdout.splitlines() if answer.returncode == 0 else []


class CachedFiles:
    """Files of the given names in any recorded version of any directory.

    A name recorded with two contents is not found: one of the two is wrong, and what is made
    again is right. Costs one look at every `.dir` object: 0.5 s for asking DVC where its cache
    is, then about 10 ms for 10,000 names recorded.
    """

    def __init__(self, names: Collection[str], cache: Path | None) -> None:
        self._objects = None if cache is None else cache / "files/md5"
        self._md5s: dict[str, set[str]] = {}
        wanted = frozenset(names)
        if self._objects is not None and wanted:
            for entry in _recorded_files(self._objects):
                if entry["relpath"] in wanted:
                    self._md5s.setdefault(entry["relpath"], set()).add(entry["md5"])

    def find(self, name: str) -> bytes | None:
        """The content recorded under `name`, verified; None if it is not there or is damaged."""
        md5s = self._md5s.get(name, set())
        if self._objects is None or len(md5s) != 1:
            return None
        (md5,) = md5s
        return _read_verified(self._objects / md5[:2] / md5[2:], md5)


def is_cached(md5: str, cache: Path | None) -> bool:
    """Return whether the cache has a whole object of this hash."""
    return cache is not None and _is_whole(cache / "files/md5" / md5[:2] / md5[2:], md5)


def recorded_outs(path: str, cache: Path | None) -> list[Path]:
    """The cache objects of a file's earlier contents, newest first, as far as they still exist.

    `path` is the out as dvc.yaml spells it. What dvc.lock names comes first, then what the run
    cache knows. An object whose bytes are no longer those of its hash is left out.
    """
    if cache is None:
        return []
    md5s = dict.fromkeys(run.made_md5s.get(path) for run in _recorded_runs(path, cache))
    objects = ((cache / "files/md5" / md5[:2] / md5[2:], md5) for md5 in md5s if md5)
    return [file for file, md5 in objects if _is_whole(file, md5)]


def _recorded_runs(path: str, cache: Path) -> Iterator[StageRecord]:
    """Yield what names the path, newest first; what is half written is left out."""
    with suppress(FileNotFoundError, LockError):
        yield from recorded_stages(LOCK.read_bytes()).values()
    for run in sorted(cache.glob("runs/??/*/*"), key=_newest_first):
        # Looking at the text first: the run cache holds the runs of all stages.
        content = run.read_bytes()
        if path.encode() in content:
            with suppress(LockError):
                yield recorded_run(content)


def _newest_first(file: Path) -> tuple[float, str]:
    return (-file.stat().st_mtime, file.name)


def _is_whole(file: Path, md5: str) -> bool:
    if not file.is_file():
        return False
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "md5").hexdigest() == md5


def _recorded_files(objects: Path) -> Iterator[dict[str, Any]]:
    """The entries of all directories that the cache holds."""
    for path in objects.glob("[0-9a-f][0-9a-f]/*.dir"):
        content = _read_verified(path, path.parent.name + path.stem)
        if content is not None:
            for entry in json.loads(content):
                # What has no md5 is of another kind, as a file that a cloud keeps by version.
                if re.fullmatch(r"[0-9a-f]{32}", entry.get("md5", "")):
                    yield entry


def _read_verified(path: Path, md5: str) -> bytes | None:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    if hashlib.md5(content, usedforsecurity=False).hexdigest() == md5:
        return content
    # As DVC does with a damaged object that it meets: removed, it can be stored anew, while one
    # that stays would be taken for the right content by the next checkout.
    with suppress(OSError):
        path.unlink()
    return None
