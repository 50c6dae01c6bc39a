"""The classifiers: the project's own small one, and torchvision's.

All take float of shape (batch, 3, frames, height, width), normalised by `Normalise`, and give
logits of shape (batch, classes). Pooling is a mean over the last three axes, whose backward is
deterministic on CUDA, where that of adaptive pooling is not.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
from torch import nn
from torchvision.models import video as torchvision_video
from torchvision.models.video import mvit

from video.small3d import Small3D


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """What a model is built for."""

    num_classes: int
    frames: int
    height: int
    width: int
    dropout: float


class UnsuitableShapeError(ValueError):
    """The model cannot take clips of this shape."""


class Normalise(nn.Module):
    """uint8 clips of shape (batch, frames, height, width, 3) to the input of `model_name`.

    Clips stay uint8 until they are on the device: a quarter of the bytes to read and to copy.
    Each channel's mean and deviation are those that torchvision's weights were trained with;
    small3d takes those of r3d_18.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, model_name: str) -> None:
        super().__init__()
        preset = _PRETRAINED.get(model_name, _PRETRAINED["r3d_18"]).transforms()
        self.register_buffer("mean", torch.tensor(preset.mean).view(3, 1, 1, 1), False)
        self.register_buffer("std", torch.tensor(preset.std).view(3, 1, 1, 1), False)

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        channels_first = clips.permute(0, 4, 1, 2, 3).to(torch.float32)
        return (channels_first / 255.0 - self.mean) / self.std


class GlobalMean(nn.Module):
    """Mean over frames, height and width, kept as axes of length 1."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features.mean((2, 3, 4), keepdim=True)


class _Preset(Protocol):
    """How torchvision prepares the clips for its weights."""

    mean: Sequence[float]
    std: Sequence[float]


class _Weights(Protocol):
    """The part of torchvision's weights enumerations that is used here."""

    url: str

    def transforms(self) -> "_Preset": ...

    def get_state_dict(self, *, progress: bool, check_hash: bool) -> Mapping[str, Any]: ...


Builder = Callable[[ModelShape], nn.Module]


def _small3d(shape: ModelShape) -> nn.Module:
    return Small3D(num_classes=shape.num_classes, dropout=shape.dropout)


def _resnet(build: Callable[..., nn.Module]) -> Builder:
    def built(shape: ModelShape) -> nn.Module:
        model = cast(Any, build(weights=None))
        model.avgpool = GlobalMean()
        model.fc = _head(model.fc.in_features, shape)
        return cast(nn.Module, model)

    return built


def _s3d(shape: ModelShape) -> nn.Module:
    model = cast(Any, torchvision_video.s3d(weights=None))
    # The original pools over 7x7 positions, which only 224x224 pixels have.
    model.avgpool = GlobalMean()
    model.classifier = nn.Sequential(
        nn.Dropout(shape.dropout), nn.Conv3d(1024, shape.num_classes, kernel_size=1)
    )
    return cast(nn.Module, model)


def _mvit(shape: ModelShape) -> nn.Module:
    # torchvision's own mvit_v2_s is fixed to 16 frames of 224x224.
    model = cast(
        Any,
        mvit.MViT(
            spatial_size=(shape.height, shape.width),
            temporal_size=shape.frames,
            block_setting=_mvit_v2_s_blocks(),
            residual_pool=True,
            residual_with_cls_embed=False,
            rel_pos_embed=True,
            proj_after_attn=True,
            stochastic_depth_prob=0.2,
        ),
    )
    model.head = _head(model.head[1].in_features, shape)
    return cast(nn.Module, model)


def _mvit_v2_s_blocks() -> list[mvit.MSBlockConfig]:
    """The 16 blocks of MViTv2-S (Li et al., "MViTv2", CVPR 2022, table 1), in four scales."""
    blocks = []
    for scale, num_blocks in enumerate((1, 2, 11, 2)):
        for block in range(num_blocks):
            enters = scale > 0 and block == 0
            kept = 8 >> scale
            blocks.append(
                mvit.MSBlockConfig(
                    num_heads=1 << scale,
                    input_channels=96 << (scale - 1 if enters else scale),
                    output_channels=96 << scale,
                    kernel_q=[3, 3, 3],
                    kernel_kv=[3, 3, 3],
                    stride_q=[1, 2, 2] if enters else [1, 1, 1],
                    stride_kv=[1, kept, kept],
                )
            )
    return blocks


def _swin(shape: ModelShape) -> nn.Module:
    model = cast(Any, torchvision_video.swin3d_t(weights=None))
    model.avgpool = GlobalMean()
    model.head = _head(model.num_features, shape)
    return cast(nn.Module, model)


def _head(num_features: int, shape: ModelShape) -> nn.Module:
    return nn.Sequential(nn.Dropout(shape.dropout), nn.Linear(num_features, shape.num_classes))


BUILDERS: Mapping[str, Builder] = {
    "small3d": _small3d,
    "r3d_18": _resnet(torchvision_video.r3d_18),
    "mc3_18": _resnet(torchvision_video.mc3_18),
    "r2plus1d_18": _resnet(torchvision_video.r2plus1d_18),
    "s3d": _s3d,
    "mvit_v2_s": _mvit,
    "swin3d_t": _swin,
}

_PRETRAINED: Mapping[str, _Weights] = {
    "r3d_18": torchvision_video.R3D_18_Weights.KINETICS400_V1,
    "mc3_18": torchvision_video.MC3_18_Weights.KINETICS400_V1,
    "r2plus1d_18": torchvision_video.R2Plus1D_18_Weights.KINETICS400_V1,
    "s3d": torchvision_video.S3D_Weights.KINETICS400_V1,
    "mvit_v2_s": torchvision_video.MViT_V2_S_Weights.KINETICS400_V1,
    "swin3d_t": torchvision_video.Swin3D_T_Weights.KINETICS400_V1,
}


def build_model(name: str, shape: ModelShape) -> nn.Module:
    """The model with random weights drawn from torch's generator; `name` is a key of BUILDERS.

    Raises `UnsuitableShapeError` if a clip of this shape does not pass through it.
    """
    try:
        model = BUILDERS[name](shape)
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
    return _PRETRAINED[name].url if name in _PRETRAINED else None


def download_pretrained(name: str) -> Mapping[str, Any]:
    """torchvision's Kinetics-400 weights, from its cache or the network; `OSError` if neither."""
    return _PRETRAINED[name].get_state_dict(progress=True, check_hash=True)


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
