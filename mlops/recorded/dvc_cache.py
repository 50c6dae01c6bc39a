"""DVC's cache: every content that DVC has recorded, shared by all working copies of a repository.

A file is the object of its md5; a directory is a `.dir` object, a JSON list of names and md5.
Without DVC, or outside of its repository, there is no cache, and nothing is found.
"""

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import polars as pl

from mlops.files import atomic


def cache_directory() -> Path | None:
    """Return DVC's cache for the current directory; None outside a DVC repository."""
    # A repository that has cached nothing yet names a directory that does not exist.
    lines = ask_dvc("cache", "dir")
    return Path(lines[-1]) if lines else None


def ask_dvc(*arguments: str) -> list[str]:
    """Return the lines that a command of DVC prints in the current directory; none if it fails."""
    answer = subprocess.run(
        [sys.executable, "-m", "dvc", *arguments],
        env=os.environ | {"DVC_NO_ANALYTICS": "1"},
        encoding="utf-8",
        errors="surrogateescape",
        capture_output=True,
        check=False,
    )
    return answer.stdout.splitlines() if answer.returncode == 0 else []


class DvcCache:
    """Objects of one cache, by md5 as DVC spells it: a directory's ends with `.dir`."""

    def __init__(self, root: Path | None) -> None:
        self.root = root
        self._sizes: dict[str, int | None] = {}

    def find(self, md5: str) -> Path | None:
        """Return the object of a hash, its bytes unread; None if it is absent."""
        if self.root is None:
            return None
        path = self.root / "files/md5" / md5[:2] / md5[2:]
        return path if path.is_file() else None

    def find_whole(self, md5: str) -> Path | None:
        """Return the object of a hash; None if it is absent or its bytes have another hash."""
        path = self.find(md5)
        return path if path and atomic.md5(path) == md5.removesuffix(".dir") else None

    def read(self, md5: str) -> bytes | None:
        """Return the content of a hash, verified; None if it is absent or damaged."""
        if (path := self.find(md5)) is None:
            return None
        content = path.read_bytes()
        if hashlib.md5(content, usedforsecurity=False).hexdigest() == md5.removesuffix(".dir"):
            return content
        # As DVC does with a damaged object that it meets: removed, it can be stored anew, while one
        # that stays would be taken for the right content by the next checkout.
        with suppress(OSError):
            path.unlink()
        return None

    def named(self, pattern: str) -> dict[str, str]:
        """Return the md5 of the recorded files whose names match, in any version of any directory.

        A name recorded with two contents is left out: one of the two is wrong, and what is made
        again is right. Reads every `.dir` object, about 10 ms for 10,000 names.
        """
        found: dict[str, set[str]] = {}
        objects = [] if self.root is None else self.root.glob("files/md5/[0-9a-f][0-9a-f]/*.dir")
        for path in objects:
            content = self.read(path.parent.name + path.name)
            for entry in json.loads(content or b"[]"):
                # What has no md5 is of another kind, as a file that a cloud keeps by version.
                is_file = re.fullmatch(r"[0-9a-f]{32}", entry.get("md5", ""))
                if is_file and re.fullmatch(pattern, entry["relpath"]):
                    found.setdefault(entry["relpath"], set()).add(entry["md5"])
        return {name: md5s.pop() for name, md5s in found.items() if len(md5s) == 1}

    def table(self, md5: str, columns: Sequence[str]) -> pl.DataFrame | None:
        """Return those of the columns that a Parquet table has, unverified; None if it is absent.

        A file that is no such table counts as absent.
        """
        if (path := self.find(md5)) is None:
            return None
        try:
            known = pl.read_parquet_schema(path)
            return pl.read_parquet(path, columns=[name for name in columns if name in known])
        except (pl.exceptions.PolarsError, OSError):
            return None

    def sizes(self, md5: str) -> dict[str, int] | None:
        """Return the bytes of each file of a directory that the cache still has, by its name.

        None if the list of the directory's files is absent.
        """
        if (path := self.find(md5)) is None:
            return None
        try:
            entries = json.loads(path.read_bytes())
        except ValueError:
            return None
        sizes = {entry["relpath"]: self._size(entry.get("md5", "")) for entry in entries}
        return {name: size for name, size in sizes.items() if size is not None}

    def _size(self, md5: str) -> int | None:
        # Most files are in many versions of a directory.
        if md5 not in self._sizes:
            path = self.find(md5)
            self._sizes[md5] = None if path is None else path.stat().st_size
        return self._sizes[md5]
