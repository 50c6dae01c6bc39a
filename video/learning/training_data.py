"""Training and validation clips of a cell: order, loss and online augmentation."""

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
    """The clips of a cell; `labels` are the classes in the order of the model's outputs."""

    train: ClipSet
    val: ClipSet
    labels: list[str]

    def batch_sizes(self, batch_size: int) -> list[int]:
        """Return the number of clips of each batch of a training epoch."""
        return [len(rows) for rows in batch_rows(range(len(self.train)), batch_size)]

    def order(self, sampling: Sampling, *, seed: int, epoch: int) -> list[int]:
        """Return the rows of `train` in the order of an epoch."""
        groups = self.train.table["group"].to_list()
        return sampling_order(sampling, self.train.targets, groups, seed=seed, epoch=epoch)

    def loss(self, *, balanced: bool, label_smoothing: float) -> WeightedCrossEntropy:
        """Return the loss; `balanced` weighs classes inversely to their frequency in `train`."""
        weights = torch.ones(len(self.labels))
        if balanced:
            weights = class_weights(self.train.targets, len(self.labels))
        return WeightedCrossEntropy(weights, label_smoothing)

    def paths(self, rows: Sequence[int]) -> list[str]:
        """Return the distinct video paths of rows of `train`."""
        return self.train.table[list(rows)]["video_path"].unique(maintain_order=True).to_list()


def online_augmentation(
    recipe: AugmentationRecipe, videos: pl.Series, *, seed: int, epoch: int
) -> Augment:
    """Return the augmentation of an epoch: epoch e trains on copy number e of every clip.

    A pure function of seed, epoch and clip, so that a resumed training sees the same clips.
    `videos`: the sha256 of each row's video.
    """

    def augment(clip: Clip, row: int) -> Clip:
        return augment_clip(clip, recipe, seed=seed, video_sha256=videos[row], copy=epoch)

    return augment
