"""Place of an index and its videos in the repository."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from commands.index.files import shown
from mlops.errors import PipelineError
from mlops.files import atomic
from mlops.run.directory import check_experiment_name
from stages.paths import SAMPLE, WRITTEN
from video.index.spelling import plain

DATA = Path("data")


@dataclass(frozen=True, kw_only=True)
class Placement:
    """`root` is what the paths of the index are relative to: the folder, or a link to it."""

    name: str
    folder: Path
    root: Path

    @property
    def index(self) -> Path:
        return DATA / self.name / "index.csv"

    @property
    def ignored(self) -> Path:
        return DATA / self.name / "ignored.csv"

    @property
    def is_linked(self) -> bool:
        return self.root != self.folder

    def link(self) -> None:
        """Link the root to a folder outside of the repository, unless that is done."""
        if self.is_linked and not self.root.is_symlink():
            self.root.parent.mkdir(parents=True, exist_ok=True)
            self.root.symlink_to(self.folder.resolve(), target_is_directory=True)

    def check(self, *, force: bool) -> None:
        """Raise `PipelineError` if something else lies where the index or the link is to lie."""
        faults = []
        if Path(self.name) in [path.relative_to(DATA) for path in _TAKEN]:
            faults.append(
                f"{DATA / self.name}: expected a directory of its own, got one where the pipeline "
                "writes; give another name with --name"
            )
        if Path.cwd().resolve().is_relative_to(self.folder.resolve()):
            faults.append(
                f"{shown(self.folder)}: expected a folder of videos, got one that holds this "
                "repository; move the videos into a folder of their own"
            )
        elif self.is_linked and os.path.lexists(self.root) and not self._is_link_to_folder():
            faults.append(
                f"{self.root}: expected a link to {shown(self.folder)} or nothing, found "
                "something else; give another name with --name"
            )
        faults += [
            f"{path}: expected no file, for the command writes it, found one; --force writes it "
            "anew and keeps it as .replaced1; or, if it is your own table, give it another name, "
            "and its rows are read"
            for path in (self.index, self.ignored)
            if path.exists() and not force
        ]
        if faults:
            raise PipelineError(*faults)

    def _is_link_to_folder(self) -> bool:
        return self.root.is_symlink() and self.root.resolve() == self.folder.resolve()

    def write(self, path: Path, content: str) -> None:
        """Write a file and keep what was there under another name."""
        old = atomic.free_name(path, "replaced") if path.exists() else None
        with atomic.replacing(path, keep_as=old) as temporary:
            temporary.write_bytes(content.encode())


_TAKEN = [path for path in (*WRITTEN, SAMPLE) if path.is_relative_to(DATA)]


def placement(folder: Path, name: str | None) -> Placement:
    """Return where the index of a folder lies; raise `PipelineError` for a name that cannot be."""
    if not folder.is_dir():
        found = "a file" if folder.exists() else "nothing"
        raise PipelineError(
            f"{shown(folder)}: expected a folder with videos, found {found}; give the folder, and "
            "a table that lies in it with --table"
        )
    absolute = Path(os.path.abspath(folder))  # noqa: PTH100 - a link below data/ is not followed
    name = name or _safe(absolute.name)
    try:
        check_experiment_name(name)
    except ValueError:
        raise PipelineError(
            f"--name: expected at most 100 letters, digits, '_', '-' and '.', got '{name}'; it "
            f"names a directory below {DATA}/ and the runs"
        ) from None
    here = Path.cwd()
    inside = [base for base in (here, here.resolve()) if absolute.is_relative_to(base)]
    if inside:
        root = absolute.relative_to(inside[0])
        return Placement(name=name, folder=root, root=root)
    return Placement(name=name, folder=absolute, root=DATA / name / "videos")


def _safe(name: str) -> str:
    return re.sub(r"[^\w.-]+", "_", plain(name)).strip("._")[:100] or "mine"
