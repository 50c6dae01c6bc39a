"""A model of one's own: a 2D network on each frame, and the mean over all frames.

docs/own_model.md says what each function is asked for.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from video.models.shape import ModelShape


class FrameMean(nn.Module):
    """Two convolutions over each frame by itself: it sees pictures, and no motion."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.features = nn.Sequential(_block(3, 16), _block(16, 32))
        self.dropout = nn.Dropout(shape.dropout)
        self.head = nn.Linear(32, shape.num_classes)

    def forward(self, clips: Tensor) -> Tensor:
        """Return logits (batch, classes) of normalized clips (batch, 3, frames, height, width)."""
        # A mean over axes: its backward is deterministic on CUDA, that of adaptive pooling is not.
        pooled = self.features(clips).mean((2, 3, 4))
        logits: Tensor = self.head(self.dropout(pooled))
        return logits


def _block(num_in: int, num_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv3d(num_in, num_out, (1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1), bias=False),
        nn.BatchNorm3d(num_out),
        nn.ReLU(inplace=True),
    )


def build(name: str, shape: ModelShape) -> nn.Module:
    return FrameMean(shape)


def normalization(name: str) -> tuple[Sequence[float], Sequence[float]]:
    return (0.45, 0.45, 0.45), (0.225, 0.225, 0.225)


def head(name: str) -> Sequence[str]:
    return "dropout", "head"


def published_weights(name: str) -> None:
    return None
