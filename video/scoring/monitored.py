"""Metrics that training can monitor, and the comparison of two epochs by them.

Computed here because importing scikit-learn adds a second to every start of a training. The
definitions are scikit-learn's.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

SUMMARY = ("accuracy", "balanced_accuracy", "f1_macro", "loss")


class NonFinitePredictionsError(ValueError):
    """A model predicts NaN or infinity, which a metric would hide."""


def summary_metrics(
    targets: NDArray[np.int64], probabilities: NDArray[np.float64], num_classes: int
) -> dict[str, float]:
    """Return the metrics of SUMMARY for one split.

    targets: class numbers, shape (videos,); probabilities: shape (videos, classes), rows sum to 1.
    balanced_accuracy is the mean recall of the classes that occur, f1_macro the mean F1 of all
    classes, loss the mean negative log-likelihood in nats. Raises `NonFinitePredictionsError` if a
    probability is not finite.
    """
    confusion = confusion_matrix(targets, probabilities, num_classes)
    _, recall, f1 = class_metrics(confusion)
    likelihood = probabilities[np.arange(len(targets)), targets].clip(1e-12)
    return {
        "accuracy": float(confusion.trace() / len(targets)),
        "balanced_accuracy": float(recall[np.unique(targets)].mean()),
        "f1_macro": float(f1.mean()),
        "loss": float(-np.log(likelihood).mean()),
    }


def confusion_matrix(
    targets: NDArray[np.int64], probabilities: NDArray[np.float64], num_classes: int
) -> NDArray[np.int64]:
    """Count videos by true class (rows) and most probable class (columns)."""
    if not np.isfinite(probabilities).all():
        rows = np.flatnonzero(~np.isfinite(probabilities).all(axis=1))
        raise NonFinitePredictionsError(
            f"expected finite probabilities, got NaN or infinity for {len(rows)} of "
            f"{len(targets)} videos; lower train.learning_rate"
        )
    confusion = np.zeros((num_classes, num_classes), np.int64)
    np.add.at(confusion, (targets, probabilities.argmax(axis=1)), 1)
    return confusion


def class_metrics(
    confusion: NDArray[np.int64],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return precision, recall and F1 of each class; 0 instead of 0 / 0."""
    right, support, given = confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0)
    precision, recall = right / given.clip(1), right / support.clip(1)
    return precision, recall, 2 * right / (support + given).clip(1)


def is_better(metrics: Mapping[str, float], best: Mapping[str, float], monitor: str) -> bool:
    """Return whether `metrics` are better than the best so far; `best` is empty at first.

    Ties, which are common with a small validation set, are broken by the lower loss.
    """
    return not best or _rank(metrics, monitor) > _rank(best, monitor)


def _rank(metrics: Mapping[str, float], monitor: str) -> tuple[float, float]:
    """Return a sort key; greater is better."""
    return (-metrics["loss"] if monitor == "loss" else metrics[monitor], -metrics["loss"])
