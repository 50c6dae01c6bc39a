"""Scores of a model with their intervals, and its lead over a baseline on the same videos.

There is one interval of each, for all that moves it: which videos and groups are in the set, and
with which folds and seeds the model was trained.
"""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import polars as pl
from numpy.typing import NDArray

from video.scoring.comparison import mean_variance, std_over_seeds
from video.scoring.intervals import (
    MIN_GROUPS,
    Array,
    GroupedScore,
    Variance,
    difference_interval,
    grouped_score,
    score_interval,
)
from video.scoring.outcomes import Outcome, by_fold, val_per_train

METRICS = ("accuracy", "balanced_accuracy", "f1_macro")  # those with an interval
VIDEO = ("video_path", "group", "label")


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A score, or the lead of one over another, with its interval and what that rests on."""

    value: float
    interval: tuple[float, float]
    num_videos: int
    num_groups: int

    @property
    def basis(self) -> str:
        """Return the size of the set in words: "48 videos in 8 groups"."""
        few = f", too few groups (at least {MIN_GROUPS})" if self.num_groups < MIN_GROUPS else ""
        return f"{self.num_videos:,} videos in {self.num_groups:,} groups{few}"


def estimate(
    cells: Sequence[Outcome], split: str, metric: str, baseline: str | None = None
) -> Estimate:
    """Return the mean of one of METRICS over the cells of a model, or of a baseline in them."""
    tables = _tables(cells, split)
    score = _score(tables, metric, baseline)
    more = _of_training(cells, lambda cell: cell.metrics(split, baseline)[metric])
    return _estimate(tables, score, score_interval(score, *more))


def lead(cells: Sequence[Outcome], baseline: str) -> Estimate:
    """Return the test balanced accuracy of a model less that of a baseline, video by video."""
    tables, metric = _tables(cells, "test"), "balanced_accuracy"
    own, other = _score(tables, metric), _score(tables, metric, baseline)
    more = _of_training(
        cells, lambda cell: cell.metrics("test")[metric] - cell.metrics("test", baseline)[metric]
    )
    return _estimate(tables, own - other, difference_interval(own, other, *more))


def _of_training(cells: Sequence[Outcome], value: Callable[[Outcome], float]) -> list[Variance]:
    """Return the variance of the mean over folds (or seeds of one fold), if it is known."""
    folds = [[value(cell) for cell in own] for own in by_fold(cells).values()]
    means = [statistics.fmean(values) for values in folds]
    if len(folds) > 1:
        return [(mean_variance(means, val_per_train=val_per_train(cells)), len(folds) - 1)]
    if len(cells) > 1:
        return [(std_over_seeds(folds) ** 2 / len(cells), len(cells) - 1)]
    return []


def _tables(cells: Sequence[Outcome], split: str) -> list[pl.DataFrame]:
    return [cell.predictions.filter(pl.col("split") == split) for cell in cells]


def _score(
    tables: Sequence[pl.DataFrame], metric: str, baseline: str | None = None
) -> GroupedScore:
    """Return the mean of a metric over tables of predictions, which may be of the same videos."""
    column = f"predicted_{baseline}" if baseline else "predicted"
    videos = pl.concat([table.select(VIDEO) for table in tables]).unique()
    groups = videos["group"].unique().sort().to_numpy()
    sums = [_sums(table, metric, column, groups) for table in tables]
    right, of = (np.concatenate(parts, axis=1) for parts in zip(*sums, strict=True))
    sizes = videos["label"].value_counts()["count"].to_numpy()
    # The variance of a mean of shares is that of one share of their harmonic mean, times as many.
    alike = videos.height if metric == "accuracy" else len(sizes) ** 2 / (1 / sizes).sum()
    return grouped_score(right, of, num_videos=float(alike))


def _sums(
    table: pl.DataFrame, metric: str, column: str, groups: NDArray[np.str_]
) -> tuple[Array, Array]:
    """Return both sides of the ratios of a metric, summed by group: shape (groups, ratios)."""
    labels = table["label"]
    classes = np.eye(len(cast(pl.Enum, labels.dtype).categories))
    true = classes[labels.to_physical()]
    given = classes[table[column].cast(labels.dtype).to_physical()]
    hits, occurs = true * given, true.any(axis=0)
    right, of = {
        "accuracy": (hits.sum(axis=1, keepdims=True), np.ones((len(hits), 1))),
        "balanced_accuracy": (hits[:, occurs], true[:, occurs]),
        "f1_macro": (2 * hits, true + given),
    }[metric]
    rows = np.searchsorted(groups, table["group"].to_numpy())
    return _by_group(right, rows, len(groups)), _by_group(of, rows, len(groups))


def _by_group(values: Array, rows: NDArray[np.int64], num_groups: int) -> Array:
    sums = np.zeros((num_groups, values.shape[1]))
    np.add.at(sums, rows, values)
    return sums


def _estimate(
    tables: Sequence[pl.DataFrame], score: GroupedScore, ends: tuple[Array, Array]
) -> Estimate:
    videos = pl.concat([table.select(VIDEO) for table in tables]).unique()
    low, high = (float(end) for end in ends)
    return Estimate(
        value=float(score.value),
        interval=(low, high),
        num_videos=videos.height,
        num_groups=videos["group"].n_unique(),
    )
