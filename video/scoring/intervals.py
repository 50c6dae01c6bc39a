"""Intervals of a score whose videos come in groups, and of the difference of two such scores.

Videos of a group are right or wrong together, and say less than as many independent ones. The
spread of a score is therefore taken between groups. All functions broadcast over leading axes,
which simulations use.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv, ndtri, stdtrit

CONFIDENCE = 0.95
# Of the difference from a baseline: differences of few groups are skewed, and at 0.95 intervals
# leave out 0 in up to an eighth of the draws where both are equally good.
CLAIM = 0.99
# Below it, between-group spreads are guesses.
MIN_GROUPS = 5

Array = NDArray[np.float64]
Variance = tuple[float | Array, float]  # and its degrees of freedom


@dataclass(frozen=True, kw_only=True)
class GroupedScore:
    """A mean of ratios, such as the recalls of the classes, and what each group adds to its error.

    value: shape (...); errors: shape (..., groups), the sum of their squares is the variance of
    `value`; freedom: degrees of freedom of that variance, shape (...); num_videos: independent
    videos that would give the score the variance of a share.
    """

    value: Array
    errors: Array
    freedom: Array
    num_videos: float

    def __sub__(self, other: "GroupedScore") -> "GroupedScore":
        """Return the difference on the same videos; a group that fails both adds no error."""
        return GroupedScore(
            value=self.value - other.value,
            errors=self.errors - other.errors,
            freedom=np.minimum(self.freedom, other.freedom),
            num_videos=min(self.num_videos, other.num_videos),
        )


def grouped_score(right: Array, of: Array, *, num_videos: float) -> GroupedScore:
    """Return the mean of the ratios Σ right / Σ of, linearized group by group.

    right, of: sums within each group, shape (..., groups, ratios): for a balanced accuracy, the
    videos of each class that are right, and all. A ratio of 0 / 0 counts 0.

    The error of a group is its residual, Σ (right - ratio · of) / Σ of, over √(1 - leverage): its
    own videos have moved the ratio toward it (McCaffrey and Bell, "Bias reduction in standard
    errors for linear regression with multi-stage samples", Survey Methodology 28, 2002). Degrees
    of freedom are those of Satterthwaite for independent videos; large groups, and classes in few
    groups, leave few. The error of a group that alone holds a class is not known: NaN.
    """
    totals = np.maximum(of.sum(axis=-2, keepdims=True), 1e-300)
    ratios = right.sum(axis=-2, keepdims=True) / totals
    residuals = ((right - ratios * of) / totals).mean(axis=-1)
    weights = (of / totals**2).sum(axis=-1)
    leverages = (of**2 / totals**3).sum(axis=-1) / weights
    lone = leverages > 1 - 1e-9
    errors = np.where(lone, np.nan, residuals / np.sqrt(np.where(lone, 1, 1 - leverages)))
    effective_groups = weights.sum(axis=-1) ** 2 / (weights**2).sum(axis=-1)
    return GroupedScore(
        value=ratios.mean(axis=(-2, -1)),
        errors=errors,
        freedom=np.maximum(effective_groups - leverages.sum(axis=-1), 1.0),
        num_videos=num_videos,
    )


def score_interval(
    score: GroupedScore, *more: Variance, confidence: float = CONFIDENCE
) -> tuple[Array, Array]:
    """Return the ends of the interval of a score in [0, 1].

    Korn and Graubard, "Confidence intervals for proportions with small expected number of positive
    counts estimated from survey data", Survey Methodology 24, 1998: the interval of a share of as
    many independent videos as would give its variance, at most those there are, times (z / t)² for
    the degrees of freedom; here Jeffreys' interval, Beta(right + 1/2, wrong + 1/2), widened to hold
    the score. `more` are variances of the score for other reasons, see `_squared_half_width`.
    """
    room = score.value * (1 - score.value)
    floor = np.where(room > 0, room, 1) / score.num_videos
    squared = _squared_half_width(score, floor, confidence, more)
    # Of a score of 0 or 1, the videos there are alone count.
    num = ndtri((1 + confidence) / 2) ** 2 * np.where(room > 0, room, 1) / squared
    right, wrong = score.value * num + 0.5, (1 - score.value) * num + 0.5
    low, high = (betaincinv(right, wrong, (1 + sign * confidence) / 2) for sign in (-1, 1))
    return np.minimum(low, score.value), np.maximum(high, score.value)


def difference_interval(
    first: GroupedScore, second: GroupedScore, *more: Variance
) -> tuple[Array, Array]:
    """Return the ends of the CLAIM interval of `first` less `second`, in [-1, 1].

    The wider of two at each end: Student's, over groups, and the one that has the skewness of the
    intervals of both scores: each distance from a score to the end of its interval stands for a
    standard error (Zou and Donner, "Construction of confidence limits about effect measures",
    Statistics in Medicine 27, 2008, eq. 6), with the correlation of their errors over groups.
    Student's alone takes a model for certain that fails on whole groups, of which none is there.
    `more` are variances of the difference for other reasons.
    """
    difference = first - second
    size = np.abs(difference.value)
    floor = size * (1 - size) / difference.num_videos
    half = np.sqrt(_squared_half_width(difference, floor, CLAIM, more))
    ends = [score_interval(score, confidence=CLAIM) for score in (first, second)]
    below, above = (
        [np.abs(end[side] - score.value) for end, score in zip(ends, (first, second), strict=True)]
        for side in (0, 1)
    )
    correlation = _correlation(first.errors, second.errors)
    low = difference.value - np.maximum(half, _third_side(below[0], above[1], correlation))
    high = difference.value + np.maximum(half, _third_side(above[0], below[1], correlation))
    return np.maximum(low, -1), np.minimum(high, 1)


def _correlation(first: Array, second: Array) -> Array:
    """Return the correlation of errors over groups, 0 if a score has none."""
    scale = np.sqrt((first**2).sum(axis=-1) * (second**2).sum(axis=-1))
    known = scale > 0  # not so of NaN
    return np.where(known, (first * second).sum(axis=-1) / np.where(known, scale, 1), 0.0)


def _third_side(first: Array, second: Array, cosine: Array) -> Array:
    return np.sqrt(np.maximum(first**2 + second**2 - 2 * cosine * first * second, 0))


def _squared_half_width(
    score: GroupedScore, floor: Array, confidence: float, more: Sequence[Variance]
) -> Array:
    """Return variance · t², the variance being at least `floor`, that of independent videos.

    With `more`, that of the sum of all variances, with Satterthwaite's degrees of freedom, if it is
    greater ("An approximate distribution of estimates of variance components", Biometrics 2, 1946).
    """
    own = np.nan_to_num((score.errors**2).sum(axis=-1), nan=np.inf)
    total = np.maximum(own, np.maximum(floor, 1e-300))
    widest = total * _quantile(confidence, score.freedom) ** 2
    whole = total + sum(variance for variance, _ in more)
    with np.errstate(invalid="ignore"):  # an unknown variance is infinite, and all of the sum
        inverse = np.nan_to_num(total / whole, nan=1.0) ** 2 / score.freedom
    for variance, freedom in more:
        inverse += (variance / whole) ** 2 / freedom
    return np.asarray(np.maximum(widest, whole * _quantile(confidence, 1 / inverse) ** 2))


def _quantile(confidence: float, freedom: Array | float) -> Array:
    return np.asarray(stdtrit(freedom, (1 + confidence) / 2))
