"""What a model is built for."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """The clips that come in and the classes that go out."""

    num_classes: int
    frames: int
    height: int
    width: int
    dropout: float
