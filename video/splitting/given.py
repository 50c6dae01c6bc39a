"""Parts that the index gives to its videos, in the column GIVEN, instead of those by hashes.

Test videos are those of the part "test". If videos are given to "val", these are the one
validation set, fold 0, and all others always train; otherwise the videos of "train" are divided
into folds as without a given split.
"""

from collections.abc import Sequence

import polars as pl

from video.splitting.splits import TEST, TRAIN, VAL, assign_splits, split_in_fold

GIVEN = "given_split"
PARTS = (TRAIN, VAL, TEST)

ALWAYS_TRAINS = -1  # the fold of videos that no cell validates on


def gives_validation(videos: pl.DataFrame) -> bool:
    return VAL in videos[GIVEN]


def free_videos(videos: pl.DataFrame) -> pl.DataFrame:
    """Return the videos whose part, or fold, is not given."""
    if GIVEN not in videos.columns:
        return videos
    return videos.clear() if gives_validation(videos) else videos.filter(pl.col(GIVEN) != TEST)


def assign_given(videos: pl.DataFrame, *, num_folds: int, rebalance: int) -> pl.DataFrame:
    """Add `split` and `fold` (null for test videos) to `videos` (`group`, GIVEN)."""
    if gives_validation(videos):
        folds = {VAL: 0, TRAIN: ALWAYS_TRAINS, TEST: None}
        given = pl.col(GIVEN).replace_strict(folds, return_dtype=pl.Int64)
        divided = videos.with_columns(given.alias("fold"))
    else:
        divided = assign_splits(videos, test_share=0.0, num_folds=num_folds, rebalance=rebalance)
        fold = pl.when(pl.col(GIVEN) != TEST).then(pl.col("fold"))
        divided = divided.with_columns(fold.alias("fold"))
    return divided.with_columns(split_in_fold(pl.col("fold"), 0).alias("split"))


def parts_compared(splits: pl.DataFrame, *, accept_given_leaks: bool) -> Sequence[str]:
    """Return the roles of which no two may share content: not those given, if that is accepted."""
    if not accept_given_leaks:
        return PARTS
    return () if ALWAYS_TRAINS in splits["fold"] else (TRAIN, VAL)


def divided_groups(videos: pl.DataFrame, part: str) -> pl.DataFrame:
    """Return the groups with videos in several values of the column `part`, sorted by name.

    Columns: group, videos (their number), parts (sorted, of which null is the last).
    """
    groups = videos.group_by("group").agg(
        pl.len().alias("videos"), pl.col(part).unique().sort(nulls_last=True).alias("parts")
    )
    return groups.filter(pl.col("parts").list.len() > 1).sort("group")
