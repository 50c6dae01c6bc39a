"""Groups of videos that belong together, whatever their group names in the index."""

from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath

import polars as pl


def effective_groups(videos: pl.DataFrame, links: Iterable[tuple[int, int]] = ()) -> list[str]:
    """Return the group of every row of `videos` (`sha256, group`) after joining linked groups.

    `links` are pairs of rows that show the same pictures. The same bytes under two group names join
    the two groups; a video without a group is a group of its own. A joined group takes the smallest
    of its names, whatever the order of the rows.
    """
    contents = [f"video:{sha256[:16]}" for sha256 in videos["sha256"]]
    names = [
        content if group is None else f"group:{group}"
        for content, group in zip(contents, videos["group"], strict=True)
    ]
    union = _Union()
    for content, name in zip(contents, names, strict=True):
        union.join(content, name)
    for first, second in links:
        union.join(names[first], names[second])
    return [union.find(name).removeprefix("group:") for name in names]


def linked_groups(index: pl.DataFrame, contents: Mapping[str, str]) -> pl.Series:
    """Return the group of every row of the index (`video_path, group`) after joining linked groups.

    Two groups are linked if they name one file, or two files of one content (sha256 by
    `video_path`, if known). Pass all rows: one that is rejected for naming a file twice, or with
    two labels, links its groups all the same. Null for a video without a group and without links.
    """
    union = _Union()
    keys = []
    for path, group in index.select("video_path", "group").iter_rows():
        key = f"path:{PurePosixPath(path)}"  # one spelling
        keys.append(key)
        if group is not None:
            union.join(f"group:{group}", key)
        if path in contents:
            union.join(f"video:{contents[path]}", key)
    found = [union.find(key) for key in keys]
    groups = [name.removeprefix("group:") if name.startswith("group:") else None for name in found]
    return pl.Series("linked_group", groups, dtype=pl.String)


class _Union:
    """Sets of names, each called by its smallest; "group:" sorts before "path:" and "video:"."""

    def __init__(self) -> None:
        self._parent: dict[str, str] = {}

    def find(self, item: str) -> str:
        parent = self._parent
        while parent.setdefault(item, item) != item:
            parent[item] = parent[parent[item]]
            item = parent[item]
        return item

    def join(self, one: str, other: str) -> None:
        low, high = sorted((self.find(one), self.find(other)))
        self._parent[high] = low
