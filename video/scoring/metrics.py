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
