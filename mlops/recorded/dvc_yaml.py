"""dvc.yaml, read for what it says of the data: its tables, and the names of files in directories.

The tables are the `artifacts` of `type: table`. Their `meta` says what their columns mean, for this
package knows none of them:

| key | is |
| --- | --- |
| key | the column that names what a row is about; several rows may be about the same |
| content, label, group | the columns with its sha256, its class and its group |
| counts | by name of a count, the columns whose different values are counted |
| part | by text, the column that stands in its braces; the first that has a value is the part |
| made | the column with the sha256 of what was made of it |
| arrays | where the array of a row lies: see `Arrays` |
"""

from pathlib import Path

import msgspec

from mlops.errors import PipelineError
from mlops.files.yaml_text import load_yaml

PIPELINE = Path("dvc.yaml")


class Arrays(msgspec.Struct, frozen=True):
    """Arrays in the files of a directory, one for each row of a table; the rest are its columns.

    `shape` may have numbers as well.
    """

    directory: str
    file: str
    offset_bytes: str
    shape: list[str | int]
    dtype: str


class Meaning(msgspec.Struct, frozen=True):
    """Columns of a table by what they mean."""

    key: str
    content: str
    label: str
    group: str
    counts: dict[str, list[str]]
    part: dict[str, str] = {}
    made: str | None = None
    arrays: Arrays | None = None


class DataTable(msgspec.Struct, frozen=True):
    """A table of the data, as dvc.yaml declares it."""

    path: str
    meta: Meaning

    @property
    def directory(self) -> str | None:
        """The directory of the files that the table names."""
        return self.meta.arrays.directory if self.meta.arrays else None


def data_tables(root: Path = Path()) -> dict[str, DataTable]:
    """Return the tables that the dvc.yaml of a repository declares, by name."""
    artifacts = load_yaml(root / PIPELINE).get("artifacts", {})
    tables = {name: item for name, item in artifacts.items() if item.get("type") == "table"}
    try:
        return msgspec.convert(tables, dict[str, DataTable])
    except msgspec.ValidationError as error:
        raise PipelineError(
            f"{root / PIPELINE}: artifacts: expected the meaning of the columns of each table, got "
            f"a fault ({error}); restore it with git checkout HEAD -- {PIPELINE}"
        ) from None


def out_patterns() -> dict[Path, str]:
    """Return, by directory, the pattern that the names of its files match: `meta: {files: …}`."""
    stages = load_yaml(PIPELINE)["stages"].values()
    return {
        Path(place): options["meta"]["files"]
        for stage in stages
        for out in stage.get("outs", [])
        if isinstance(out, dict)
        for place, options in out.items()
        if "files" in options.get("meta", {})
    }
