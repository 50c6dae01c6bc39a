"""Backbone and head of a model: the features of clips, and the head by itself on them."""

import hashlib
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from video.models.classifiers import Normalize, build_model, head_of, model_module
from video.models.shape import ModelShape


class HeadError(ValueError):
    """The head that a model names does not make its logits of its features."""


@dataclass(frozen=True)
class Backbone:
    """A model up to its head, with the weights that it has, in eval mode.

    The features are what reaches the first module of the head.
    """

    name: str
    model: nn.Module
    normalize: nn.Module
    device: torch.device

    @classmethod
    def of_state(cls, initial: Mapping[str, Any], device: torch.device) -> "Backbone":
        """Return the backbone of initial weights."""
        name = initial["architecture"]
        model = build_model(name, ModelShape(**initial["shape"]))
        model.load_state_dict(initial["model"])
        return cls(name, model.eval().to(device), Normalize(name).to(device), device)

    @torch.no_grad()
    def features(self, clips: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the features of clips (batch, frames, height, width, 3).

        Raises `HeadError` unless the head alone makes of them the logits of the whole model.
        """
        found: list[torch.Tensor] = []
        first = head_of(self.name, self.model)[0]
        # Copied: a module of the head may change its input in place.
        with first.register_forward_pre_hook(lambda _, given: found.append(given[0].clone())):
            logits = self.model(self.normalize(torch.as_tensor(clips).to(self.device)))
        head = head_alone(self.name, self.model)
        if len(found) != 1 or not _equal(head(found[0]), logits):
            raise HeadError(
                f"{self.name}: expected the logits of the model of its head, the modules "
                f"{', '.join(model_module(self.name).head(self.name))} one after another, got "
                "others; correct the function head of its module, or write features: trained"
            )
        array: NDArray[np.float32] = found[0].cpu().numpy()
        return array

    def digest(self) -> str:
        """Return 64 hex digits of the weights outside of the head."""
        head = tuple(f"{part}." for part in model_module(self.name).head(self.name))
        digest = hashlib.sha256()
        for name, tensor in self.model.state_dict().items():
            if not name.startswith(head):
                digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
                digest.update(tensor.cpu().numpy().tobytes())
        return digest.hexdigest()


def head_alone(name: str, model: nn.Module) -> nn.Module:
    """Return the head of a model as a model of features; its tensors keep their names."""
    parts = zip(model_module(name).head(name), head_of(name, model), strict=True)
    return nn.Sequential(OrderedDict([*parts, ("logits", nn.Flatten())]))


def _equal(first: torch.Tensor, second: torch.Tensor) -> bool:
    """Return whether two tensors are equal, NaN included."""
    return first.shape == second.shape and torch.allclose(first, second, 0, 0, equal_nan=True)
