"""Spread over folds and seeds, and tests between two models on the same folds.

The metric of a fold is the mean over the seeds trained on it: more seeds reduce its variance, and
are not more folds.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.special import stdtr, stdtrit

CONFIDENCE = 0.95

# Equal metrics may differ in their last digits by rounding.
NO_SPREAD = 1e-12


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The difference of a metric between two models, over the folds that both have."""

    mean: float
    std: float  # sample standard deviation over folds
    interval: tuple[float, float] | None  # of the mean, CONFIDENCE; None if nothing varies
    t: float | None
    p: float | None  # two-sided


def mean_variance(values: Sequence[float], *, val_per_train: float) -> float:
    """Return the variance of the mean of two or more folds, which share training videos.

    (1/folds + n_val/n_train) · variance: Nadeau and Bengio, "Inference for the generalization
    error", Machine Learning 52, 2003, section 5.1, for folds as in Bouckaert and Frank (PAKDD
    2004). The second term accounts for the training videos that the folds share; without it a
    difference is found too often. `val_per_train`: validation videos for each training video.
    """
    return (1 / len(values) + val_per_train) * statistics.variance(values)


def std_over_seeds(values_by_fold: Sequence[Sequence[float]]) -> float:
    """Return the standard deviation of seeds around their fold's mean, pooled over the folds.

    √(Σ (value - mean of its fold)² / Σ (seeds of a fold - 1)): the effect of the seed alone, on
    the same videos. It takes the folds as equally spread. At least one fold has two seeds.
    """
    squares = [
        (value - statistics.fmean(values)) ** 2 for values in values_by_fold for value in values
    ]
    return float((math.fsum(squares) / (len(squares) - len(values_by_fold))) ** 0.5)


def difference_over_folds(differences: Sequence[float], *, val_per_train: float) -> Difference:
    """Apply the corrected resampled t-test to two or more paired validation metrics.

    t = mean / √`mean_variance`, with folds - 1 degrees of freedom (Nadeau and Bengio). The interval
    is of the same t, so it holds 0 if p > 0.05. There is no test if nothing varies.
    """
    mean, std = statistics.fmean(differences), statistics.stdev(differences)
    if std < NO_SPREAD:
        return Difference(mean=mean, std=std, interval=None, t=None, p=None)
    folds = len(differences)
    error = mean_variance(differences, val_per_train=val_per_train) ** 0.5
    half = _quantile(folds) * error
    return Difference(
        mean=mean,
        std=std,
        interval=(mean - half, mean + half),
        t=mean / error,
        p=float(2 * stdtr(folds - 1, -abs(mean / error))),
    )


def _quantile(folds: int) -> float:
    return float(stdtrit(folds - 1, (1 + CONFIDENCE) / 2))
