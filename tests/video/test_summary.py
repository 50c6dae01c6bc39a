"""One answer from many cells, chosen by validation, with what looks wrong named."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest

from tests.support.outcomes import predictions
from video.scoring.estimates import METRICS, estimate, lead
from video.scoring.monitored import SUMMARY
from video.scoring.outcomes import Outcome, by_model
from video.scoring.summary import (
    best_model,
    comparisons,
    identical_predictions,
    inexact_trainings,
    metrics_document,
    non_finite_metrics,
    score_lines,
    val_words,
)

# Five groups of two videos, of which the model gets one wrong.
PREDICTIONS = predictions(
    [f"g{number // 2}" for number in range(10)],
    [0, 1] * 5,
    predicted=[0, 1] * 4 + [0, 0],
    predicted_majority=[0] * 10,
)


def metrics(value: float) -> dict[str, Any]:
    return dict.fromkeys(SUMMARY, value)


def cell(
    model: str,
    fold: int,
    seed: int = 0,
    *,
    val: float = 0.5,
    test: float = 0.5,
    probability: float | None = None,
) -> Outcome:
    told = fold + seed / 10 + val if probability is None else probability
    return Outcome(
        model=model,
        fold=fold,
        seed=seed,
        name=f"{model} fold {fold} seed {seed}",
        num_train_videos=80,
        evaluation={
            "num_candidates": 1,
            "exact_up_to_step": None,
            "val": metrics(val) | {"num_videos": 20},
            "test": metrics(test),
            "baseline": {"majority": {"val": metrics(0.5), "test": metrics(0.4 + fold / 10)}},
        },
        history=pl.DataFrame({"epoch": [0]}),
        predictions=pl.concat(
            PREDICTIONS.with_columns(split=pl.lit(split), probability_fake=told)
            for split in ("val", "test")
        ),
    )


FOUR = [
    cell("small", 0, val=0.7, test=0.9),
    cell("small", 1, val=0.8, test=0.7),
    cell("large", 0, val=0.9, test=0.5),
    cell("large", 1, val=0.7, test=0.6),
]


# --- the best model ----------------------------------------------------------------------------


def test_the_best_model_has_the_best_mean_in_validation() -> None:
    assert best_model(FOUR, "balanced_accuracy") == "large"


def test_of_losses_the_smallest_is_the_best() -> None:
    assert best_model(FOUR, "loss") == "small"


def test_test_metrics_have_no_say_in_the_choice() -> None:
    cells = [cell("worse", 0, val=0.6, test=1.0), cell("better", 0, val=0.7, test=0.0)]

    assert best_model(cells, "accuracy") == "better"


@pytest.mark.parametrize("monitor", ["loss", "accuracy"])
def test_the_first_of_equals_is_chosen(monitor: str) -> None:
    assert best_model([cell("b", 0), cell("a", 0)], monitor) == "b"


def test_cells_are_gathered_by_model() -> None:
    gathered = by_model(FOUR)

    assert {name: [one.fold for one in own] for name, own in gathered.items()} == {
        "small": [0, 1],
        "large": [0, 1],
    }


# --- epochs chosen by validation ---------------------------------------------------------------


def of_best_epoch(one: Outcome, curve: list[float]) -> Outcome:
    """Return the cell with the metrics of its best epoch, as `train.publish: best` has them."""
    values = {f"val_{name}": curve for name in SUMMARY}
    val = one.evaluation["val"] | metrics(max(curve))
    return replace(
        one,
        evaluation={**one.evaluation, "val": val, "num_candidates": len(curve)},
        history=pl.DataFrame({"epoch": range(len(curve)), **values}),
    )


STEADY, SWINGING = [0.7, 0.75, 0.75], [0.5, 0.9, 0.6]


def test_a_model_is_chosen_by_an_epoch_that_its_score_did_not_choose() -> None:
    cells = [
        of_best_epoch(cell("swinging", 0), SWINGING),
        of_best_epoch(cell("steady", 0), STEADY),
    ]
    assert best_model(cells, "balanced_accuracy") == "steady"


def test_what_chose_its_own_epoch_is_called_a_maximum_and_compares_no_models() -> None:
    cells = [
        of_best_epoch(cell(model, fold), [value - fold / 10 for value in curve])
        for model, curve in (("swinging", SWINGING), ("steady", STEADY))
        for fold in (0, 1)
    ]
    document = metrics_document(cells, "steady", {})
    assert document["val"]["balanced_accuracy"] == pytest.approx(0.7)  # of the published weights
    (compared,) = comparisons(cells)
    assert compared.val.mean == pytest.approx(0.6 - 0.75)
    assert document["val_is"] == (
        "a maximum over 3 epochs, so it and its interval are better than on new videos; the choice "
        "of a model and comparisons take the last epoch; that of the chosen model is the best of 2 "
        "models"
    )


def test_of_the_last_epoch_val_is_called_so() -> None:
    assert val_words([cell("small", 0)]) == "that of the last epoch"


def test_models_that_are_equally_good_seldom_differ_significantly() -> None:
    """Their scores swing about one mean, as in training; 78 % differ by their maxima.

    With independent folds the test itself finds less than the 5 % that it allows for, because it
    corrects for training videos that folds share.
    """
    generator = np.random.default_rng(0)
    found = {"last epoch": 0, "maximum": 0}
    for _ in range(500):
        cells = [
            of_best_epoch(cell(model, fold), generator.normal(0.7, std, 20).tolist())
            for model, std in (("steady", 0.02), ("swinging", 0.06))
            for fold in range(5)
        ]
        as_estimates = [
            replace(one, evaluation={**one.evaluation, "num_candidates": 1}) for one in cells
        ]
        for name, own in (("last epoch", cells), ("maximum", as_estimates)):
            (compared,) = comparisons(own)
            assert compared.val.p is not None
            found[name] += compared.val.p < 0.05
    assert found["last epoch"] <= 0.05 * 500
    assert found["maximum"] >= 0.5 * 500


# --- exactness ---------------------------------------------------------------------------------


def test_a_training_that_went_on_with_other_code_is_warned_of() -> None:
    exact, inexact = cell("small", 0), cell("small", 1)
    inexact = replace(inexact, evaluation={**inexact.evaluation, "exact_up_to_step": 40})
    (warning,) = inexact_trainings([exact, inexact])
    assert warning.startswith("small fold 1 seed 0 was trained exactly up to step 40, and went on")


# --- the document ------------------------------------------------------------------------------


def test_the_metrics_are_means_over_the_folds_of_the_chosen_model() -> None:
    document = metrics_document(FOUR, "small", {})

    assert means(document["val"]) == pytest.approx(metrics(0.75))
    assert means(document["test"]) == pytest.approx(metrics(0.8))


def means(scores: dict[str, Any]) -> dict[str, float]:
    return {name: scores[name] for name in SUMMARY}


def test_the_baselines_are_means_over_the_same_test_sets() -> None:
    (majority,) = metrics_document(FOUR, "small", {})["baseline"].values()

    assert means(majority) == pytest.approx(metrics(0.45))


def test_every_score_has_its_interval_and_the_groups_that_it_rests_on() -> None:
    document = metrics_document(FOUR, "small", {})

    for scores, baseline in (
        (document["test"], None),
        (document["baseline"]["majority"], "majority"),
    ):
        for metric in METRICS:
            found = estimate(FOUR[:2], "test", metric, baseline)
            assert scores[f"{metric}_interval"] == found.interval
        assert scores["groups"] == 5


def test_every_baseline_has_the_interval_of_the_lead_over_it() -> None:
    majority = metrics_document(FOUR, "small", {})["baseline"]["majority"]

    assert majority["lead_interval"] == lead(FOUR[:2], "majority").interval


def test_every_model_has_its_mean_its_sample_deviation_and_its_interval() -> None:
    document = metrics_document(FOUR, "small", {})

    # Two values lie as far apart as the root of two times their sample deviation.
    assert document["models"]["small"]["test"] == {
        "balanced_accuracy": pytest.approx(0.8),
        "balanced_accuracy_std": pytest.approx(0.2 / math.sqrt(2)),
        "balanced_accuracy_interval": document["test"]["balanced_accuracy_interval"],
        "groups": 5,
    }
    large = document["models"]["large"]["val"]
    assert large["balanced_accuracy_std"] == pytest.approx(0.2 / math.sqrt(2))


def test_what_is_printed_is_what_the_document_has() -> None:
    document = metrics_document(FOUR, "small", {})

    low, high = document["test"]["balanced_accuracy_interval"]
    assert score_lines(FOUR)[0] == (
        f"small: test balanced accuracy 0.8000 ± 0.1414 over 2 folds, 95 % interval {low:.4f} to "
        f"{high:.4f} (10 videos in 5 groups)"
    )


def test_models_are_compared_fold_by_fold() -> None:
    # The folds differ much, and the models by -0.02, 0.04 and 0.04 on them.
    cells = [
        cell(model, fold, val=value, test=test)
        for model, values, test in [
            ("a", (0.58, 0.74, 0.94), 0.8),
            ("b", (0.60, 0.70, 0.90), 0.7),
        ]
        for fold, value in enumerate(values)
    ]

    (compared,) = metrics_document(cells, "a", {})["comparisons"]

    assert (compared["first"], compared["second"]) == ("a", "b")
    assert compared["test"] == pytest.approx(0.1)
    assert compared["val"]["mean"] == pytest.approx(0.02)
    assert compared["val"]["std"] == pytest.approx(math.sqrt(0.0012))
    # 20 videos validate and 80 train.
    assert compared["val"]["t"] == pytest.approx(0.02 / math.sqrt((1 / 3 + 20 / 80) * 0.0012))


def test_the_order_of_the_cells_pairs_no_fold_with_another() -> None:
    shuffled = [FOUR[i] for i in (3, 0, 2, 1)]

    (compared,) = comparisons(shuffled)

    assert (compared.first, compared.second) == ("large", "small")
    assert compared.val == comparisons([*FOUR[2:], *FOUR[:2]])[0].val


def test_every_two_of_three_models_are_compared() -> None:
    pairs = comparisons([cell(model, fold) for model in "abc" for fold in (0, 1)])

    assert [(pair.first, pair.second) for pair in pairs] == [("a", "b"), ("a", "c"), ("b", "c")]


def test_without_a_second_fold_no_models_are_compared() -> None:
    assert "comparisons" not in metrics_document([cell("a", 0), cell("b", 0)], "a", {})


# Two folds of two seeds: 0.8 and 0.7 are the folds' means over seeds.
SEEDS = [
    cell("a", fold, seed, val=value, test=value)
    for fold, seed, value in [(0, 0, 0.85), (0, 1, 0.75), (1, 0, 0.72), (1, 1, 0.68)]
]


def test_seeds_are_averaged_before_the_deviation_over_folds_is_taken() -> None:
    document = metrics_document(SEEDS, "a", {})

    assert means(document["test"]) == pytest.approx(metrics(0.75))
    spread = document["models"]["a"]["test"]
    assert spread["balanced_accuracy"] == pytest.approx(0.75)
    assert spread["balanced_accuracy_std"] == pytest.approx(0.1 / math.sqrt(2))
    # Each seed lies 0.05 or 0.02 from its fold's mean; one of two is free on each of two folds.
    pooled = math.sqrt((2 * 0.05**2 + 2 * 0.02**2) / 2)
    assert spread["balanced_accuracy_seed_std"] == pytest.approx(pooled)


def test_seeds_of_one_fold_have_their_deviation() -> None:
    models = metrics_document(SEEDS[:2], "a", {})["models"]

    assert models["a"]["val"]["balanced_accuracy"] == pytest.approx(0.8)
    assert models["a"]["val"]["balanced_accuracy_seed_std"] == pytest.approx(0.1 / math.sqrt(2))
    assert "balanced_accuracy_std" not in models["a"]["val"]


def test_models_are_compared_by_their_means_over_seeds_fold_by_fold() -> None:
    others = [cell("b", fold, seed, val=0.6 + fold / 10) for fold in (0, 1) for seed in (0, 1)]

    (compared,) = comparisons([*SEEDS, *others])

    assert compared.val.mean == pytest.approx((0.2 + 0.0) / 2)
    assert compared.val.std == pytest.approx(0.2 / math.sqrt(2))
    # 20 videos validate and 80 train, however many seeds there are.
    assert compared.val.t == pytest.approx(0.1 / math.sqrt((1 / 2 + 20 / 80) * 0.02))


def test_the_best_model_has_the_best_mean_over_folds_and_seeds() -> None:
    assert best_model([*SEEDS, cell("b", 0, val=0.77)], "accuracy") == "b"


def test_one_fold_has_no_deviation() -> None:
    models = metrics_document([cell("a", 0), cell("b", 0)], "a", {})["models"]

    assert set(models["a"]["test"]) == {
        "balanced_accuracy",
        "balanced_accuracy_interval",
        "groups",
    }


def test_a_single_cell_needs_no_comparison() -> None:
    assert "models" not in metrics_document([cell("a", 0)], "a", {})


def test_counts_are_passed_on() -> None:
    assert metrics_document(FOUR, "small", {"videos": 3})["counts"] == {"videos": 3}


# --- what looks wrong --------------------------------------------------------------------------


def test_whole_metrics_are_not_called_broken() -> None:
    assert non_finite_metrics(FOUR) == []


@pytest.mark.parametrize("value", [math.nan, math.inf, None, "0.5"])
def test_a_broken_metric_is_named_with_cell_split_and_value(value: Any) -> None:
    broken = cell("small", 1)
    broken.evaluation["test"]["loss"] = value

    assert non_finite_metrics([cell("small", 0), broken]) == [
        f"small fold 1 seed 0: expected a finite test loss, got {value}; run evaluate again"
    ]


def test_a_missing_metric_is_named() -> None:
    broken = cell("small", 1)
    del broken.evaluation["val"]["accuracy"]

    assert non_finite_metrics([broken]) == [
        "small fold 1 seed 0: expected a finite val accuracy, got None; run evaluate again"
    ]


def test_a_broken_metric_of_a_baseline_is_named() -> None:
    broken = cell("small", 1)
    broken.evaluation["baseline"]["majority"]["test"]["loss"] = math.nan

    assert non_finite_metrics([broken]) == [
        "small fold 1 seed 0: expected a finite test (baseline majority) loss, got nan; "
        "run evaluate again"
    ]


def test_a_split_without_metrics_is_named() -> None:
    broken = cell("small", 1)
    del broken.evaluation["val"]

    assert [fault.split(",")[0] for fault in non_finite_metrics([broken])] == [
        f"small fold 1 seed 0: expected a finite val {name}" for name in SUMMARY
    ]


def test_two_models_that_say_the_same_are_warned_about() -> None:
    cells = [cell("a", 0, probability=0.3), cell("b", 0, probability=0.3)]

    assert identical_predictions(cells) == [
        "a fold 0 seed 0 and b fold 0 seed 0 have identical predictions; "
        "check that both were trained"
    ]


def test_models_that_differ_in_the_last_digit_are_not_warned_about() -> None:
    cells = [cell("a", 0, probability=0.3), cell("b", 0, probability=math.nextafter(0.3, 1))]

    assert identical_predictions(cells) == []


def test_a_seed_without_effect_is_warned_about() -> None:
    cells = [cell("a", 0, seed, probability=0.3) for seed in (0, 1)]

    assert identical_predictions(cells) == [
        "a fold 0 seed 0 and a fold 0 seed 1 have identical predictions; check that the seed "
        "reaches the training"
    ]


def test_two_models_with_two_seeds_are_not_compared_with_each_other() -> None:
    cells = [cell("a", 0, 0, probability=0.3), cell("b", 0, 1, probability=0.3)]

    assert identical_predictions(cells) == []


def test_folds_are_not_compared_with_each_other() -> None:
    cells = [cell("a", 0, probability=0.3), cell("a", 1, probability=0.3)]

    assert identical_predictions(cells) == []
