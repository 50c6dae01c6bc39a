"""The gate between the splits: nothing of a validation or test video may reach training.

It looks at what the loaders hold, not at what the splits promised, and fails closed: a table
without groups cannot pass.
"""

from collections.abc import Iterable

import polars as pl

IDENTITIES = ("group", "sha256", "clip_sha256")


class LeakageError(ValueError):
    """Two splits share content; the message names the first pair of every kind."""


def check_disjoint(parts: dict[str, pl.DataFrame]) -> None:
    """Raise `LeakageError` if two of the parts share a group, a video or a clip's bytes.

    `parts` maps a split's name to its clips' table with `video_path` and IDENTITIES, where
    `sha256` is that of the video which a clip, augmented or not, was made of.
    """
    faults: list[str] = []
    names = sorted(parts)
    for name in names:
        for column in IDENTITIES:
            if column not in parts[name].columns:
                faults.append(f"{name}: expected a column {column}, without it nothing is proven")
            elif parts[name][column].null_count():
                faults.append(f"{name}: expected a {column} in every row, got empty ones")
    if not faults:
        for i, first in enumerate(names):
            for second in names[i + 1 :]:
                faults += _shared(first, parts[first], second, parts[second])
    if faults:
        raise LeakageError("\n".join(faults))


def _shared(
    first: str, first_table: pl.DataFrame, second: str, second_table: pl.DataFrame
) -> Iterable[str]:
    for column in IDENTITIES:
        pair = first_table.join(second_table, on=column, how="inner").head(1)
        if not pair.is_empty():
            row = pair.row(0, named=True)
            yield (
                f"{first} and {second} share the {column} {row[column]}: '{row['video_path']}' and "
                f"'{row['video_path_right']}'; run create_splits again"
            )
