"""One step of training and one pass of prediction, on a device."""

from collections.abc import Iterable
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from video.loading import Batch


class Loss(Protocol):
    def __call__(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor: ...


class NonFiniteLossError(ValueError):
    """The loss is NaN or infinite; weights and optimizer are as they were before this batch.

    Running statistics, as those of batch norm, have seen the batch.
    """


def class_weights(targets: NDArray[np.int64], num_classes: int) -> torch.Tensor:
    """Weights inverse to the classes' frequencies, 1 on average over the clips; shape (classes,).

    scikit-learn's "balanced" heuristic: clips / (classes * count).
    """
    counts = np.bincount(targets, minlength=num_classes)
    return torch.tensor(len(targets) / (num_classes * counts.clip(1)), dtype=torch.float32)


def train_step(
    model: nn.Module,
    normalise: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss_of: Loss,
    batch: Batch,
    device: torch.device,
) -> float:
    """One optimizer step; returns the loss of the batch.

    Raises `NonFiniteLossError` before the optimizer has used a NaN or infinite loss.
    """
    logits = model(normalise(_on(device, batch.clips)))
    loss = loss_of(logits, _on(device, batch.labels))
    value = loss.item()
    if not np.isfinite(value):
        raise NonFiniteLossError(f"the loss is {value}")
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return value


@torch.no_grad()
def predict(
    model: nn.Module, normalise: nn.Module, batches: Iterable[Batch], device: torch.device
) -> NDArray[np.float64]:
    """Probabilities of shape (clips, classes) in the batches' order; the model is left in eval."""
    model.eval()
    parts = []
    for batch in batches:
        logits = model(normalise(_on(device, batch.clips)))
        parts.append(logits.double().softmax(1).cpu().numpy())
    return np.concatenate(parts)


def _on(device: torch.device, array: NDArray[Any]) -> torch.Tensor:
    """Without a copy on the CPU; from there, as the bytes that it has."""
    return torch.from_numpy(array).to(device, non_blocking=True)
