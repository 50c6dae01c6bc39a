"""The training, validation and test clips of a cell, after all checks for leakage."""

import polars as pl

from video.splitting.given import parts_compared
from video.splitting.leakage import (
    LeakageError,
    check_copies,
    check_disjoint,
    check_pictures,
    check_splits,
)
from video.splitting.splits import TEST, TRAIN, VAL, split_in_fold

COPIES = "augmented copies"


def cell_clips(
    splits: pl.DataFrame,
    clips: pl.DataFrame,
    fold: int,
    *,
    near_duplicate_distance: float,
    accept_given_leaks: bool = False,
    copies: pl.DataFrame | None = None,
) -> dict[str, pl.DataFrame]:
    """Return the clips of the cell that validates on `fold`: TRAIN, VAL and TEST.

    With `copies`, the table of augmented clips, also those of the training videos, as COPIES. The
    copies of the validation videos are in no part of the cell, and no training clip may be one.
    `near_duplicate_distance` is the one that the splits were made with. With `accept_given_leaks`,
    parts that the index gives may share content.
    Raises `LeakageError`, which names the first pair for every kind of fault.
    """
    check_splits(splits, clips)
    # The group is the splits' own, in which copies of one content have been joined.
    roles = splits.select("video_path", "group", role=split_in_fold(pl.col("fold"), fold))
    cell = {role: _of_role(clips, roles, role) for role in (TRAIN, VAL, TEST)}
    if cell[VAL].is_empty():
        raise LeakageError(
            f"fold {fold}: expected videos to validate on, got none; where the index gives a val "
            "part, it is fold 0, and the only one: set folds: [0]"
        )
    parts = dict(cell)
    if copies is not None:
        check_copies(copies, splits)
        cell[COPIES] = _of_role(copies, roles, TRAIN)
        # The copies that training gets, and those that it must not get.
        of_val = _of_role(copies, roles, VAL)
        parts[TRAIN] = pl.concat(common_columns(cell[TRAIN], cell[COPIES]))
        parts[VAL] = pl.concat(common_columns(cell[VAL], of_val))
    compared = parts_compared(splits, accept_given_leaks=accept_given_leaks)
    check_disjoint({role: parts[role] for role in compared})
    check_pictures({role: cell[role] for role in compared}, max_distance=near_duplicate_distance)
    return cell


def common_columns(*tables: pl.DataFrame) -> list[pl.DataFrame]:
    """Return the tables with the columns that they share, in the order of the first table."""
    names = [name for name in tables[0].columns if all(name in other.columns for other in tables)]
    return [table.select(names) for table in tables]


def _of_role(clips: pl.DataFrame, roles: pl.DataFrame, role: str) -> pl.DataFrame:
    joined = clips.drop("group").join(roles, on="video_path", how="inner", maintain_order="left")
    return joined.filter(pl.col("role") == role)
