"""Names of files as people spell them: another case, another form of Unicode, no suffix."""

import os
import unicodedata
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path, PurePosixPath


def plain(text: str) -> str:
    """Return a text in Unicode's normal form NFC, without white space around it."""
    return unicodedata.normalize("NFC", text.strip())


def settled(name: str, root: Path) -> str:
    """Return the path of a file below `root` as the file is spelled, if it is there.

    What is not there as it stands is looked for without white space around it, in Unicode's normal
    forms, and relative to `root` if it is absolute.
    """
    trimmed = name.strip()
    forms = (unicodedata.normalize(form, trimmed) for form in ("NFC", "NFD"))
    for spelling in dict.fromkeys((name, trimmed, *forms, *_below(trimmed, root))):
        if spelling and not Path(spelling).is_absolute() and _is_file(root / spelling):
            return spelling
    return trimmed


def _below(name: str, root: Path) -> Iterator[str]:
    for base in (root.absolute(), root.resolve()):
        if Path(name).is_relative_to(base):
            yield Path(name).relative_to(base).as_posix()


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # too long for the file system
        return False


class Spellings:
    """The files below a directory, read when the first of them is asked for."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def near(self, name: str) -> str | None:
        """Return the one file that `name` may mean: None if there is none or several.

        A file of this name but for case, white space, form of Unicode, backslashes or leading
        directories; else one with a suffix that `name` lacks or has otherwise; else one that lies
        in another directory.
        """
        parts = PurePosixPath(name.replace("\\", "/")).parts
        tails = [PurePosixPath(*parts[start:]) for start in range(len(parts))]
        keys = [*map(str, tails), *(f"{tail.with_suffix('')}.*" for tail in tails if tail.name)]
        for key in [*keys, *(f"*/{tail.name}" for tail in tails[-1:])]:
            if len(found := self._files.get(_key(key), [])) == 1:
                return found[0]
        return None

    @cached_property
    def _files(self) -> dict[str, list[str]]:
        files: dict[str, list[str]] = {}
        for directory, _, names in os.walk(self._root):
            for path in (Path(directory, name).relative_to(self._root) for name in names):
                if not path.as_posix().isprintable():  # or no UTF-8: no table can name it
                    continue
                for key in (f"{path}", f"{path.with_suffix('')}.*", f"*/{path.name}"):
                    files.setdefault(_key(key), []).append(path.as_posix())
        return files


def _key(name: str) -> str:
    return "".join(unicodedata.normalize("NFC", name).casefold().split())
