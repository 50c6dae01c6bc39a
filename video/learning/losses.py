"""Cross entropy as a sum over clips, for accumulation over micro-batches."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional


def class_weights(targets: NDArray[np.int64], num_classes: int) -> torch.Tensor:
    """Return weights inverse to class frequency, 1 on average over the clips; shape (classes,).

    scikit-learn's "balanced" heuristic: clips / (classes * count).
    """
    counts = np.bincount(targets, minlength=num_classes)
    return torch.tensor(len(targets) / (num_classes * counts.clip(1)), dtype=torch.float32)


class WeightedCrossEntropy:
    """Cross entropy with weighted classes and smoothed labels.

    Its sum over a batch, divided by `total_weight` of the batch, is the mean that
    `nn.CrossEntropyLoss(weight, label_smoothing=…)` returns. Computed with probabilities as
    targets, to avoid the NLLLoss kernel, which is not deterministic on CUDA.

    `weights`: float of shape (classes,).
    """

    def __init__(self, weights: torch.Tensor, label_smoothing: float) -> None:
        num_classes = len(weights)
        self._weights = weights.double().numpy()
        smoothed = np.full((num_classes, num_classes), label_smoothing / num_classes)
        smoothed[np.diag_indices(num_classes)] += 1.0 - label_smoothing
        self._rows = (smoothed * self._weights).astype(np.float32)

    def targets(self, labels: NDArray[np.int64]) -> torch.Tensor:
        """Return class probabilities times class weights, float32 of shape (clips, classes)."""
        return torch.from_numpy(self._rows[labels])

    def total_weight(self, labels: NDArray[np.int64]) -> float:
        return float(self._weights[labels].sum())

    def sum(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Sum the loss over the clips; `targets` from `targets()`, on the logits' device."""
        # float32 whatever the precision of the model: a sum over clips needs the digits.
        return functional.cross_entropy(logits.float(), targets, reduction="sum")
