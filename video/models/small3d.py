"""Small 3D CNNs that see motion first, quick enough for a CPU; one also sees where it is."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from video.models.shape import ModelShape

# Of the channels in Kinetics-400, as torchvision's R3D weights were trained with.
KINETICS_MEAN = (0.43216, 0.394666, 0.37645)
KINETICS_STD = (0.22803, 0.22145, 0.216989)

_CELLS = 3  # along each axis


class Small3D(nn.Module):
    """Three strided 3D convolutions over the differences of successive frames.

    Without `temporal_difference` the input is the frames themselves. The head takes the mean of all
    features, or with `layout` those of 3x3x3 cells of time, height and width, which say when and
    where something moves; and the largest mean of a moment. Pools by mean and amax: the 3D pooling
    layers of torch have no deterministic gradient on CUDA.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        channels: Sequence[int] = (16, 32, 64),
        dropout: float,
        temporal_difference: bool = True,
        layout: bool = False,
    ) -> None:
        super().__init__()
        self.temporal_difference = temporal_difference
        self.layout = layout
        first, second, third = channels
        self.features = nn.Sequential(
            _block(3, first, kernel=(1, 5, 5), padding=(0, 2, 2)),
            _block(first, second, kernel=(3, 3, 3), padding=(1, 1, 1)),
            _block(second, third, kernel=(3, 3, 3), padding=(1, 1, 1)),
        )
        self.dropout = nn.Dropout(dropout)
        num_cells = _CELLS**3 if layout else 1
        self.head = nn.Linear((num_cells + 1) * third, num_classes)

    def forward(self, clips: Tensor) -> Tensor:
        """Return logits of shape (batch, num_classes).

        clips: float of shape (batch, 3, frames, height, width), normalized to a standard deviation
        of about 1; frames >= 2, height and width >= 16.
        """
        if self.temporal_difference:
            clips = clips[:, :, 1:] - clips[:, :, :-1]
        features = self.features(clips)
        per_moment = features.mean((3, 4))
        mean = _means_of_cells(features).flatten(1) if self.layout else per_moment.mean(2)
        pooled = torch.cat([mean, per_moment.amax(2)], dim=1)
        logits: Tensor = self.head(self.dropout(pooled))
        return logits


def _block(
    num_in: int, num_out: int, *, kernel: tuple[int, int, int], padding: tuple[int, int, int]
) -> nn.Sequential:
    """Return a convolution that halves height and width and keeps the number of frames."""
    return nn.Sequential(
        nn.Conv3d(num_in, num_out, kernel, stride=(1, 2, 2), padding=padding, bias=False),
        nn.BatchNorm3d(num_out),
        nn.ReLU(inplace=True),
    )


def _means_of_cells(features: Tensor) -> Tensor:
    """Return means of shape (batch, channels, 3, 3, 3); cells of a short axis overlap."""
    for axis in (2, 3, 4):
        size = features.shape[axis]
        cells = [(i * size // _CELLS, -(-(i + 1) * size // _CELLS)) for i in range(_CELLS)]
        means = [features.narrow(axis, start, end - start).mean(axis) for start, end in cells]
        features = torch.stack(means, axis)
    return features


def build(name: str, shape: ModelShape) -> nn.Module:
    return Small3D(
        num_classes=shape.num_classes, dropout=shape.dropout, layout=name == "small3d_layout"
    )


def normalization(name: str) -> tuple[Sequence[float], Sequence[float]]:
    return KINETICS_MEAN, KINETICS_STD


def head(name: str) -> Sequence[str]:
    return "dropout", "head"


def published_weights(name: str) -> None:
    return None
