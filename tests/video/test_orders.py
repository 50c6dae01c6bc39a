"""The order of an epoch is a function of seed and epoch."""

import math
from collections import Counter

import numpy as np
import pytest

from video.clips.sampling import (
    balanced_order,
    drawn_rows,
    epoch_order,
    group_weights,
    sampling_order,
    weighted_order,
)


def test_the_sampling_that_params_yaml_names_is_taken() -> None:
    targets = np.array([0, 0, 0, 1])
    groups = ["a", "a", "b", "c"]
    orders = {
        name: sampling_order(name, targets, groups, seed=3, epoch=1)
        for name in ("shuffled", "balanced", "weighted")
    }
    assert orders == {
        "shuffled": epoch_order(4, seed=3, epoch=1),
        "balanced": balanced_order(targets, seed=3, epoch=1),
        "weighted": weighted_order(group_weights(groups), seed=3, epoch=1),
    }
    assert len({tuple(order) for order in orders.values()}) == 3


def test_an_epoch_is_a_permutation() -> None:
    assert sorted(epoch_order(100, seed=1, epoch=2)) == list(range(100))


def test_an_epoch_is_the_same_every_time() -> None:
    assert epoch_order(100, seed=1, epoch=2) == epoch_order(100, seed=1, epoch=2)


@pytest.mark.parametrize(("seed", "epoch"), [(1, 3), (2, 2), (2, 1), (12, 2)])
def test_another_seed_or_epoch_has_another_order(seed: int, epoch: int) -> None:
    assert epoch_order(100, seed=seed, epoch=epoch) != epoch_order(100, seed=1, epoch=2)


def test_the_order_is_that_of_the_first_release() -> None:
    """A changed order would make a resumed run differ from one that was never killed."""
    assert epoch_order(8, seed=0, epoch=0) == [2, 3, 5, 6, 1, 4, 7, 0]


UNEVEN = np.array([0] * 90 + [1] * 9 + [2] * 3)


@pytest.mark.parametrize("seed", range(3))
def test_a_balanced_epoch_shows_every_class_equally_often(seed: int) -> None:
    order = balanced_order(UNEVEN, seed=seed, epoch=0)

    assert Counter(UNEVEN[order].tolist()) == {0: 34, 1: 34, 2: 34}


def test_a_balanced_epoch_is_as_long_as_any_other() -> None:
    targets = np.array([0, 0, 0, 0, 0, 1, 1, 2])

    assert len(balanced_order(targets, seed=0, epoch=0)) == 8


def test_within_a_class_no_clip_comes_up_twice_more_often_than_another() -> None:
    times = Counter(balanced_order(UNEVEN, seed=0, epoch=0))

    for label in (0, 1, 2):
        counts = [times[row] for row in np.flatnonzero(label == UNEVEN)]
        assert max(counts) - min(counts) <= 1


def test_a_balanced_epoch_mixes_the_classes() -> None:
    shown = UNEVEN[balanced_order(UNEVEN, seed=0, epoch=0)]

    assert set(shown[:20].tolist()) == {0, 1, 2}


def test_a_balanced_epoch_depends_on_seed_and_epoch_alone() -> None:
    first = balanced_order(UNEVEN, seed=0, epoch=0)

    assert balanced_order(UNEVEN, seed=0, epoch=0) == first
    assert balanced_order(UNEVEN, seed=1, epoch=0) != first
    assert balanced_order(UNEVEN, seed=0, epoch=1) != first


def test_weights_decide_how_often_a_row_comes_up() -> None:
    weights = np.array([0.0, 0.5, 1.0, 2.0, 6.5, *[1.0] * 90])
    epochs = 400

    times: Counter[int] = Counter()
    for epoch in range(epochs):
        shown = Counter(weighted_order(weights, seed=0, epoch=epoch))
        expected = weights * len(weights) / weights.sum()
        for row, mean in enumerate(expected):
            assert math.floor(mean) <= shown[row] <= math.ceil(mean)
        times.update(shown)

    # Systematic resampling: a row's count varies by less than 1/4, so these means by 1/40.
    means = np.array([times[row] for row in range(len(weights))]) / epochs
    np.testing.assert_allclose(means, expected, atol=5 / 40)


