"""Intervals and tests over folds, against scipy's own and against the formula of the paper."""

import math

import numpy as np
import pytest
from scipy import stats

from video.scoring.comparison import difference_over_folds, mean_variance, std_over_seeds

VALUES = [0.71, 0.74, 0.69, 0.77, 0.72]
DIFFERENCES = [0.03, 0.01, 0.0, 0.04, 0.02]


def test_the_variance_of_a_mean_allows_for_shared_training_videos() -> None:
    alone = mean_variance(VALUES, val_per_train=0.0)

    assert alone == pytest.approx(stats.sem(VALUES) ** 2)
    # Five folds of five: a fourth as many videos validate as train.
    assert mean_variance(VALUES, val_per_train=0.25) == pytest.approx(alone * (1 / 5 + 1 / 4) * 5)


def test_the_deviation_over_seeds_is_that_of_a_regression_on_the_folds() -> None:
    # The residual standard error of a linear model with a mean a fold, from an unequal grid.
    folds = np.array([0, 0, 0, 1, 1, 2])
    values = np.array([0.7, 0.8, 0.75, 0.9, 0.6, 0.5])
    design = np.eye(3)[folds]
    _, (squares,), rank, _ = np.linalg.lstsq(design, values, rcond=None)

    found = std_over_seeds([values[folds == fold].tolist() for fold in range(3)])

    assert found == pytest.approx(math.sqrt(squares / (len(values) - rank)))


def test_without_shared_training_videos_it_is_the_paired_t_test() -> None:
    difference = difference_over_folds(DIFFERENCES, val_per_train=0.0)

    paired = stats.ttest_1samp(DIFFERENCES, 0.0)
    assert (difference.t, difference.p) == pytest.approx((paired.statistic, paired.pvalue))
    low, high = paired.confidence_interval(0.95)
    assert difference.interval == pytest.approx((low, high))


def test_shared_training_videos_make_a_difference_less_sure() -> None:
    # Five folds of five: a fourth as many videos validate as train.
    plain = difference_over_folds(DIFFERENCES, val_per_train=0.0)
    corrected = difference_over_folds(DIFFERENCES, val_per_train=1 / 4)

    # Nadeau and Bengio: 1/J becomes 1/J + n2/n1, here 1/5 and 1/5 + 1/4.
    assert corrected.t == pytest.approx(plain.t * math.sqrt((1 / 5) / (1 / 5 + 1 / 4)))
    assert corrected.p == pytest.approx(2 * stats.t.sf(corrected.t, 4))
    assert plain.p < 0.05 < corrected.p


@pytest.mark.parametrize("shift", [0.0, 0.01, 0.02, 0.03, 0.04])
def test_the_interval_leaves_out_0_where_p_is_below_a_twentieth(shift: float) -> None:
    difference = difference_over_folds([x + shift for x in DIFFERENCES], val_per_train=0.25)

    low, high = difference.interval
    assert (low <= 0 <= high) == (difference.p > 0.05)


def test_the_order_of_two_models_changes_the_sign_alone() -> None:
    one = difference_over_folds(DIFFERENCES, val_per_train=0.25)
    other = difference_over_folds([-x for x in DIFFERENCES], val_per_train=0.25)

    assert (other.mean, other.t, other.p) == pytest.approx((-one.mean, -one.t, one.p))


def test_differences_that_are_all_one_number_have_no_test() -> None:
    # 0.1, but for the last digit of each.
    difference = difference_over_folds([0.8 - 0.7, 0.5 - 0.4, 0.3 - 0.2], val_per_train=0.25)

    assert difference.mean == pytest.approx(0.1)
    assert (difference.interval, difference.t, difference.p) == (None, None, None)
