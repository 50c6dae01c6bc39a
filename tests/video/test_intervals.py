"""Intervals hold the truth as often as they say where errors cluster, and luck is called luck."""

import numpy as np
import pytest
from scipy import stats

from benchmarks.coverage import (
    CELLS,
    CORRELATIONS,
    LUCK_ACCURACIES,
    LUCK_CELLS,
    RIVALS,
    claims,
    coverage,
    coverage_over_folds,
    even,
    uneven,
)
from video.scoring.intervals import (
    CLAIM,
    GroupedScore,
    difference_interval,
    grouped_score,
    score_interval,
)

DRAWS = 4000

# Four groups of ten videos: 33 of 40 are right.
RIGHT = [10, 8, 6, 9]


def share(right: list[int], of: list[int]) -> GroupedScore:
    sides = (np.array(side, dtype=float)[:, None] for side in (right, of))
    return grouped_score(*sides, num_videos=sum(of))


def ends(score: GroupedScore, *more: tuple[float, float]) -> tuple[float, float]:
    low, high = score_interval(score, *more)
    return float(low), float(high)


# --- by hand -----------------------------------------------------------------------------------


def test_the_interval_is_that_of_korn_and_graubard_with_jeffreys_prior() -> None:
    p = np.mean(RIGHT) / 10
    variance = np.var(np.array(RIGHT) / 10, ddof=1) / 4
    effective = p * (1 - p) / variance
    assert effective < 40
    effective *= (stats.norm.ppf(0.975) / stats.t.ppf(0.975, 3)) ** 2
    expected = stats.beta.ppf([0.025, 0.975], p * effective + 0.5, (1 - p) * effective + 0.5)

    assert ends(share(RIGHT, [10] * 4)) == pytest.approx(expected)


def test_videos_count_at_most_as_many_as_there_are() -> None:
    score = share([8, 8, 8, 8], [10] * 4)  # alike by chance: nothing varies between the groups
    effective = 40 * (stats.norm.ppf(0.975) / stats.t.ppf(0.975, 3)) ** 2
    expected = stats.beta.ppf([0.025, 0.975], 0.8 * effective + 0.5, 0.2 * effective + 0.5)

    assert ends(score) == pytest.approx(expected)


def test_the_difference_is_a_paired_t_test_over_groups() -> None:
    model, baseline = [7, 5, 6, 4, 6, 5, 7, 4], [3, 6, 5, 1, 8, 2, 6, 3]

    low, high = difference_interval(share(model, [10] * 8), share(baseline, [10] * 8))

    # Errors that are not of the same groups, and scores in the middle: nothing is skewed.
    differences = (np.array(model) - np.array(baseline)) / 10
    paired = stats.ttest_1samp(differences, 0.0).confidence_interval(0.99)
    assert (float(low), float(high)) == pytest.approx((paired.low, paired.high))


def test_groups_of_one_class_each_lose_a_degree_of_freedom_per_class() -> None:
    both = np.full((6, 2), 5.0)
    single = np.zeros((6, 2))
    single[::2, 0] = single[1::2, 1] = 10.0

    assert grouped_score(both - 1, both, num_videos=60).freedom == pytest.approx(5)
    assert grouped_score(single * 0.8, single, num_videos=60).freedom == pytest.approx(4)


def test_large_groups_and_small_ones_are_worth_fewer() -> None:
    equal, unequal = share([4] * 8, [8] * 8), share([25, 25, 2, 2, 2, 2, 2, 2], [50, 50] + [4] * 6)

    assert unequal.freedom < 3 < equal.freedom == pytest.approx(7)


@pytest.mark.parametrize(
    ("right", "of"),
    [
        ([[8.0, 9.0]], [[10.0, 10.0]]),  # one group
        ([[8.0, 0.0], [0.0, 9.0], [0.0, 3.0]], [[10.0, 0.0], [0.0, 10.0], [0.0, 4.0]]),
    ],
    ids=["one group", "a class in one group alone"],
)
def test_of_a_single_group_nothing_is_known(
    right: list[list[float]], of: list[list[float]]
) -> None:
    score = grouped_score(np.array(right), np.array(of), num_videos=20)

    low, high = ends(score)
    assert low < 0.01
    assert high > 0.99
    low, high = (float(end) for end in difference_interval(score, score))
    assert (low, high) == (-1.0, 1.0)


@pytest.mark.parametrize(("right", "held"), [([10] * 6, 1.0), ([0] * 6, 0.0)])
def test_a_score_without_an_error_has_an_interval_that_holds_it(
    right: list[int], held: float
) -> None:
    low, high = ends(share(right, [10] * 6))

    assert 0.0 <= low <= held <= high <= 1.0
    assert 0.05 < high - low < 0.2


