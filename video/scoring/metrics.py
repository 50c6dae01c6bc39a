"""Metrics of a classifier's predictions, by scikit-learn's definitions, for people and reports."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from video.scoring.monitored import class_metrics, confusion_matrix, summary_metrics


def classification_metrics(
    targets: NDArray[np.int64], probabilities: NDArray[np.float64], labels: Sequence[str]
) -> dict[str, Any]:
    """Return all metrics of one split.

    targets: class numbers, shape (videos,); probabilities: shape (videos, classes), rows sum to
    1; labels: the classes' names. Returns plain values: those of `summary_metrics`, num_videos,
    per_class {label: precision, recall, f1, support}, confusion (rows: true class, columns:
    predicted). Raises `NonFinitePredictionsError` if a probability is not finite.
    """
    confusion = confusion_matrix(targets, probabilities, len(labels))
    precision, recall, f1 = class_metrics(confusion)
    support = confusion.sum(axis=1)
    return {
        **summary_metrics(targets, probabilities, len(labels)),
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


def balanced_accuracy_interval(
    confusion: Sequence[Sequence[int]], *, draws: int = 10_000
) -> tuple[float, float]:
    """Return a 95 % interval of the balanced accuracy, from the confusion matrix of a test set.

    Jeffreys' prior for each class's recall, Beta(correct + 1/2, wrong + 1/2), their mean by
    `draws` simulations with a fixed seed (Brodersen et al., "The balanced accuracy and its
    posterior distribution", ICPR 2010, there with the uniform prior). It is widened to hold the
    measured value, which the prior can exclude if classes are small and all correct. It takes
    videos as independent; near-duplicates in the test set make the true interval wider.
    """
    generator = np.random.Generator(np.random.Philox(key=0))
    counts = [(row[i], sum(row)) for i, row in enumerate(confusion) if sum(row)]
    recalls = [generator.beta(right + 0.5, of - right + 0.5, draws) for right, of in counts]
    low, high = np.quantile(np.mean(recalls, axis=0), [0.025, 0.975])
    measured = np.mean([right / of for right, of in counts])
    return float(min(low, measured)), float(max(high, measured))
