"""Which videos belong together, whatever the names that they were given."""

from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath

import polars as pl


def effective_groups(videos: pl.DataFrame, links: Iterable[tuple[int, int]] = ()) -> list[str]:
    """The group of every row of `videos` (`sha256, group`), with what belongs together joined.

    `links` are pairs of rows that show the same. The same bytes under two group names join the
    two groups; a video without a group is one of its own. The joined group takes the smallest of
    its names, whatever the order of the rows.
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
    """The group of every row of the index (`video_path, group`), with those linked in it joined.

    Two groups that name one file, or two files of one content (sha256 by `video_path`, where it is
    known), hold the same. It takes all rows: one that is rejected for naming a file twice, or with
    two labels, links its groups all the same. Null for a video without a group, linked to none.
    """
    union = _Union()
    keys = []
    for path, group in index.select("video_path", "group").iter_rows():
        # However a row spells the path.
        key = f"path:{PurePosixPath(path)}"
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
