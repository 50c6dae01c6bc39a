"""Figures follow scikit-learn's definitions, and none hides a broken prediction."""

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn import metrics as sklearn_metrics

from video.scoring.metrics import classification_metrics
from video.scoring.monitored import SUMMARY, is_better

LABELS = ["a", "b", "c"]


def random_case(num_rows: int = 200) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    generator = np.random.default_rng(0)
    targets = generator.choice(3, num_rows, p=[0.6, 0.3, 0.1])
    scores = generator.random((num_rows, 3)) + 0.5 * np.eye(3)[targets]
    return targets, scores / scores.sum(axis=1, keepdims=True)


def worked() -> dict[str, Any]:
    """Score four videos of a, two of b; three of a are found, and one of b."""
    targets = np.array([0, 0, 0, 0, 1, 1])
    predicted = [0, 0, 0, 1, 1, 0]
    probabilities = np.where(np.eye(2)[predicted] == 1, 0.8, 0.2)
    return classification_metrics(targets, probabilities, ["a", "b"])


# --- by hand -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("accuracy", 4 / 6),
        ("balanced_accuracy", (3 / 4 + 1 / 2) / 2),
        ("f1_macro", (3 / 4 + 1 / 2) / 2),
        ("loss", -(4 * math.log(0.8) + 2 * math.log(0.2)) / 6),
        ("num_videos", 6),
        ("confusion", [[3, 1], [1, 1]]),
    ],
)
def test_a_metric_is_as_worked_out_by_hand(name: str, expected: Any) -> None:
    metric = worked()[name]

    assert metric == (expected if isinstance(expected, list) else pytest.approx(expected))


def test_the_metrics_of_a_class_are_as_worked_out_by_hand() -> None:
    assert worked()["per_class"] == {
        "a": {"precision": 0.75, "recall": 0.75, "f1": 0.75, "support": 4},
        "b": {"precision": 0.5, "recall": 0.5, "f1": 0.5, "support": 2},
    }


# --- against scikit-learn ----------------------------------------------------------------------


def test_metrics_are_those_of_scikit_learn() -> None:
    targets, probabilities = random_case()
    predicted = probabilities.argmax(axis=1)

    metrics = classification_metrics(targets, probabilities, LABELS)

    assert {name: metrics[name] for name in SUMMARY} == pytest.approx(
        {
            "accuracy": sklearn_metrics.accuracy_score(targets, predicted),
            "balanced_accuracy": sklearn_metrics.balanced_accuracy_score(targets, predicted),
            "f1_macro": sklearn_metrics.f1_score(targets, predicted, average="macro"),
            "loss": sklearn_metrics.log_loss(targets, probabilities),
        }
    )


def test_the_confusion_has_true_classes_as_rows() -> None:
    targets, probabilities = random_case()

    confusion = classification_metrics(targets, probabilities, LABELS)["confusion"]

    assert [sum(row) for row in confusion] == np.bincount(targets).tolist()


def test_a_class_absent_from_a_split_does_not_count_in_the_balanced_accuracy() -> None:
    targets = np.array([0, 0, 1, 1])
    probabilities = np.eye(3)[[0, 0, 1, 0]]

    metrics = classification_metrics(targets, probabilities, LABELS)

    assert metrics["balanced_accuracy"] == pytest.approx(0.75)
    assert metrics["per_class"]["c"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 0}
    assert metrics["confusion"][2] == [0, 0, 0]


def test_a_certain_mistake_has_a_finite_loss() -> None:
    metrics = classification_metrics(np.array([0]), np.array([[0.0, 1.0]]), ["a", "b"])

    assert math.isfinite(metrics["loss"])


def test_all_metrics_are_plain_values() -> None:
    def kinds(value: Any) -> set[type]:
        if isinstance(value, dict):
            return set().union(*map(kinds, value.values()))
        if isinstance(value, list):
            return set().union(*map(kinds, value))
        return {type(value)}

    assert kinds(classification_metrics(*random_case(), LABELS)) == {float, int}


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_probability_that_is_no_number_is_refused(value: float) -> None:
    targets, probabilities = random_case()
    probabilities[[3, 7], 1] = value

    with pytest.raises(ValueError, match=r"got NaN or infinity for 2 of 200 videos; lower"):
        classification_metrics(targets, probabilities, LABELS)


# --- better ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metric", "accuracy", "loss", "better"),
    [
        ("accuracy", 0.6, 0.9, True),
        ("accuracy", 0.5, 0.4, True),  # of equals, the lower loss
        ("accuracy", 0.5, 0.5, False),
        ("accuracy", 0.4, 0.1, False),
        ("loss", 0.1, 0.4, True),
        ("loss", 0.9, 0.5, False),
        ("loss", 0.9, 0.6, False),
    ],
)
def test_metrics_are_better_by_the_metric_and_then_by_the_loss(
    metric: str, accuracy: float, loss: float, better: bool
) -> None:
    best = {"accuracy": 0.5, "loss": 0.5}

    assert is_better({"accuracy": accuracy, "loss": loss}, best, metric) is better
    assert is_better({"accuracy": accuracy, "loss": loss}, {}, metric)
