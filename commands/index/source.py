"""Source of an index as rows: paths, labels, groups and splits of folders or tables."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from video.index.spelling import Spellings, plain, settled

# As data sets, VideoFolder and Ultralytics write them.
SPLITS: Mapping[str, str] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validate", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}


@dataclass(frozen=True, kw_only=True)
class Row:
    """A video of a source.

    path: relative to the folder, as the file is spelled.
    folders: between the folder of its class and the file.
    group: None if the source does not say; "" for a group of its own.
    split: train, val or test; "" if the source does not say.
    others: further columns of the source's table.
    place: where the source says so, for messages.
    """

    path: str
    label: str
    place: str
    folders: tuple[str, ...] = ()
    group: str | None = None
    split: str = ""
    others: Mapping[str, str] = field(default_factory=dict)


@dataclass(kw_only=True)
class Source:
    """The rows of a layout, and what is wrong with it.

    form: what the folder was taken for, in words.
    faults: what keeps the index from being written.
    warnings: what the index is written without, or what to look at.
    tables: files that were read.
    left_out: why a video is in no row, by its path.
    """

    form: str
    rows: list[Row] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    tables: list[str] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)


def split_named(name: str) -> str:
    """Return train, val or test for a word that means it, else ""."""
    return SPLITS.get(plain(name).casefold(), "")


def folders_below(label: str, path: str) -> tuple[str, ...]:
    """Return the folders between that of the class, if there is one, and the file."""
    folders = PurePosixPath(path).parts[:-1]
    return folders[folders.index(label) + 1 :] if label in folders else folders


class Lookup:
    """The videos of a folder by what a table may call them."""

    def __init__(self, folder: Path, videos: Sequence[str]) -> None:
        self._folder = folder
        self._videos = set(videos)
        self._spellings = Spellings(folder)
        # A list may leave out the folders above, as the data_prefix of MMAction2.
        self._ends: defaultdict[str, list[str]] = defaultdict(list)
        for path in videos:
            parts = PurePosixPath(path).parts
            for start in range(1, len(parts)):
                self._ends["/".join(parts[start:])].append(path)

    def find(self, name: str) -> str | None:
        """Return the video that a name in a table means; None if there is none, or several."""
        if name in self._videos:
            return name
        path = Path(settled(name, self._folder)).as_posix()
        if path in self._videos:
            return path
        if len(ending := self._ends.get(path.removeprefix("/"), [])) == 1:
            return ending[0]
        near = self._spellings.near(name.strip()) if name.strip() else None
        return near if near in self._videos else None
