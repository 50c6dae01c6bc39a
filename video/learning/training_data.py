"""What a cell trains and validates on, and what training asks of it."""

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl
import torch

from video.augmentation.clip import augment_clip
from video.augmentation.config import AugmentationRecipe
from video.augmentation.pixels import Clip
from video.clips.loading import Augment, ClipSet, batch_rows
from video.clips.sampling import Sampling, sampling_order
from video.learning.losses import WeightedCrossEntropy, class_weights


@dataclass(frozen=True, kw_only=True)
class TrainingClips:
    """`labels`: the classes in the order of the model's outputs."""

    train: ClipSet
    val: ClipSet
    labels: list[str]

    def batch_sizes(self, batch_size: int) -> list[int]:
        """Of an epoch of training: the clips of each batch, the last of which may be smaller."""
        return [len(rows) for rows in batch_rows(range(len(self.train)), batch_size)]

    def order(self, sampling: Sampling, *, seed: int, epoch: int) -> list[int]:
        """The rows of `train` in an epoch's order."""
        groups = self.train.table["group"].to_list()
        return sampling_order(sampling, self.train.targets, groups, seed=seed, epoch=epoch)

    def loss(self, *, balanced: bool, label_smoothing: float) -> WeightedCrossEntropy:
        """`balanced`: weighted inversely to the classes' frequencies in `train`."""
        weights = torch.ones(len(self.labels))
        if balanced:
            weights = class_weights(self.train.targets, len(self.labels))
        return WeightedCrossEntropy(weights, label_smoothing)

    def paths(self, rows: Sequence[int]) -> list[str]:
        """The videos of rows of `train`, each once."""
        return self.train.table[list(rows)]["video_path"].unique(maintain_order=True).to_list()


def online_augmentation(
    recipe: AugmentationRecipe, videos: pl.Series, *, seed: int, epoch: int
) -> Augment:
    """A new copy of every clip in every epoch: epoch e shows copy number e of each.

    A function of seed, epoch and clip alone, so that a resumed training sees the same. `videos`:
    the sha256 of each row's video.
    """

    def augment(clip: Clip, row: int) -> Clip:
        return augment_clip(clip, recipe, seed=seed, video_sha256=videos[row], copy=epoch)

    return augment
