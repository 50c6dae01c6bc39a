"""torchvision's video models with a head for the classes, and their published weights.

A separate module, because importing torchvision's models takes longer than importing torch.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import nn
from torchvision.models import video
from torchvision.models.video import mvit

from video.models.classifiers import Weights
from video.models.shape import ModelShape

Builder = Callable[[ModelShape], nn.Module]


class GlobalMean(nn.Module):
    """Mean over frames, height and width, kept as axes of length 1."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features.mean((2, 3, 4), keepdim=True)


def _resnet(build: Callable[..., nn.Module]) -> Builder:
    def built(shape: ModelShape) -> nn.Module:
        model = cast(Any, build(weights=None))
        model.avgpool = GlobalMean()
        model.fc = _head(model.fc.in_features, shape)
        return cast(nn.Module, model)

    return built


def _s3d(shape: ModelShape) -> nn.Module:
    model = cast(Any, video.s3d(weights=None))
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
    """Return the 16 blocks of MViTv2-S in four scales (Li et al., "MViTv2", CVPR 2022, table 1)."""
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
    model = cast(Any, video.swin3d_t(weights=None))
    model.avgpool = GlobalMean()
    model.head = _head(model.num_features, shape)
    return cast(nn.Module, model)


def _head(num_features: int, shape: ModelShape) -> nn.Module:
    return nn.Sequential(nn.Dropout(shape.dropout), nn.Linear(num_features, shape.num_classes))


BUILDERS: Mapping[str, Builder] = {
    "r3d_18": _resnet(video.r3d_18),
    "mc3_18": _resnet(video.mc3_18),
    "r2plus1d_18": _resnet(video.r2plus1d_18),
    "s3d": _s3d,
    "mvit_v2_s": _mvit,
    "swin3d_t": _swin,
}

WEIGHTS: Mapping[str, Any] = {
    "r3d_18": video.R3D_18_Weights.KINETICS400_V1,
    "mc3_18": video.MC3_18_Weights.KINETICS400_V1,
    "r2plus1d_18": video.R2Plus1D_18_Weights.KINETICS400_V1,
    "s3d": video.S3D_Weights.KINETICS400_V1,
    "mvit_v2_s": video.MViT_V2_S_Weights.KINETICS400_V1,
    "swin3d_t": video.Swin3D_T_Weights.KINETICS400_V1,
}


def build(name: str, shape: ModelShape) -> nn.Module:
    return BUILDERS[name](shape)


def normalization(name: str) -> tuple[Sequence[float], Sequence[float]]:
    preset = WEIGHTS[name].transforms()
    return preset.mean, preset.std


def head(name: str) -> Sequence[str]:
    return {"s3d": ["classifier"], "mvit_v2_s": ["head"], "swin3d_t": ["head"]}.get(name, ["fc"])


def published_weights(name: str) -> Weights:
    return cast(Weights, WEIGHTS[name])
