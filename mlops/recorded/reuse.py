"""Files that earlier runs of a stage have made, found again by a name that says what made them.

DVC deletes a stage's outs before it runs the command. What a run has finished stays in DVC's cache;
what took long is also kept below runs/ until the stage has finished, for a run that is killed.
Losing either costs time and nothing else.
"""

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from functools import cached_property
from pathlib import Path

from mlops.files import atomic
from mlops.files.places import runs_root
from mlops.recorded.dvc_cache import DvcCache, cache_directory
from mlops.recorded.dvc_lock import LockError, StageRecord, recorded_run, workspace_stages


class EarlierFiles:
    """Files of one stage; `names` is a pattern that the names of all of them match.

    Files of other names are never removed.
    """

    def __init__(self, stage: str, names: str) -> None:
        self.directory = runs_root() / f".{stage}"
        self._names = names

    def find(self, name: str) -> bytes | None:
        """Return the content that an earlier run gave to the file of this name; None if unknown."""
        if (md5 := self._named.get(name)) and (content := self._cache.read(md5)):
            return content
        with suppress(FileNotFoundError):
            return (self.directory / name).read_bytes()
        return None

    def versions(self, out: Path) -> list[Path]:
        """Return the earlier contents of an out that is one file, newest first.

        `out` is spelled as in dvc.yaml. What a killed run has kept comes first, then what dvc.lock
        names, then what DVC's run cache knows. A damaged object is left out.
        """
        kept = self.directory / out.name
        records = _recorded_runs(out.as_posix(), self._cache)
        md5s = dict.fromkeys(record.made_md5s.get(out.as_posix()) for record in records)
        objects = [self._cache.find_whole(md5) for md5 in md5s if md5]
        return [path for path in (kept, *objects) if path and path.is_file()]

    def keep(self, path: Path) -> None:
        """Keep the finished file at `path` by a second link, without copying it."""
        self.directory.mkdir(parents=True, exist_ok=True)
        # Another file system, or one without links: then it is made again.
        with suppress(OSError):
            os.link(path, self.directory / path.name)

    def clear(self) -> None:
        """Remove what is kept: the stage has finished, and its outs hold everything."""
        if self.directory.is_symlink() or not self.directory.is_dir():
            return
        with suppress(OSError):  # what cannot be removed costs room, and no result
            atomic.remove_half_written(self.directory)
            for path in self.directory.iterdir():
                if re.fullmatch(self._names, path.name):
                    atomic.remove_file(path)
            self.directory.rmdir()

    @cached_property
    def _cache(self) -> DvcCache:
        return DvcCache(cache_directory())

    @cached_property
    def _named(self) -> dict[str, str]:
        return self._cache.named(self._names)


def _recorded_runs(path: str, cache: DvcCache) -> Iterator[StageRecord]:
    """Yield what names the path, newest first; what is half written is left out."""
    if cache.root is None:
        return
    yield from workspace_stages().values()
    for run in sorted(cache.root.glob("runs/??/*/*"), key=_newest_first):
        # Looking at the text first: the run cache holds the runs of all stages.
        content = run.read_bytes()
        if path.encode() in content:
            with suppress(LockError):
                yield recorded_run(content)


def _newest_first(file: Path) -> tuple[float, str]:
    return (-file.stat().st_mtime, file.name)
