"""What the stages have written, read when it is asked for.

| artifact | is |
| --- | --- |
| `load_data`, `create_splits` | the table of the videos, that of their parts: Polars frames |
| `create_dataset`, `generate_augmentations` | `Clips`: their table, and the frames of each |
| any other stage | `Outs`: its files by their names |
| any other stage with cells, as `train` | `Cells`: the `Outs` of each |
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import polars as pl
from numpy.typing import NDArray

from mlops.errors import PipelineError
from mlops.files.tables import size
from mlops.notebook.stages import html_table
from mlops.recorded.dvc_lock import DIRECTORIES, LOCK, TABLES, LockError, recorded_md5s

T = TypeVar("T")

# The stages of which one table is what is asked for, and those of clips, by key of TABLES.
_FRAMES = {"load_data": "index", "create_splits": "splits"}
_CLIPS = {"create_dataset": "clips", "generate_augmentations": "augmentations"}

# The outs of a stage, as dvc.yaml spells them, by cell; the cell of a stage without any is "".
Layout = Mapping[str, Mapping[str, Sequence[str]]]


class Lazy(Generic[T]):
    """Things by name, each made when it is first asked for; not a dict, for a name that there is
    not is told beside those that there are."""

    _kind = "name"

    def __init__(self, names: Sequence[str]) -> None:
        self._names = list(names)
        self._made: dict[str, T] = {}

    def __getitem__(self, name: str) -> T:
        self._check(name)
        if name not in self._made:
            self._made[name] = self._make(name)
        return self._made[name]

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def keys(self) -> list[str]:
        return list(self._names)

    def _make(self, name: str) -> T:
        raise NotImplementedError

    def _check(self, name: str) -> None:
        if name not in self._names:
            raise PipelineError(
                f"artifacts: expected a {self._kind} of {', '.join(self._names)}, got {name!r}; "
                "write one of them"
            )


class Outs(Lazy[Any]):
    """The outs of a stage or of one cell, by the names of their files.

    A table (.parquet, .csv) is a Polars frame, .json what it holds, .pt the state that
    `mlops.files.checkpoint_file` has saved, on the CPU; anything else is its path.
    """

    _kind = "file"

    def __init__(self, files: "Files", paths: Sequence[str]) -> None:
        self._paths = {Path(path).name: path for path in paths}
        super().__init__(list(self._paths))
        self._files = files

    def path(self, name: str) -> Path:
        """Where an out lies; it is there."""
        self._check(name)
        return self._files.find(self._paths[name])

    def _make(self, name: str) -> Any:
        path = self.path(name)
        reader = _READERS.get(path.suffix)
        return path if reader is None else reader(path)

    def __repr__(self) -> str:
        return f"Outs({', '.join(self)})"

    def _repr_html_(self) -> str:
        rows = [(name, path, self._files.size(path)) for name, path in self._paths.items()]
        return html_table(("name", "path", "size"), rows)


class Cells(Lazy[Outs]):
    """The outs of each cell, such as `small3d-0-0`: what DVC names after the stage and "@"."""

    _kind = "cell"

    def __init__(self, files: "Files", cells: Mapping[str, Sequence[str]]) -> None:
        super().__init__(list(cells))
        self.paths = cells  # of the outs of each cell, as dvc.yaml spells them
        self._outs = {cell: Outs(files, paths) for cell, paths in cells.items()}

    def frame(self, name: str) -> pl.DataFrame:
        """The tables of this name of all cells below each other, the column `cell` in front."""
        tables: list[pl.DataFrame] = [
            self[cell][name].select(pl.lit(cell).alias("cell"), pl.all()) for cell in self
        ]
        return pl.concat(tables)

    def _make(self, name: str) -> Outs:
        return self._outs[name]

    def __repr__(self) -> str:
        return f"Cells({', '.join(self)})"

    def _repr_html_(self) -> str:
        return html_table(
            ("cell", "names"), [(cell, ", ".join(outs)) for cell, outs in self._outs.items()]
        )


class Clips(Sequence[NDArray[np.uint8]]):
    """`table` has a row a clip; `clips[row]` are its frames.

    They are uint8 of shape (frames, height, width, 3), RGB, mapped from the file, read-only.
    """

    def __init__(self, table: pl.DataFrame, directory: Path) -> None:
        self.table = table
        self.directory = directory

    # A row is one clip; the table makes slices.
    def __getitem__(self, row: int) -> NDArray[np.uint8]:  # type: ignore[override]
        if not -len(self) <= row < len(self):
            raise IndexError(f"expected a row of the table, below {len(self)}, got {row}")
        clip = self.table.row(row, named=True)
        path = self.directory / clip["pack"]
        shape = (clip["frames"], clip["height"], clip["width"], 3)
        try:
            return np.memmap(path, np.uint8, "r", offset=clip["offset_bytes"], shape=shape)
        except (FileNotFoundError, ValueError):
            raise PipelineError(
                f"{path}: expected a pack with {shape} values from byte {clip['offset_bytes']} "
                "on, found none; dvc checkout brings it back"
            ) from None

    def __len__(self) -> int:
        return self.table.height

    def __repr__(self) -> str:
        return f"Clips({len(self)} in {self.directory.name})\n{self.table}"

    def _repr_html_(self) -> str:
        return self.table._repr_html_()


class Artifacts(Lazy[Any]):
    """By stage, what the stages have written; `outs` has all files of any of them."""

    _kind = "stage"

    def __init__(
        self, files: "Files", layout: Layout, stale: Mapping[str, str] | None = None
    ) -> None:
        """`stale` names the stages, or cells of them, whose outs are not to be taken, and why."""
        super().__init__(list(layout))
        self._files = files
        self._layout = layout
        self._stale = stale or {}

    def outs(self, stage: str) -> "Outs | Cells":
        """All that a stage writes, also where `artifacts[stage]` is but the table of it."""
        self._check(stage)
        cells = self._layout[stage]
        return Outs(self._files, cells[""]) if "" in cells else Cells(self._files, cells)

    def _make(self, name: str) -> Any:
        if name in _FRAMES:
            return pl.read_parquet(self._files.find(TABLES[_FRAMES[name]]))
        if name in _CLIPS:
            data = _CLIPS[name]
            directory = self._files.find(DIRECTORIES[data])
            return Clips(pl.read_parquet(self._files.find(TABLES[data])), directory)
        return self.outs(name)

    def _check(self, name: str) -> None:
        super()._check(name)
        if faults := [
            f"{stage}: expected what this configuration gives, got a stage that is not up to date "
            f"({status}); run_pipeline() makes it"
            for stage, status in self._stale.items()
            if stage.partition("@")[0] == name
        ]:
            raise PipelineError(*faults)

    def __repr__(self) -> str:
        return f"Artifacts({', '.join(self)})"

    def _repr_html_(self) -> str:
        rows = [
            (stage, cell or "", ", ".join(outs))
            for stage, cells in self._layout.items()
            for cell, outs in cells.items()
        ]
        return html_table(("stage", "cell", "outs"), rows)


class Files:
    """The files of a repository's workspace.

    With `recorded`, the md5 by path of dvc.lock as it was after a run, those of that run alone:
    one that dvc.lock names otherwise by now is another run's, and refused.
    """

    def __init__(self, root: Path, recorded: Mapping[str, str] | None = None) -> None:
        self._root = root
        self._recorded = recorded

    def find(self, path: str) -> Path:
        place = self._root / path
        if self._recorded is not None:
            try:
                present = recorded_md5s((self._root / LOCK).read_bytes())
            except (FileNotFoundError, LockError):  # removed, or with the marks of a conflict
                present = {}
            if present.get(path) != self._recorded.get(path):
                raise PipelineError(
                    f"{path}: expected what this run of the pipeline has made, got that of "
                    "another; its own run_pipeline() brings it back, from DVC's cache"
                )
        if not place.exists():
            raise PipelineError(
                f"{path}: expected an out of the pipeline, found none; run_pipeline() makes it"
            )
        return place

    def size(self, path: str) -> str:
        """Of a file, in words; nothing for a directory."""
        place = self._root / path
        if not place.exists():
            return "not there"
        return "" if place.is_dir() else size(place.stat().st_size)


def _checkpoint(path: Path) -> Any:
    # Importing torch takes seconds, and most of a notebook can do without.
    from mlops.files.checkpoint_file import load_checkpoint

    return load_checkpoint(path)


_READERS: Mapping[str, Callable[[Path], Any]] = {
    ".csv": pl.read_csv,
    ".json": lambda path: json.loads(path.read_bytes()),
    ".parquet": pl.read_parquet,
    ".pt": _checkpoint,
}
