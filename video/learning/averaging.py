"""Exponential moving average of a model's weights, which often generalizes better."""

import copy

import torch
from torch import nn


class MovingAverage:
    """An exponential moving average of a model's float tensors, running statistics included.

    `decay`: share kept at each update, in (0, 1). The first updates keep less, (1 + n) / (10 + n)
    at update n, counted from 1: otherwise the initial weights would dominate a short training.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self._decay = decay

    @torch.no_grad()
    def update(self, model: nn.Module, number: int) -> None:
        """Update the average with the weights after update `number`, counted from 1."""
        kept = min(self._decay, (1 + number) / (10 + number))
        averages, values = _tensors(self.model), _tensors(model)
        floats = [i for i, average in enumerate(averages) if average.is_floating_point()]
        torch._foreach_lerp_([averages[i] for i in floats], [values[i] for i in floats], 1.0 - kept)
        for average, value in zip(averages, values, strict=True):
            if not average.is_floating_point():
                average.copy_(value)


def _tensors(model: nn.Module) -> list[torch.Tensor]:
    return [*model.parameters(), *model.buffers()]
