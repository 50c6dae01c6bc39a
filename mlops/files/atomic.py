"""Files that appear whole or not at all.

A reader, or DVC, never meets half a file: everything is written to a temporary file in the
same directory (a rename across devices is a copy and can be cut off), synced, then renamed
over its final name. After a crash the old file or the new one is there, plus at worst a
`.*.tmp` file, which git and DVC ignore.
"""

import errno
import hashlib
import json
import os
import re
import secrets
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mlops.errors import PipelineError

# Of a disk, a quota or a limit that leaves no room.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

# Longer than NFS keeps a directory's list, which is 60 s unless it is mounted otherwise.
LISTING_SEC = 90.0

# What a kill leaves of `replacing`, as .history.0a1b2c3d.tmp.csv of history.csv.
HALF_WRITTEN = re.compile(r"\.(.+)\.[a-z0-9_]{8}\.tmp(\.\w+)?")


@contextmanager
def replacing(
    path: Path, *, durable: bool = True, keep_as: Path | None = None, parents: bool = True
) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on leaving without an error, rename it to `path`.

    `keep_as` is what the file that was there is renamed to, once the new one is on the disk: for
    the moment between the two renames `path` is not there.

    The directory is made if it is not there; without `parents`, only in one that is.

    The temporary name ends with the suffix of `path`, because encoders and image writers
    choose the format by it. Without `durable` nothing is synced, which takes most of the time of
    a small file: for content that is stored elsewhere too.
    """
    path.parent.mkdir(parents=parents, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{secrets.token_hex(4)}.tmp{path.suffix}")
    temporary.touch(exist_ok=False)
    try:
        yield temporary
        if durable:
            sync(temporary)
        if keep_as is not None:
            with suppress(FileNotFoundError):
                path.rename(keep_as)
        temporary.replace(path)
        if durable:
            sync(path.parent)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)  # which an error of writing does not tell
        raise


def write_bytes(path: Path, content: bytes, *, durable: bool = True) -> None:
    with replacing(path, durable=durable) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, content: str) -> None:
    write_bytes(path, content.encode())


def write_json(path: Path, document: Any) -> None:
    """Write a document for people and for diffs: indented, in the order given, newline at the end.

    NaN and infinities are an error, since no JSON reader but Python's takes them.
    """
    write_text(path, json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def remove_half_written(directory: Path) -> None:
    """Remove what a kill left of `replacing`; only while no other process writes there."""
    for path in directory.glob(".*.tmp*"):
        if HALF_WRITTEN.fullmatch(path.name):
            remove_file(path)


def remove_file(path: Path) -> None:
    """Remove the file at `path`; a link or a directory in its place is a user's, and stays."""
    if is_regular(path):
        path.unlink(missing_ok=True)


def is_regular(path: Path) -> bool:
    """Return whether a file lies at `path` itself, not at the end of a symbolic link."""
    return path.is_file() and not path.is_symlink()


def set_aside(path: Path, why: str) -> str:
    """Rename what lies at `path` to a free name, as NAME.damaged1; return that name."""
    return path.rename(free_name(path, why)).name


def free_name(path: Path, why: str) -> Path:
    """Return a path that is not taken, for what lies at `path` and is not used any more."""
    number = 1
    while os.path.lexists(aside := path.with_name(f"{path.name}.{why}{number}")):
        number += 1
    return aside


def wait_until_listed(
    directory: Path, names: Collection[str], *, patience_sec: float = LISTING_SEC
) -> None:
    """Return when `directory` lists all the names, which other machines may just have written.

    A network file system shows a file to who asks for it before it lists the file, and DVC, which
    records what is listed, would leave it out without a word. A `PipelineError` names one that
    does not come.
    """
    deadline_sec = time.monotonic() + patience_sec
    while missing := set(names) - {entry.name for entry in os.scandir(directory)}:
        if time.monotonic() > deadline_sec:
            raise PipelineError(
                f"{directory}: expected {len(names)} files that the workers have written, "
                f"{len(missing)} of them are not there after {patience_sec:g} s, as "
                f"{min(missing)}; see that all machines share the directory, and run the same "
                "command again"
            )
        time.sleep(min(1.0, patience_sec / 10))


def content_hash(path: Path) -> str:
    """Return the sha256 of a file, or of a directory's relative file names and their sha256."""
    if path.is_dir():
        digest = hashlib.sha256()
        for file in sorted(path.rglob("*")):
            if file.is_file():
                digest.update(f"{file.relative_to(path).as_posix()}\0{content_hash(file)}".encode())
        return digest.hexdigest()
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def md5(path: Path) -> str:
    """Return the md5 of a file's content, the name under which DVC's cache keeps it."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def sync(path: Path) -> None:
    """Return when the file, or the directory's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
