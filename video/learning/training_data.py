"""Clips that a cell trains and validates on, in batches, and the loss over them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from video.augmentation.clip import augment_clip
from video.augmentation.config import AugmentationRecipe
from video.augmentation.pixels import Clip
from video.clips.loading import Augment, Batch, ClipSet, batch_rows
from video.clips.prefetch import Prefetched
from video.clips.sampling import Sampling, drawn_rows, sampling_order
from video.learning.features import FeatureSet
from video.learning.learner import Learner, NonFiniteLossError
from video.learning.losses import WeightedCrossEntropy, class_weights
from video.learning.predict import batch_memory
from video.scoring.monitored import NonFinitePredictionsError, summary_metrics
from video.splitting.cells import COPIES, cell_clips, common_columns
from video.splitting.splits import TRAIN, VAL, class_names

_EPOCH_BITS = 32  # of the number of an online copy


@dataclass(frozen=True, kw_only=True)
class TrainingClips:
    """The clips of a cell; `labels` are the classes in the order of the model's outputs."""

    train: ClipSet
    val: ClipSet
    labels: list[str]

    @classmethod
    def of_cell(
        cls,
        fold: int,
        *,
        splits: pl.DataFrame,
        clips: tuple[pl.DataFrame, Path],
        copies: tuple[pl.DataFrame, Path],
        with_copies: bool,
        near_duplicate_distance: float,
        accept_given_leaks: bool = False,
        features: pl.DataFrame | None = None,
    ) -> "TrainingClips":
        """Return the clips of the cell that validates on `fold`, past the check for leakage.

        `clips` and `copies` are a table and the directory of its packs. The copies are checked,
        too, if the training set is to be without them. With `features`, a table for `FeatureSet`,
        training and validation see these instead of pixels.
        """
        tables = cell_clips(
            splits,
            clips[0],
            fold,
            near_duplicate_distance=near_duplicate_distance,
            accept_given_leaks=accept_given_leaks,
            copies=copies[0],
        )
        labels = class_names(clips[0])
        train = tables[TRAIN].with_columns(copy=pl.lit(None, pl.Int64))
        val = tables[VAL]
        copied = tables[COPIES] if with_copies else tables[COPIES].clear()
        directories = [clips[1]] * train.height + [copies[1]] * copied.height

        def clip_set(table: pl.DataFrame, directories: Sequence[Path]) -> ClipSet:
            if features is None:
                return ClipSet(table, directories, labels)
            return FeatureSet(table, directories, labels, features)

        return cls(
            train=clip_set(pl.concat(common_columns(train, copied)), directories),
            val=clip_set(val, [clips[1]] * val.height),
            labels=labels,
        )

    @property
    def are_features(self) -> bool:
        return isinstance(self.train, FeatureSet)

    def batch_sizes(self, batch_size: int) -> list[int]:
        """Return the number of clips of each batch of a training epoch: one of each item."""
        return [len(rows) for rows in batch_rows(range(len(self.train.items)), batch_size)]

    def order(self, sampling: Sampling, *, seed: int, epoch: int) -> list[int]:
        """Return the rows of `train` in the order of an epoch: one clip of each item is drawn."""
        rows = self.train.items
        groups = self.train.table["group"].to_list()
        order = sampling_order(
            sampling,
            self.train.item_targets,
            [groups[clips[0]] for clips in rows],
            seed=seed,
            epoch=epoch,
        )
        return drawn_rows(order, rows, seed=seed, epoch=epoch)

    def training_batches(
        self,
        learner: Learner,
        sampling: Sampling,
        batch_size: int,
        recipe: AugmentationRecipe | None,
        *,
        seed: int,
        epoch: int,
        first: int,
        workers: int,
    ) -> Prefetched:
        """Return this rank's shards of an epoch's batches, from batch `first` on.

        With a recipe, each clip is a new copy, made by `workers` threads.
        """
        augment = None
        if recipe is not None:
            videos = self.train.table["sha256"]
            augment = online_augmentation(recipe, videos, seed=seed, epoch=epoch)
        return Prefetched(
            self.train.batches(
                self.order(sampling, seed=seed, epoch=epoch),
                batch_size,
                augment,
                first=first,
                allocate=batch_memory(learner.device),
                workers=workers,
                share=learner.share,
            )
        )

    def step(self, learner: Learner, batch: Batch) -> float:
        """Take a step; the error of a non-finite loss names step, epoch and videos."""
        try:
            return learner.step(batch)
        except NonFiniteLossError as error:
            raise NonFiniteLossError(
                f"{error} at step {learner.steps_done} of epoch {learner.epoch}; lower "
                f"train.learning_rate, or look at the clips of the batch: "
                f"{', '.join(self.paths(batch.rows))}"
            ) from None

    def validation_batches(self, learner: Learner, shard: slice, batch_size: int) -> Prefetched:
        """Return the batches of a shard of `val`."""
        rows = range(len(self.val))[shard]
        return Prefetched(self.val.batches(rows, batch_size, allocate=batch_memory(learner.device)))

    def validation_metrics(self, probabilities: NDArray[np.float64]) -> dict[str, float]:
        """Return the metrics of predictions of the clips of `val`, as means by video."""
        probabilities = self.val.mean_over_items(probabilities)
        try:
            return summary_metrics(self.val.item_targets, probabilities, len(self.labels))
        except NonFinitePredictionsError as error:
            raise NonFinitePredictionsError(f"validation: {error}") from None

    def loss(self, *, balanced: bool, label_smoothing: float) -> WeightedCrossEntropy:
        """Return the loss; `balanced` weighs classes inversely to their frequency in `train`."""
        weights = torch.ones(len(self.labels))
        if balanced:
            weights = class_weights(self.train.item_targets, len(self.labels))
        return WeightedCrossEntropy(weights, label_smoothing)

    def paths(self, rows: Sequence[int]) -> list[str]:
        """Return the distinct video paths of rows of `train`."""
        return self.train.table[list(rows)]["video_path"].unique(maintain_order=True).to_list()


def online_augmentation(
    recipe: AugmentationRecipe, videos: pl.Series, *, seed: int, epoch: int
) -> Augment:
    """Return the augmentation of an epoch: epoch e trains on copy number e of every clip.

    A clip that is drawn again in an epoch gets another copy each time. A pure function of seed,
    epoch, clip and how often it was drawn, so that a resumed training sees the same clips.
    `videos`: the sha256 of each row's video.
    """

    def augment(clip: Clip, row: int, repeat: int) -> Clip:
        copy = epoch + (repeat << _EPOCH_BITS)
        return augment_clip(clip, recipe, seed=seed, video_sha256=videos[row], copy=copy)

    return augment
