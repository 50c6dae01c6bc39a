"""Prediction: transfer of batches to a device, and one pass over them."""

import sys
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from video.clips.loading import Allocate, Batch
from video.learning.memory import TooLittleMemoryError, is_out_of_memory


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
    """Return probabilities of shape (clips, classes), in order; leaves the model in eval mode.

    If a batch does not fit into memory, it and those after it are predicted in smaller parts.
    Raises `TooLittleMemoryError` if not even one clip fits.
    """
    model.eval()
    max_clips = sys.maxsize
    parts = []
    for batch in batches:
        start = 0
        while start < len(batch.clips):
            clips = batch.clips[start : start + max_clips]
            try:
                logits = model(normalize(on_device(clips, device)))
                parts.append(logits.double().softmax(1).cpu().numpy())
                start += len(clips)
                continue
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                reason = str(error).partition("\n")[0]
            # Here the error is gone, which held all that the forward pass had made.
            max_clips = _half_of(len(clips), reason)
            if device.type == "cuda":
                torch.cuda.empty_cache()
    return np.concatenate(parts)


def _half_of(num_clips: int, reason: str) -> int:
    if num_clips == 1:
        raise TooLittleMemoryError(
            f"prediction of one clip: expected memory for it, got none ({reason}); take smaller "
            "clips, a smaller model, or a machine with more memory"
        )
    return num_clips // 2
