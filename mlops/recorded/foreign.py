"""Files of the user's where the pipeline writes, which DVC or a stage would remove unasked.

DVC removes the outs of a stage before it runs the command. A directory among them says in dvc.yaml
what names the stage gives to its files (`meta: {files: PATTERN}`), so that others are found before
DVC is started. The sample, whose files have names of all kinds and can be edited by hand, is
`persist`: DVC leaves it, and its stage replaces it only if nothing is lost.
"""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlops.errors import PipelineError
from mlops.files.atomic import is_regular, md5
from mlops.files.tables import listed
from mlops.recorded.dvc_cache import DvcCache, cache_directory
from mlops.recorded.dvc_yaml import out_patterns

# Written by file managers for themselves.
OF_FILE_MANAGERS = re.compile(r"\.DS_Store|Thumbs\.db|desktop\.ini|\._.*")
UNFINISHED = re.compile(r"\..*\.tmp(\..*)?")  # what a kill left of a write

ADVICE = (
    "move them to a directory of your own below data/, as data/mine, and name it in data.root and "
    "its index in data.index; remove what nobody needs"
)


@contextmanager
def replacing_directory(directory: Path) -> Iterator[Path]:
    """Yield an empty directory; on leaving without an error, it replaces `directory`.

    Raises `PipelineError` and changes nothing if a file would be lost by that: one whose content
    is neither that of the new file of its name nor kept in DVC's cache, or a symbolic link to
    elsewhere.
    """
    new = directory.with_name(f".{directory.name}.new.tmp")
    old = directory.with_name(f".{directory.name}.old.tmp")
    for left_behind in (new, old):
        shutil.rmtree(left_behind, ignore_errors=True)
    new.mkdir(parents=True)
    try:
        yield new
        changed = [
            path
            for path in _paths(directory)
            if not _is_same(path, new / path.relative_to(directory))
        ]
        cache = DvcCache(cache_directory() if changed else None)
        if lost := [path for path in changed if not _is_kept(path, cache)]:
            raise PipelineError(
                f"{directory}: expected only what the pipeline has made, found {listed(lost)}; "
                f"nothing was replaced: {ADVICE}"
            )
        if directory.exists():
            directory.rename(old)
        new.rename(directory)
    finally:
        for left_behind in (new, old):
            shutil.rmtree(left_behind, ignore_errors=True)


def foreign_files() -> list[Path]:
    """Return the files in outs of dvc.yaml, in the current directory, that no stage gives."""
    return [
        path
        for directory, pattern in out_patterns().items()
        for path in _paths(directory)
        if not re.fullmatch(pattern, path.relative_to(directory).as_posix())
        and not UNFINISHED.fullmatch(path.name)
    ]


def _paths(directory: Path) -> Iterator[Path]:
    """Yield what is no directory, symbolic links to directories included."""
    if directory.is_symlink() or directory.is_file():
        yield directory
        return
    for base, directories, names in os.walk(directory):
        for name in sorted(names + [name for name in directories if Path(base, name).is_symlink()]):
            if not OF_FILE_MANAGERS.fullmatch(name):
                yield Path(base, name)


def _is_same(path: Path, new: Path) -> bool:
    return is_regular(path) and new.is_file() and md5(path) == md5(new)


def _is_kept(path: Path, cache: DvcCache) -> bool:
    """Return whether DVC's cache has the content of a file."""
    if path.is_symlink():
        return cache.root is not None and path.resolve().is_relative_to(cache.root.resolve())
    return path.is_file() and cache.find_whole(md5(path)) is not None
