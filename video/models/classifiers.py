"""The classifiers: the project's own small one, and torchvision's.

All take float of shape (batch, 3, frames, height, width), normalised by `Normalise`, and give
logits of shape (batch, classes). Pooling is a mean over the last three axes, whose backward is
deterministic on CUDA, where that of adaptive pooling is not.
"""

from collections.abc import Mapping
from types import ModuleType
from typing import Any, cast

import torch
from torch import nn

from video.models.shape import ModelShape
from video.models.small3d import Small3D

TORCHVISION_MODELS = ("r3d_18", "mc3_18", "r2plus1d_18", "s3d", "mvit_v2_s", "swin3d_t")
MODELS = ("small3d", *TORCHVISION_MODELS)

# Of the channels in Kinetics-400, as torchvision's R3D weights were trained with.
KINETICS_MEAN = (0.43216, 0.394666, 0.37645)
KINETICS_STD = (0.22803, 0.22145, 0.216989)


class UnsuitableShapeError(ValueError):
    """The model cannot take clips of this shape."""


class Normalise(nn.Module):
    """uint8 clips of shape (batch, frames, height, width, 3) to the input of `model_name`.

    Clips stay uint8 until they are on the device: a quarter of the bytes to read and to copy.
    Each channel's mean and deviation are those that torchvision's weights were trained with;
    small3d takes those of Kinetics-400.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, model_name: str) -> None:
        super().__init__()
        mean, std = KINETICS_MEAN, KINETICS_STD
        if model_name in TORCHVISION_MODELS:
            preset = _torchvision().WEIGHTS[model_name].transforms()
            mean, std = preset.mean, preset.std
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1, 1), False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1, 1), False)

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        channels_first = clips.permute(0, 4, 1, 2, 3).to(torch.float32)
        return (channels_first / 255.0 - self.mean) / self.std


def build_model(name: str, shape: ModelShape) -> nn.Module:
    """The model with random weights drawn from torch's generator; `name` is one of MODELS.

    Raises `UnsuitableShapeError` if a clip of this shape does not pass through it.
    """
    try:
        model = _build(name, shape)
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


def pretrained_url(name: str) -> str | None:
    """Where torchvision publishes the Kinetics-400 weights of a model; None if it has none."""
    if name not in TORCHVISION_MODELS:
        return None
    return cast(str, _torchvision().WEIGHTS[name].url)


def download_pretrained(name: str) -> Mapping[str, Any]:
    """torchvision's Kinetics-400 weights, from its cache or the network; `OSError` if neither."""
    weights = _torchvision().WEIGHTS[name].get_state_dict(progress=True, check_hash=True)
    return cast(Mapping[str, Any], weights)


def adopt_weights(model: nn.Module, weights: Mapping[str, Any]) -> list[str]:
    """Load the entries of `weights` that fit by name and shape; return the names left as drawn.

    The head for another number of classes is left, and so is MViT's table of relative positions
    for another clip size.
    """
    own = model.state_dict()
    fitting = {
        name: value
        for name, value in weights.items()
        if name in own and own[name].shape == value.shape
    }
    model.load_state_dict(fitting, strict=False)
    return sorted(set(own) - set(fitting))


def head_of(name: str, model: nn.Module) -> list[nn.Module]:
    """The modules between pooled features and logits, which no pretrained weights fit."""
    names = {"small3d": ("dropout", "head"), "s3d": ("classifier",)}
    resnets = ("r3d_18", "mc3_18", "r2plus1d_18")
    default = ("fc",) if name in resnets else ("head",)
    return [model.get_submodule(part) for part in names.get(name, default)]


def _build(name: str, shape: ModelShape) -> nn.Module:
    if name == "small3d":
        return Small3D(num_classes=shape.num_classes, dropout=shape.dropout)
    return cast(nn.Module, _torchvision().BUILDERS[name](shape))


def _torchvision() -> ModuleType:
    # Not at the top: it costs 2 s of every start, and small3d needs none of it.
    from video.models import torchvision

    return torchvision
