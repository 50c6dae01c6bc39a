"""Classifiers by name: the project's own small one, and torchvision's.

All take float of shape (batch, 3, frames, height, width), normalized by `Normalize`, and return
logits of shape (batch, classes). Pooling is a mean over the last three axes: its backward is
deterministic on CUDA, that of adaptive pooling is not.
"""

import importlib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, cast

import torch
from torch import nn

from video.models.registry import MODULES
from video.models.shape import ModelShape


class Weights(Protocol):
    """Published weights of a model, as torchvision's enumerations have them."""

    url: str
    meta: Mapping[str, Any]

    def get_state_dict(
        self, *, progress: bool, check_hash: bool, weights_only: bool
    ) -> Mapping[str, Any]: ...


class ModelModule(Protocol):
    """The functions of a module in video/models/, for each of its models by name."""

    def build(self, name: str, shape: ModelShape) -> nn.Module:
        """Return the model with weights drawn from torch's generator."""

    def normalization(self, name: str) -> tuple[Sequence[float], Sequence[float]]:
        """Return mean and standard deviation of each channel, for pixels in [0, 1]."""

    def head(self, name: str) -> Sequence[str]:
        """Name the modules between pooled features and logits, in their order.

        One after another they make the logits of what the first of them is given; each is a
        child of the model.
        """

    def published_weights(self, name: str) -> Weights | None:
        """Return the weights for Kinetics-400, if published."""


class UnsuitableShapeError(ValueError):
    """The model cannot take clips of this shape."""


class Normalize(nn.Module):
    """Normalization of uint8 clips (batch, frames, height, width, 3) to the input of `model_name`.

    Clips stay uint8 until they are on the device: a quarter of the bytes to read and to copy.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, model_name: str) -> None:
        super().__init__()
        mean, std = normalization(model_name).values()
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1, 1), False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1, 1), False)

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        channels_first = clips.permute(0, 4, 1, 2, 3).to(torch.float32)
        return (channels_first / 255.0 - self.mean) / self.std


def normalization(model_name: str) -> dict[str, list[float]]:
    """Return "mean" and "std" of the channels, for pixels in [0, 1]."""
    mean, std = model_module(model_name).normalization(model_name)
    return {"mean": list(mean), "std": list(std)}


def model_module(name: str) -> ModelModule:
    """Import the module of a model on demand; importing torchvision's takes 2 s."""
    return cast(ModelModule, importlib.import_module(MODULES[name]))


def build_model(name: str, shape: ModelShape) -> nn.Module:
    """Return the model with random weights drawn from torch's generator; `name` is one of MODULES.

    Raises `UnsuitableShapeError` if a clip of this shape does not pass through it.
    """
    try:
        model = model_module(name).build(name, shape)
        probe = torch.zeros(2, 3, shape.frames, shape.height, shape.width)
        with torch.no_grad():
            logits = model.eval()(probe)
    except (RuntimeError, ValueError, AssertionError, IndexError) as error:
        raise UnsuitableShapeError(
            f"{name} takes no clips of {shape.frames} frames of {shape.height}x{shape.width}: "
            f"{str(error).splitlines()[0]}"
        ) from error
    assert logits.shape == (2, shape.num_classes), logits.shape
    return model.train()


def head_of(name: str, model: nn.Module) -> list[nn.Module]:
    """Return the modules between pooled features and logits, which no pretrained weights fit."""
    return [model.get_submodule(part) for part in model_module(name).head(name)]
