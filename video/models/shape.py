"""The shape of a model's input and output."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """The input clips and output classes of a model."""

    num_classes: int
    frames: int
    height: int
    width: int
    dropout: float
