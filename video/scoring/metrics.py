"""Figures of a classifier's predictions, by scikit-learn's definitions.

Counted here, for importing scikit-learn takes a second of every start of a training.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

SUMMARY = ("accuracy", "balanced_accuracy", "f1_macro", "loss")


class NonFinitePredictionsError(ValueError):
    """A model gives NaN or infinity; a figure made of that would hide it."""


def classification_metrics(
    targets: NDArray[np.int64], probabilities: NDArray[np.float64], labels: Sequence[str]
) -> dict[str, Any]:
    """All figures of one split.

    targets: class numbers, shape (videos,); probabilities: shape (videos, classes), rows sum to
    1; labels: the classes' names. Returns plain values: accuracy, balanced_accuracy (mean of the
    classes' recalls), f1_macro, loss (mean negative log-likelihood, nats), num_videos, per_class
    {label: precision, recall, f1, support}, confusion (rows: true class, columns: predicted).
    Raises `NonFinitePredictionsError` where a probability is not finite.
    """
    if not np.isfinite(probabilities).all():
        rows = np.flatnonzero(~np.isfinite(probabilities).all(axis=1))
        raise NonFinitePredictionsError(
            f"expected finite probabilities, got NaN or infinity for {len(rows)} of "
            f"{len(targets)} videos; lower train.learning_rate"
        )
    predicted = probabilities.argmax(axis=1)
    confusion = np.zeros((len(labels), len(labels)), np.int64)
    np.add.at(confusion, (targets, predicted), 1)
    right, support, given = confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0)
    # What would be 0 / 0 is 0.
    precision, recall = right / given.clip(1), right / support.clip(1)
    f1 = 2 * right / (support + given).clip(1)
    present = np.unique(targets)
    likelihood = probabilities[np.arange(len(targets)), targets].clip(1e-12)
    return {
        "accuracy": float((predicted == targets).mean()),
        "balanced_accuracy": float(recall[present].mean()),
        "f1_macro": float(f1.mean()),
        "loss": float(-np.log(likelihood).mean()),
        "num_videos": len(targets),
        "per_class": {
            label: {
                "precision": float(precision[i]),
                "recall": float(recall[i]),
                "f1": float(f1[i]),
                "support": int(support[i]),
            }
            for i, label in enumerate(labels)
        },
        "confusion": confusion.tolist(),
    }


def is_better(figures: Mapping[str, float], best: Mapping[str, float], metric: str) -> bool:
    """Whether figures are better than the best so far, empty before there are any.

    Of equals, which a small validation set often gives, the lower loss is better.
    """
    return not best or _rank(figures, metric) > _rank(best, metric)


def _rank(figures: Mapping[str, float], metric: str) -> tuple[float, float]:
    """Greater is better."""
    return (-figures["loss"] if metric == "loss" else figures[metric], -figures["loss"])


def balanced_accuracy_interval(
    confusion: Sequence[Sequence[int]], *, draws: int = 10_000
) -> tuple[float, float]:
    """A 95 % interval of the balanced accuracy, given the confusion matrix of a test set.

    Jeffreys' prior for each class's recall, Beta(correct + 1/2, wrong + 1/2), their mean by
    `draws` simulations with a fixed seed (Brodersen et al., "The balanced accuracy and its
    posterior distribution", ICPR 2010, there with the uniform prior). It is widened to hold the
    measured value, from which the prior draws it away where classes are small and all right. It
    takes videos as independent; near-duplicates in the test set make the true interval wider.
    """
    generator = np.random.Generator(np.random.Philox(key=0))
    counts = [(row[i], sum(row)) for i, row in enumerate(confusion) if sum(row)]
    recalls = [generator.beta(right + 0.5, of - right + 0.5, draws) for right, of in counts]
    low, high = np.quantile(np.mean(recalls, axis=0), [0.025, 0.975])
    measured = np.mean([right / of for right, of in counts])
    return float(min(low, measured)), float(max(high, measured))
