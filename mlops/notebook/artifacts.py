"""Artifacts: the outs of the stages by name, loaded when they are asked for.

| artifact | is |
| --- | --- |
| a stage that makes a table of the data, as dvc.yaml declares it | the table: a Polars frame |
| if its rows name arrays in files | `ArrayTable`: the table, and the array of each row |
| any other stage | `Outs`: its files by their names |
| any other stage with cells | `Cells`: the `Outs` of each |
"""

import json
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import polars as pl
from numpy.typing import NDArray

from mlops.errors import PipelineError
from mlops.files.tables import size
from mlops.notebook.stages import html_table
from mlops.recorded.dvc_lock import workspace_md5s
from mlops.recorded.dvc_yaml import Arrays, data_tables

T = TypeVar("T")

# The outs of a stage, as dvc.yaml spells them, by cell; the cell of a stage without any is "".
Layout = Mapping[str, Mapping[str, Sequence[str]]]


class Lazy(Mapping[str, T]):
    """A mapping whose values are each made when first asked for.

    A name that there is not is told beside those that there are.
    """

    _kind = "name"

    def __init__(self, names: Iterable[str]) -> None:
        self._made: dict[str, T | None] = dict.fromkeys(names)

    def __getitem__(self, name: str) -> T:
        self._check(name)
        if (found := self._made[name]) is None:
            found = self._made[name] = self._make(name)
        return found

    def __contains__(self, name: object) -> bool:
        return name in self._made

    def __iter__(self) -> Iterator[str]:
        return iter(self._made)

    def __len__(self) -> int:
        return len(self._made)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(self)})"

    @abstractmethod
    def _make(self, name: str) -> T:
        """Load the value of a name."""

    def _check(self, name: str) -> None:
        if name not in self._made:
            raise PipelineError(
                f"artifacts: expected a {self._kind} of {', '.join(self)}, got {name!r}; "
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
        super().__init__(self._paths)
        self._files = files

    def path(self, name: str) -> Path:
        """Return where an out lies; it is there."""
        self._check(name)
        return self._files.find(self._paths[name])

    def _make(self, name: str) -> Any:
        path = self.path(name)
        return _READERS.get(path.suffix, Path)(path)

    def _repr_html_(self) -> str:
        rows = [(name, path, self._files.size(path)) for name, path in self._paths.items()]
        return html_table(("name", "path", "size"), rows)


class Cells(Lazy[Outs]):
    """The outs of each cell, such as `small3d-0-0`: what DVC names after the stage and "@"."""

    _kind = "cell"

    def __init__(self, files: "Files", cells: Mapping[str, Sequence[str]]) -> None:
        super().__init__(cells)
        self._paths = cells
        self._files = files

    def frame(self, name: str) -> pl.DataFrame:
        """Return the tables of this name of all cells, concatenated; `cell` is the first column."""
        tables: Iterable[tuple[str, pl.DataFrame]]
        tables = ((cell, outs[name]) for cell, outs in self.items())
        return pl.concat([t.select(pl.lit(cell).alias("cell"), pl.all()) for cell, t in tables])

    def _make(self, name: str) -> Outs:
        return Outs(self._files, self._paths[name])


class ArrayTable(Sequence[NDArray[Any]]):
    """A `table`, and for each row an array, mapped from its file, read-only: `arrays[row]`."""

    def __init__(self, table: pl.DataFrame, directory: Path, arrays: Arrays) -> None:
        self.table = table
        self.directory = directory
        self._arrays = arrays

    # A row is one array; the table makes slices.
    def __getitem__(self, row: int) -> NDArray[Any]:  # type: ignore[override]
        if not -len(self) <= row < len(self):
            raise IndexError(f"expected a row of the table, below {len(self)}, got {row}")
        values = self.table.row(row, named=True)
        path = self.directory / values[self._arrays.file]
        offset = values[self._arrays.offset_bytes]
        shape = tuple(n if isinstance(n, int) else values[n] for n in self._arrays.shape)
        try:
            return np.memmap(path, values[self._arrays.dtype], "r", offset=offset, shape=shape)
        except (FileNotFoundError, ValueError):
            raise PipelineError(
                f"{path}: expected a file with {shape} values from byte {offset} on, found none; "
                "dvc checkout brings it back"
            ) from None

    def __len__(self) -> int:
        return self.table.height

    def __repr__(self) -> str:
        return f"ArrayTable({len(self)} in {self.directory.name})\n{self.table}"

    def _repr_html_(self) -> str:
        return self.table._repr_html_()


class Artifacts(Lazy[Any]):
    """The outs of the stages, by stage; `outs` has all files of any of them."""

    _kind = "stage"

    def __init__(
        self, files: "Files", layout: Layout, stale: Mapping[str, str] | None = None
    ) -> None:
        """Open the artifacts; `stale` names stages or cells whose outs are refused, and why."""
        super().__init__(layout)
        self._files = files
        self._layout = layout
        self._stale = stale or {}

    def outs(self, stage: str) -> "Outs | Cells":
        """Return all that a stage writes, also if `artifacts[stage]` is only a table of it."""
        self._check(stage)
        cells = self._layout[stage]
        return Outs(self._files, cells[""]) if "" in cells else Cells(self._files, cells)

    def _make(self, name: str) -> Any:
        paths = self._layout[name].get("", ())
        for table in data_tables(self._files.root).values():
            if table.path in paths:
                frame = pl.read_parquet(self._files.find(table.path))
                if (arrays := table.meta.arrays) is None:
                    return frame
                return ArrayTable(frame, self._files.find(arrays.directory), arrays)
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


class Files:
    """The files of a repository's workspace.

    With `recorded`, the md5 by path of dvc.lock as it was after a run, those of that run alone:
    one that dvc.lock names otherwise by now is another run's, and refused.
    """

    def __init__(self, root: Path, recorded: Mapping[str, str] | None = None) -> None:
        self.root = root
        self._recorded = recorded

    def find(self, path: str) -> Path:
        """Return where an out lies; raises `PipelineError` if it is not there or another's."""
        run = self._recorded
        if run is not None and workspace_md5s(self.root).get(path) != run.get(path):
            raise PipelineError(
                f"{path}: expected what this run of the pipeline has made, got that of another; "
                "its own run_pipeline() brings it back, from DVC's cache"
            )
        if not (self.root / path).exists():
            raise PipelineError(
                f"{path}: expected an out of the pipeline, found none; run_pipeline() makes it"
            )
        return self.root / path

    def size(self, path: str) -> str:
        """Return the size of a file, in words; nothing for a directory."""
        place = self.root / path
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
