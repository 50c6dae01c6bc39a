"""Differences between two versions of a table, row by row."""

import polars as pl

# Each kind of change that shows in a column of its own.
COLUMNS = {"changed": "content", "relabelled": "label", "moved": "part", "remade": "made"}
CHANGES = pl.Enum(["added", "removed", "renamed", *COLUMNS, "regrouped"])


def row_differences(before: pl.DataFrame, after: pl.DataFrame) -> pl.DataFrame:
    """Return a row for each row and each way in which it differs, sorted by change and key.

    In both tables `key` names a row, once; `content` is the hash of what it stands for, and `label`
    its class; `group`, and `part` and `made` if both have them, are what it belongs to and what was
    made of it. The result has the columns `key`, `change`, `before` and `after`, the latter two as
    text. Beside those of `COLUMNS`, the kinds of change are:

    - `added`, `removed`: a key that one table lacks; the value is its part, or else its label.
    - `renamed`: a removed key and an added one with the same content, if no other removed and no
      other added key has that content. The value is the key; `key` is the new one, and the other
      columns are compared across the two.
    - `regrouped`: the group has another name, and of the rows in both tables others share it. So
      a group that only changes its name is none.
    """
    columns = [name for name in before.columns if name in after.columns]
    before, after = before.select(columns), after.select(columns)
    shown = "part" if "part" in columns else "label"
    gone, new = before.join(after, on="key", how="anti"), after.join(before, on="key", how="anti")
    renamed = gone.filter(pl.col("content").is_unique()).join(
        new.filter(pl.col("content").is_unique()), on="content", suffix="_after"
    )
    known_as = dict(renamed.select("key", "key_after").iter_rows())
    before = before.with_columns(pl.col("key").replace(known_as))
    both = before.join(after, on="key", suffix="_after")
    changes = {change: name for change, name in COLUMNS.items() if name in columns}
    found = [
        _rows(after.join(before, on="key", how="anti"), "added", after=shown),
        _rows(before.join(after, on="key", how="anti"), "removed", before=shown),
        _rows(renamed, "renamed", "key", "key_after", key="key_after"),
        *(_changed(both, change, name) for change, name in changes.items()),
        _changed(_of_other_groups(both), "regrouped", "group"),
    ]
    return pl.concat(found).sort("change", "key")


def _of_other_groups(both: pl.DataFrame) -> pl.DataFrame:
    # A group before and one after have the same rows if as many rows as each has are in both.
    shared = pl.len().over("group", "group_after")
    return both.filter(
        (pl.len().over("group") != shared) | (pl.len().over("group_after") != shared)
    )


def _changed(both: pl.DataFrame, change: str, column: str) -> pl.DataFrame:
    differing = both.filter(pl.col(column).ne_missing(pl.col(f"{column}_after")))
    return _rows(differing, change, column, f"{column}_after")


def _rows(
    rows: pl.DataFrame,
    change: str,
    before: str | None = None,
    after: str | None = None,
    *,
    key: str = "key",
) -> pl.DataFrame:
    """Return the rows as the result has them, with the values of the columns `before`, `after`."""
    values = [pl.lit(None) if name is None else pl.col(name) for name in (before, after)]
    return rows.select(
        pl.col(key).alias("key"),
        pl.lit(change, CHANGES).alias("change"),
        values[0].cast(pl.String).alias("before"),
        values[1].cast(pl.String).alias("after"),
    )
