"""The stages of the pipeline as a table, in text and in HTML."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from html import escape

import polars as pl

from mlops.errors import PipelineError
from mlops.files.tables import aligned

UP_TO_DATE = "up to date"

_HEADER = ("stage", "needs", "status", "took")


@dataclass(frozen=True, kw_only=True)
class StageRow:
    """One stage, or one cell of it.

    `status` is what `run_pipeline` would find:

    - "up to date"
    - "not run yet"
    - "changed: …": parameters by their keys, code and data by their paths, outs that are not
      there or not what was written
    - "after …": nothing of its own has changed, but it is run again if those stages that it
      needs, which are not up to date, come to something else
    """

    name: str  # as DVC has it: "load_data", "train@small3d-0-0"
    needs: Sequence[str]  # the stages whose outs it reads, without those that these need
    outs: Sequence[str]  # as dvc.yaml spells them
    status: str
    took_sec: float | None = None  # of the run that made what is there; None if nobody noted it

    @property
    def is_up_to_date(self) -> bool:
        return self.status == UP_TO_DATE


class StageTable(tuple[StageRow, ...]):
    """The stages in the order of dvc.yaml; `table["load_data"]` is one by its name."""

    # One signature for both, where that of a tuple has an overload for slices.
    def __getitem__(self, key: int | str) -> StageRow:  # type: ignore[override]
        if isinstance(key, int):
            return super().__getitem__(key)
        for row in self:
            if row.name == key:
                return row
        known = ", ".join(row.name for row in self)
        raise PipelineError(f"stages: expected one of {known}, got {key!r}; write one of them")

    @property
    def frame(self) -> pl.DataFrame:
        """Columns stage, needs, status and took_sec, which is null if it is not known."""
        return pl.DataFrame(
            [(row.name, list(row.needs), row.status, row.took_sec) for row in self],
            schema={
                "stage": pl.String,
                "needs": pl.List(pl.String),
                "status": pl.String,
                "took_sec": pl.Float64,
            },
            orient="row",
        )

    def __repr__(self) -> str:
        return aligned(_HEADER, [_texts(row) for row in self], numbers={"took"})

    def _repr_html_(self) -> str:
        return html_table(_HEADER, [_texts(row) for row in self])


def html_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table as notebooks show it."""
    lines = [("th", header), *(("td", row) for row in rows)]
    body = "".join(f"<tr>{''.join(_cell(tag, text) for text in row)}</tr>" for tag, row in lines)
    return f"<table>{body}</table>"


def _texts(row: StageRow) -> list[str]:
    return [row.name, ", ".join(row.needs) or "nothing", row.status, _took(row.took_sec)]


def _took(sec: float | None) -> str:
    """Format a duration; "unknown" for None.

    >>> _took(0.84), _took(3725.2), _took(None)
    ('0.8 s', '1:02:05', 'unknown')
    """
    if sec is None:
        return "unknown"
    return f"{sec:.1f} s" if sec < 60 else str(timedelta(seconds=round(sec)))


def _cell(tag: str, text: str) -> str:
    return f'<{tag} style="text-align: left">{escape(text)}</{tag}>'