def test_a_weighted_epoch_is_as_long_as_any_other_and_mixed() -> None:
    weights = np.array([1.0] * 50 + [3.0] * 50)

    order = weighted_order(weights, seed=0, epoch=0)

    assert len(order) == 100
    assert 10 <= sum(row >= 50 for row in order[:20]) <= 19


def test_rows_of_equal_weight_side_by_side_are_drawn_independently() -> None:
    """Resampled in the table's order, every other row would come up in each epoch."""
    weights = np.array([0.5] * 100 + [50.0] * 1)
    order = set(weighted_order(weights, seed=0, epoch=0)) - {100}

    gaps = np.diff(sorted(order))

    assert len(set(gaps.tolist())) > 2


def test_a_weighted_epoch_depends_on_seed_and_epoch_alone() -> None:
    weights = np.linspace(0.1, 1.0, 50)
    first = weighted_order(weights, seed=0, epoch=0)

    assert weighted_order(weights, seed=0, epoch=0) == first
    assert weighted_order(weights, seed=1, epoch=0) != first
    assert weighted_order(weights, seed=0, epoch=1) != first


def test_equal_weights_show_every_row_once() -> None:
    assert sorted(weighted_order(np.full(33, 0.1), seed=3, epoch=1)) == list(range(33))


@pytest.mark.parametrize(
    "weights", [[0.0, 0.0], [1.0, -1.0], [1.0, math.nan], [1.0, math.inf]], ids=str
)
def test_weights_of_no_probability_are_refused(weights: list[float]) -> None:
    with pytest.raises(ValueError, match="weights of the order: expected finite ones >= 0, not"):
        weighted_order(np.array(weights), seed=0, epoch=0)


def test_by_its_weights_every_group_comes_up_equally_often() -> None:
    groups = ["a"] * 60 + ["b"] * 6 + ["c"] * 20 + ["d"] * 14

    times = Counter(
        groups[row]
        for epoch in range(200)
        for row in weighted_order(group_weights(groups), seed=0, epoch=epoch)
    )

    assert sum(times.values()) == 200 * len(groups)
    for count in times.values():
        assert count == pytest.approx(200 * 25, rel=0.02)


def test_a_row_drawn_several_times_comes_up_all_over_the_epoch() -> None:
    order = weighted_order(np.array([20.0] + [1.0] * 80), seed=0, epoch=0)

    places = [place for place, row in enumerate(order) if row == 0]

    assert len(places) in (16, 17)  # 81 * 20 / 100
    assert places[-1] - places[0] > 60


# --- several clips of a video ------------------------------------------------------------------

CLIPS = [[0, 1, 2], [3, 4, 5], [6, 7, 8]]


def test_each_video_gives_one_of_its_clips_in_an_epoch_and_each_of_them_in_time() -> None:
    drawn = [drawn_rows([2, 0, 1], CLIPS, seed=3, epoch=epoch) for epoch in range(40)]

    assert all([row // 3 for row in rows] == [2, 0, 1] for rows in drawn)
    assert {row for rows in drawn for row in rows} == set(range(9))


def test_the_clips_drawn_are_a_function_of_seed_and_epoch() -> None:
    order = [1, 0, 2] * 5

    assert drawn_rows(order, CLIPS, seed=3, epoch=1) == drawn_rows(order, CLIPS, seed=3, epoch=1)
    others = [drawn_rows(order, CLIPS, seed=seed, epoch=epoch) for seed, epoch in ((3, 2), (4, 1))]
    assert drawn_rows(order, CLIPS, seed=3, epoch=1) not in others
    assert drawn_rows([0, 1, 2], CLIPS, seed=0, epoch=0) == [1, 4, 6]  # of the first release


def test_of_single_clips_the_order_stays_what_it_is() -> None:
    assert drawn_rows([2, 0, 1], [[0], [1], [2]], seed=3, epoch=1) == [2, 0, 1]
