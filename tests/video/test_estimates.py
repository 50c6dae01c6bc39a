"""A score has one interval, for the groups, folds and seeds that it rests on."""

from collections.abc import Sequence

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray
from sklearn import metrics as sklearn_metrics

from tests.support.outcomes import outcome, predictions
from video.scoring.estimates import METRICS, Estimate, estimate, lead
from video.scoring.outcomes import Outcome

NUM_GROUPS = 10
GROUPS = [f"g{number % NUM_GROUPS}" for number in range(80)]


def drawn(accuracy: float, *, seed: int, of: Sequence[str] = GROUPS) -> pl.DataFrame:
    """Draw predictions of 80 videos, and those of a baseline that guesses and of a constant."""
    generator = np.random.default_rng(seed)
    targets = generator.integers(0, 2, len(of))

    def given(share: float) -> NDArray[np.int64]:
        return np.where(generator.random(len(of)) < share, targets, 1 - targets)

    return predictions(
        of,
        targets.tolist(),
        predicted=given(accuracy).tolist(),
        predicted_metadata=given(0.5).tolist(),
        predicted_majority=[0] * len(of),
    )


VAL, TEST = drawn(0.8, seed=1), drawn(0.8, seed=2)


def width(found: Estimate) -> float:
    low, high = found.interval
    return high - low


@pytest.mark.parametrize("baseline", [None, "metadata", "majority"])
def test_a_score_is_that_of_scikit_learn(baseline: str | None) -> None:
    cell = outcome(VAL, TEST)
    column = f"predicted_{baseline}" if baseline else "predicted"
    true, given = (TEST[name].to_physical().to_numpy() for name in ("label", column))
    expected = {
        "accuracy": sklearn_metrics.accuracy_score(true, given),
        "balanced_accuracy": sklearn_metrics.balanced_accuracy_score(true, given),
        "f1_macro": sklearn_metrics.f1_score(true, given, average="macro", zero_division=0),
    }

    found = {name: estimate([cell], "test", name, baseline) for name in METRICS}

    assert {name: of.value for name, of in found.items()} == pytest.approx(expected)
    for of in found.values():
        assert of.interval[0] < of.value < of.interval[1]
        assert (of.num_videos, of.num_groups) == (80, NUM_GROUPS)
        assert of.basis == "80 videos in 10 groups"


@pytest.mark.parametrize("metric", METRICS)
def test_videos_that_fail_together_say_less(metric: str) -> None:
    """The same predictions: eight videos to a group, the wrong ones spread or together."""
    together = TEST.sort(pl.col("predicted") == pl.col("label"))
    together = together.with_columns(group=pl.Series([f"g{i // 8}" for i in range(80)]))
    spread = together.with_columns(group=pl.Series([f"g{i % NUM_GROUPS}" for i in range(80)]))

    clustered, even = (
        estimate([outcome(VAL, table)], "test", metric) for table in (together, spread)
    )

    assert clustered.value == pytest.approx(even.value)
    assert width(clustered) > 1.5 * width(even)


def test_the_order_of_the_rows_does_not_matter() -> None:
    cells = [outcome(VAL, TEST), outcome(VAL, TEST.reverse(), seed=1)]

    first, second = (estimate([cell], "test", "f1_macro") for cell in cells)

    assert first.interval == pytest.approx(second.interval)
    assert estimate(cells, "test", "f1_macro").interval == pytest.approx(first.interval)


def test_too_few_groups_are_called_so() -> None:
    few = TEST.with_columns(group=pl.Series([f"g{i % 4}" for i in range(80)]))

    found = estimate([outcome(VAL, few)], "test", "accuracy")

    assert found.basis == "80 videos in 4 groups, too few groups (at least 5)"


def folds_of(tests: Sequence[pl.DataFrame], vals: Sequence[pl.DataFrame]) -> list[Outcome]:
    return [
        outcome(val, test, fold=fold)
        for fold, (val, test) in enumerate(zip(vals, tests, strict=True))
    ]


def test_folds_that_differ_widen_the_interval_of_their_mean() -> None:
    """The test set is one, however many folds are tested on it."""
    wrong = TEST.with_columns(predicted=pl.col("label"))
    better = pl.concat([wrong[:40], TEST[40:]])
    agreeing = estimate(folds_of([TEST, TEST, TEST], [VAL] * 3), "test", "accuracy")
    differing = estimate(folds_of([TEST, better, wrong], [VAL] * 3), "test", "accuracy")

    alone = estimate([outcome(VAL, TEST)], "test", "accuracy")
    assert agreeing.interval == pytest.approx(alone.interval)
    assert (agreeing.num_videos, agreeing.num_groups) == (80, NUM_GROUPS)
    assert width(differing) > 1.5 * width(agreeing)


def test_seeds_that_differ_widen_the_interval_of_their_mean() -> None:
    right = TEST.with_columns(predicted=pl.col("label"))
    cells = [outcome(VAL, table, seed=seed) for seed, table in enumerate((TEST, right))]

    assert width(estimate(cells, "test", "accuracy")) > width(
        estimate(cells[:1], "test", "accuracy")
    )


def test_validation_rests_on_the_videos_of_all_folds() -> None:
    vals = [drawn(0.8, seed=seed, of=[f"{seed}{group}" for group in GROUPS]) for seed in (3, 4)]

    found = estimate(folds_of([TEST, TEST], vals), "val", "balanced_accuracy")

    assert (found.num_videos, found.num_groups) == (160, 2 * NUM_GROUPS)


@pytest.mark.parametrize("baseline", ["metadata", "majority"])
def test_the_lead_is_the_difference_on_the_same_videos(baseline: str) -> None:
    cell = outcome(VAL, TEST)
    own, other = (
        estimate([cell], "test", "balanced_accuracy", name).value for name in (None, baseline)
    )

    found = lead([cell], baseline)

    assert found.value == pytest.approx(own - other)
    assert found.interval[0] < found.value < found.interval[1]


def test_a_lead_is_surer_if_both_fail_on_the_same_videos() -> None:
    """One baseline has the model's errors and more, the other as many in other videos."""
    targets = np.arange(80) // 2 % 2
    wrong = np.arange(80) % 5 == 0
    more = wrong | (np.arange(80) % 7 == 0)

    def lead_over(errors: NDArray[np.bool_]) -> Estimate:
        given = {"predicted": targets ^ wrong, "predicted_metadata": targets ^ errors}
        lists = {name: values.astype(int).tolist() for name, values in given.items()}
        table = predictions(GROUPS, targets.tolist(), **lists)
        return lead([outcome(table, table)], "metadata")

    assert width(lead_over(more)) < 0.7 * width(lead_over(np.roll(more, 3)))


def test_folds_whose_leads_differ_make_the_lead_less_sure() -> None:
    right = TEST.with_columns(predicted=pl.col("label"))

    both = lead(folds_of([TEST, right], [VAL, VAL]), "metadata")

    assert width(both) > width(lead([outcome(VAL, TEST)], "metadata"))
