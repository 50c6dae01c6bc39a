"""What DVC's cache keeps, by md5: tables read in part, and the sizes of a directory's files."""

import json
from collections.abc import Sequence
from pathlib import Path

import polars as pl


class Objects:
    """The objects of one cache; without a cache it has none.

    Nothing is verified against its md5, for that reads every byte of it. What cannot be read as
    what it should be is taken as absent.
    """

    def __init__(self, cache: Path | None) -> None:
        self._root = None if cache is None else cache / "files/md5"
        self._sizes: dict[str, int | None] = {}

    def find(self, md5: str) -> Path | None:
        if self._root is None:
            return None
        path = self._root / md5[:2] / md5[2:]
        return path if path.is_file() else None

    def has(self, md5: str) -> bool:
        """Whether the file is there, or of a directory the list and all its files."""
        if not md5.endswith(".dir"):
            return self.find(md5) is not None
        path = self.find(md5)
        if path is None:
            return False
        entries = json.loads(path.read_bytes())
        return all(self._size(entry.get("md5", "")) is not None for entry in entries)

    def table(self, md5: str, columns: Sequence[str]) -> pl.DataFrame | None:
        """Those of the columns that the Parquet table has; None if it is absent."""
        path = self.find(md5)
        if path is None:
            return None
        try:
            known = pl.read_parquet_schema(path)
            return pl.read_parquet(path, columns=[name for name in columns if name in known])
        except (pl.exceptions.PolarsError, OSError):
            return None

    def sizes(self, md5: str) -> dict[str, int] | None:
        """The size in bytes of each file of a directory that the cache still has, by its name.

        None if the list of the directory's files is absent.
        """
        path = self.find(md5)
        if path is None:
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