def test_equal_predictions_do_not_differ() -> None:
    right = [7, 5, 6, 4, 6, 5, 7, 4]

    low, high = difference_interval(share(right, [10] * 8), share(right, [10] * 8))

    assert -0.2 < float(low) <= 0.0 <= float(high) < 0.2


def test_a_score_without_an_error_leads_by_no_more_than_its_own_interval_says() -> None:
    perfect, other = share([10] * 6, [10] * 6), share([9, 8, 9, 8, 9, 8], [10] * 6)

    low, _ = difference_interval(perfect, other)

    own, _ = score_interval(perfect, confidence=CLAIM)
    _, others = score_interval(other, confidence=CLAIM)
    assert float(low) == pytest.approx(0.15 - np.hypot(1 - own, others - 0.85))


@pytest.mark.parametrize("variance", [0.0, 1e-6, 1e-4, 1e-3, 1e-2, 1.0])
@pytest.mark.parametrize("freedom", [1, 2, 4, 100])
def test_another_source_of_variance_makes_no_interval_narrower(
    variance: float, freedom: int
) -> None:
    low, high = ends(share(RIGHT, [10] * 4))
    wider_low, wider_high = ends(share(RIGHT, [10] * 4), (variance, freedom))

    assert wider_low <= low + 1e-12
    assert wider_high >= high - 1e-12


def test_many_draws_at_once_are_as_each_alone() -> None:
    generator = np.random.default_rng(0)
    of = np.full((7, 3), 9.0)
    right = generator.binomial(9, 0.7, (5, 7, 3)).astype(float)

    low, high = score_interval(grouped_score(right, of, num_videos=189))

    for number, draw in enumerate(right):
        alone = ends(grouped_score(draw, of, num_videos=189))
        assert (low[number], high[number]) == pytest.approx(alone)


# --- simulated ---------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["balanced_accuracy", "accuracy", "f1_macro"])
@pytest.mark.parametrize(("groups", "videos", "accuracy"), CELLS)
def test_the_interval_holds_the_truth_where_errors_cluster(
    groups: int, videos: int, accuracy: float, metric: str
) -> None:
    for correlation in CORRELATIONS:
        found = coverage(even(groups, videos), accuracy, correlation, DRAWS, metric)
        hardest = (groups, videos, accuracy, correlation) == (8, 30, 0.9, 0.3)
        assert found >= (0.87 if hardest else 0.90), correlation


@pytest.mark.parametrize("sizes", uneven(20, 30).values(), ids=uneven(20, 30))
def test_the_interval_holds_the_truth_where_groups_are_uneven(sizes: np.ndarray) -> None:
    for correlation in CORRELATIONS:
        assert coverage(sizes, 0.7, correlation, DRAWS) >= 0.90
        assert coverage(sizes, 0.9, correlation, DRAWS) >= 0.86


@pytest.mark.parametrize("deviation", [0.0, 0.02, 0.06])
@pytest.mark.parametrize("folds", [2, 3, 5])
def test_the_interval_over_folds_holds_the_truth_where_trainings_differ(
    folds: int, deviation: float
) -> None:
    _, both = coverage_over_folds(folds, deviation, DRAWS)

    assert both >= 0.93


@pytest.mark.parametrize("rival", RIVALS)
@pytest.mark.parametrize(("groups", "videos", "accuracy"), LUCK_CELLS)
def test_equally_good_classifiers_are_called_different_in_at_most_a_twentieth(
    groups: int, videos: int, accuracy: float, rival: str
) -> None:
    assert claims(even(groups, videos), (accuracy, accuracy), rival, DRAWS) <= 0.05


@pytest.mark.parametrize("accuracy", LUCK_ACCURACIES)
@pytest.mark.parametrize("sizes", uneven(20, 30).values(), ids=uneven(20, 30))
def test_so_are_those_in_uneven_groups(sizes: np.ndarray, accuracy: float) -> None:
    for rival in RIVALS:
        # Of ten groups of a class, too often none is of the kind on which the model fails.
        hardest = accuracy == 0.95 and rival == "the model's alone clustered"
        found = claims(sizes, (accuracy, accuracy), rival, DRAWS)
        assert found <= (0.07 if hardest else 0.05), rival


@pytest.mark.parametrize(("groups", "at_least"), [(8, 0.6), (30, 0.99)])
def test_a_better_model_is_called_better(groups: int, at_least: float) -> None:
    rival = "clustered, each by itself"

    assert claims(even(groups, 12), (0.95, 0.5), rival, DRAWS) >= at_least
