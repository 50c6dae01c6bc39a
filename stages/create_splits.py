"""Deal whole groups of videos to test and folds."""

from pathlib import Path

import polars as pl

from mlops import files
from mlops.errors import PipelineError
from mlops.stage import run_stage
from stages.params import read_params
from video.splits import assign_splits, class_names, effective_groups

VIDEOS = Path("data/videos.parquet")
SPLITS = Path("data/splits.parquet")


def main() -> None:
    params = read_params()
    videos = pl.read_parquet(VIDEOS)
    videos = videos.with_columns(group=pl.Series(effective_groups(videos), dtype=pl.String))
    splits = assign_splits(
        videos,
        test_share=params.split.test_share,
        num_folds=params.split.num_folds,
        seed=params.seed,
    )
    check_classes(splits, params.split.num_folds)
    with files.replacing(SPLITS) as path:
        splits.select("video_path", "sha256", "label", "group", "split", "fold").write_parquet(path)
    report(splits)


def check_classes(splits: pl.DataFrame, num_folds: int) -> None:
    """A part without a class can neither be trained on nor scored."""
    found = set(splits.select("fold", "label").iter_rows())
    faults = [
        f"{'test' if fold is None else f'fold {fold}'}: expected videos of every class, got none "
        f"of '{label}'; there are too few groups with it: add videos or lower split.num_folds"
        for fold in (None, *range(num_folds))
        for label in class_names(splits)
        if (fold, label) not in found
    ]
    if faults:
        raise PipelineError(*faults)


def report(splits: pl.DataFrame) -> None:
    groups = splits.group_by("group").agg(labels=pl.col("label").n_unique())
    mixed = groups.filter(pl.col("labels") > 1).height
    print(f"create_splits: {groups.height} groups, {mixed} of them with more than one label")
    parts = splits.group_by("fold").agg(
        pl.len().alias("videos"),
        pl.col("group").n_unique().alias("groups"),
        *((pl.col("label") == label).sum().alias(label) for label in class_names(splits)),
    )
    for row in parts.sort("fold").iter_rows(named=True):
        fold = row.pop("fold")
        counts = ", ".join(f"{number} {name}" for name, number in row.items())
        print(f"create_splits: {'test' if fold is None else f'fold {fold}'}: {counts}")


if __name__ == "__main__":
    run_stage("create_splits", main)
