"""What differs between two versions of a table, row by row."""

from collections.abc import Mapping

import polars as pl

ADDED, REMOVED, RENAMED, REGROUPED = "added", "removed", "renamed", "regrouped"


def row_differences(
    before: pl.DataFrame,
    after: pl.DataFrame,
    *,
    key: str,
    content: str,
    shown: str,
    facts: Mapping[str, str],
    group: str,
) -> pl.DataFrame:
    """A row for each row and each way in which it differs: `key`, `change`, `before`, `after`.

    In both tables `key` names a row, once, and `content` is the hash of what it stands for.
    `facts` gives for each kind of change the column in which it shows; `before` and `after` are
    that column's values as text. The other kinds of change:

    - `added`, `removed`: a key that one table lacks; the value is that of the column `shown`.
    - `renamed`: a removed key and an added one with the same content, if no other removed and no
      other added key has that content. The value is the key; `key` is the new one, and the other
      facts are compared across the two.
    - `regrouped`: the column `group` has another value, and of the rows in both tables others
      share it. So a group that only changes its name is none.

    Sorted by the kind of change, then by key.
    """
    gone, new = before.join(after, on=key, how="anti"), after.join(before, on=key, how="anti")
    renamed = gone.filter(pl.col(content).is_unique()).join(
        new.filter(pl.col(content).is_unique()), on=content, suffix="_after"
    )
    known_as = dict(renamed.select(key, f"{key}_after").iter_rows())
    before = before.with_columns(pl.col(key).replace(known_as))
    both = before.join(after, on=key, suffix="_after")
    found = [
        _rows(after.join(before, on=key, how="anti"), key, ADDED, None, shown),
        _rows(before.join(after, on=key, how="anti"), key, REMOVED, shown, None),
        _rows(renamed, f"{key}_after", RENAMED, key, f"{key}_after"),
        *(
            _rows(_differing(both, column), key, change, column, f"{column}_after")
            for change, column in facts.items()
        ),
        _rows(_regrouped(both, group), key, REGROUPED, group, f"{group}_after"),
    ]
    columns = [key, "change", "before", "after"]
    kinds = pl.Enum([ADDED, REMOVED, RENAMED, *facts, REGROUPED])
    table = pl.concat(
        [rows.rename(dict(zip(rows.columns, columns, strict=True))) for rows in found]
    )
    return table.with_columns(pl.col("change").cast(kinds)).sort("change", key)


def _differing(both: pl.DataFrame, column: str) -> pl.DataFrame:
    return both.filter(pl.col(column).ne_missing(pl.col(f"{column}_after")))


def _regrouped(both: pl.DataFrame, group: str) -> pl.DataFrame:
    # A group before and one after have the same rows if as many rows as each has are in both.
    old, new = group, f"{group}_after"
    shared = pl.len().over(old, new)
    others = (pl.len().over(old) != shared) | (pl.len().over(new) != shared)
    return _differing(both.filter(others), group)


def _rows(
    rows: pl.DataFrame, key: str, change: str, before: str | None, after: str | None
) -> pl.DataFrame:
    def value(column: str | None) -> pl.Expr:
        return (pl.lit(None) if column is None else pl.col(column)).cast(pl.String)

    return rows.select(
        pl.col(key),
        pl.lit(change).alias("_change"),
        value(before).alias("_before"),
        value(after).alias("_after"),
    )
