"""Prediction: transfer of batches to a device, and one pass over them."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from video.clips.loading import Allocate, Batch


def on_device(array: NDArray[Any] | torch.Tensor, device: torch.device) -> torch.Tensor:
    """Move an array to a device in its own dtype; without a copy on the CPU."""
    return torch.as_tensor(array).to(device, non_blocking=True)


def batch_memory(device: torch.device) -> Allocate | None:
    """Return the allocator of batches for `device`: pinned memory for a GPU, else None."""
    if device.type != "cuda":
        return None
    return lambda shape: torch.empty(shape, dtype=torch.uint8, pin_memory=True).numpy()


@torch.no_grad()
def predict(
    model: nn.Module, normalize: nn.Module, batches: Iterable[Batch], device: torch.device
) -> NDArray[np.float64]:
    """Return probabilities of shape (clips, classes), in order; leaves the model in eval mode."""
    model.eval()
    parts = []
    for batch in batches:
        logits = model(normalize(on_device(batch.clips, device)))
        parts.append(logits.double().softmax(1).cpu().numpy())
    return np.concatenate(parts)
