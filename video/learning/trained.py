"""Trained models, as training publishes them: weights and all that is needed to use them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from video.clips.frames import DECODING_VERSION, ClipRecipe
from video.clips.loading import Batch
from video.learning.predict import predict
from video.models.classifiers import Normalize, build_model
from video.models.registry import MODULES
from video.models.shape import ModelShape

# What a published model holds of the initial weights' file, beside its own weights: its name in
# the registry, its labels in the order of the outputs, its shape, how clips are made, the version
# of their pixels, and how these are normalized.
DESCRIPTION = ("architecture", "labels", "shape", "clips", "decoding", "normalization")


class NoModelError(ValueError):
    """The state is not that of a published model."""


@dataclass(frozen=True)
class TrainedModel:
    """A network, and what it takes and gives.

    labels: the classes, in the order of the outputs.
    clips: how the clips are made that it takes; the mean of its probabilities is that of a video.
    """

    network: nn.Module
    normalize: nn.Module
    labels: Sequence[str]
    clips: ClipRecipe

    @classmethod
    def of_state(cls, state: Mapping[str, Any], device: torch.device) -> "TrainedModel":
        """Return the model of a published state; raise `NoModelError` if it is none."""
        if missing := [name for name in ("model", "epoch", *DESCRIPTION) if name not in state]:
            raise NoModelError(
                "expected a model that train has published, got a file without "
                f"{', '.join(missing)}; run dvc repro, which trains those of older versions anew"
            )
        name = state["architecture"]
        if name not in MODULES:
            raise NoModelError(f"expected one of {', '.join(MODULES)}, got a model '{name}'")
        if state["decoding"] != DECODING_VERSION:
            raise NoModelError(
                f"expected a model of clips whose pixels are of version {DECODING_VERSION}, got "
                f"version {state['decoding']}; use the commit that trained it, or train anew"
            )
        network = build_model(name, ModelShape(**state["shape"]))
        network.load_state_dict(state["model"])
        clips = ClipRecipe(**state["clips"])
        return cls(network.to(device), Normalize(name).to(device), state["labels"], clips)

    def probabilities(self, batches: Iterable[Batch], device: torch.device) -> NDArray[np.float64]:
        """Return probabilities of shape (clips, classes), in order."""
        return predict(self.network, self.normalize, batches, device)
