"""Scores of the last epoch and of the best one, on videos that chose neither.

    python -m benchmarks.publishing [--seeds 5]

Reads the tables and packs of the data stages below the current directory, so run `dvc repro
generate_augmentations` first. For each seed and fold k, a model trains on the folds other than k
and k + 1, with one thread; fold k chooses the best epoch, by `train.monitor`, of all or of those
that `train.publish: best` chooses among; and fold k + 1, which had no part in either, scores them
and the last epoch. So every video outside the test set is scored once per seed, and the test set
not at all. Prints the tables of docs/defending_a_score.md.
"""

import argparse
import itertools
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from mlops.determinism import derive_seed, make_deterministic
from mlops.params import section_as
from mlops.processes.group import ProcessGroup
from mlops.processes.progress import track
from mlops.stage import run_command
from stages.params import Params, Train, read_params
from stages.paths import AUGMENTED, AUGMENTED_PACKS, CLIPS, PACKS, SPLITS
from video.clips.loading import ClipSet
from video.learning.building import build_learner
from video.learning.learner import Learner
from video.learning.optimizer_config import OptimizerConfig
from video.learning.schedules import first_candidate
from video.learning.training_data import TrainingClips
from video.models.classifiers import build_model
from video.models.shape import ModelShape
from video.scoring.monitored import is_better, summary_metrics

LAST, BEST, BEST_OF_ALL = "last", "best", "best of all epochs"


@dataclass(frozen=True, kw_only=True)
class Training:
    """The predictions of one training after each epoch, for the choosing and the scored fold."""

    val: list[dict[str, float]]  # metrics of the choosing fold, by epoch
    scored: list[NDArray[np.float64]]  # of shape (videos, classes), by epoch
    targets: NDArray[np.int64]  # of the scored fold, shape (videos,)

    def chosen(self, rule: str, train: Train) -> int:
        """Return the epoch that a rule publishes."""
        chosen, metrics = len(self.val) - 1, dict[str, float]()
        first = first_candidate(train.schedule, train.epochs) if rule == BEST else 0
        for epoch, found in enumerate(self.val):
            if rule != LAST and epoch >= first and is_better(found, metrics, train.monitor):
                chosen, metrics = epoch, found
        return chosen


def main() -> None:
    arguments = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    arguments.add_argument("--seeds", type=int, default=5)
    options = arguments.parse_args()
    params = read_params()
    places = list(itertools.product(range(options.seeds), range(params.split.num_folds)))
    trainings = [
        train(params, seed, fold)
        for seed, fold in track(places, total=len(places), task="trainings")
    ]
    for rule in (LAST, BEST, BEST_OF_ALL):
        report(rule, trainings, params)


def report(rule: str, trainings: Sequence[Training], params: Params) -> None:
    """Print the figures of a rule, by seed and their mean; `trainings`: by seed and fold."""
    epochs = [training.chosen(rule, params.train) for training in trainings]
    print(f"{rule}: epochs {epochs}")
    both = list(zip(trainings, epochs, strict=True))
    folds = params.split.num_folds
    by_seed = [both[start : start + folds] for start in range(0, len(both), folds)]
    for metric in ("balanced_accuracy", "loss"):
        print_row(f"{rule}, out of fold, {metric}", [score(of, metric) for of in by_seed])
        choosing = [statistics.fmean(t.val[epoch][metric] for t, epoch in of) for of in by_seed]
        print_row(f"{rule}, choosing fold, {metric}", choosing)


def train(params: Params, seed: int, fold: int) -> Training:
    """Train without folds `fold` and `fold` + 1; return the predictions for both."""
    scored_fold = (fold + 1) % params.split.num_folds
    splits = pl.read_parquet(SPLITS).filter(pl.col("fold").is_not_null())
    scored_splits = splits.filter(fold=scored_fold)
    clips, copies = (
        pl.read_parquet(path).join(splits, on="video_path", how="semi", maintain_order="left")
        for path in (CLIPS, AUGMENTED)
    )
    data = TrainingClips.of_cell(
        fold,
        # To this cell, the scored fold is a test set: not there.
        splits=splits.with_columns(
            pl.when(pl.col("fold") != scored_fold).then(pl.col("fold")).alias("fold")
        ),
        clips=(clips, PACKS),
        copies=(
            copies.join(scored_splits, on="video_path", how="anti", maintain_order="left"),
            AUGMENTED_PACKS,
        ),
        with_copies=True,
        near_duplicate_distance=0.0,  # checked once, by the stages
    )
    table = clips.join(scored_splits, on="video_path", how="semi", maintain_order="left")
    scored = ClipSet(table, [PACKS] * table.height, data.labels)
    learner = new_learner(params, data, seed)
    training = Training(val=[], scored=[], targets=scored.targets)
    make_deterministic(derive_seed(seed, "train", params.models[0], fold), num_threads=1)
    for epoch in range(params.train.epochs):
        learner.start_epoch(epoch)
        batches = data.training_batches(
            learner,
            params.train.sampling,
            params.train.batch_size,
            None,
            seed=seed,
            epoch=epoch,
            first=0,
            workers=1,
        )
        for batch in batches:
            data.step(learner, batch)
        training.val.append(data.validation_metrics(predicted(learner, data.val)))
        training.scored.append(predicted(learner, scored))
    return training


def new_learner(params: Params, data: TrainingClips, seed: int) -> Learner:
    """Return a learner with the weights that the stage init_model draws."""
    model = params.models[0]
    shape = ModelShape(
        num_classes=len(data.labels),
        frames=params.clips.frames,
        height=params.clips.height,
        width=params.clips.width,
        dropout=params.init_model.dropout,
    )
    make_deterministic(derive_seed(seed, "init_model", model), num_threads=1)
    return build_learner(
        model,
        {"model": build_model(model, shape).state_dict(), "shape": vars(shape)},
        section_as(params.train, OptimizerConfig),
        data,
        class_weights=params.train.class_weights,
        sync_batch_norm=False,
        device=torch.device("cpu"),
        collective=ProcessGroup(),
    )


def predicted(learner: Learner, clips: ClipSet) -> NDArray[np.float64]:
    return learner.predict(clips.batches(range(len(clips)), 32))


def score(trainings: Sequence[tuple[Training, int]], metric: str) -> float:
    """Return a metric over the videos of all scored folds together, each at its epoch."""
    targets = np.concatenate([training.targets for training, _ in trainings])
    probabilities = np.concatenate([training.scored[epoch] for training, epoch in trainings])
    return summary_metrics(targets, probabilities, probabilities.shape[1])[metric]


def print_row(name: str, values: Sequence[float]) -> None:
    by_seed = " | ".join(f"{value:.3f}" for value in values)
    print(f"| {name} | {by_seed} | {statistics.fmean(values):.3f} |")


if __name__ == "__main__":
    run_command("publishing", main)
