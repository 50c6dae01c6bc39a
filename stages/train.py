"""Train one model on one fold, with tracking, checkpoints and automatic resume.

State lives in runs/, named by the fingerprint of all that can change the result; what is
published to models/ is written when training is complete.
"""

import argparse
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import nn

from mlops import files
from mlops.checkpoint import (
    State,
    load_checkpoint,
    rng_state,
    save_checkpoint,
    set_rng_state,
)
from mlops.determinism import choose_device, derive_seed, device_kind, make_deterministic
from mlops.errors import PipelineError
from mlops.fingerprint import run_fingerprint
from mlops.parameters import pick
from mlops.places import runs_root
from mlops.progress import track
from mlops.runs import FINISHED, open_run, write_metadata
from mlops.stage import parse_options, run_stage
from mlops.tracker import ExperimentTracker
from stages.params import Params, Train, check_cell, read_params
from video.augmentation import augment_clip
from video.cells import COPIES, cell_clips, common_columns
from video.leakage import LeakageError
from video.learner import Learner, NonFiniteLossError, UnsuitableOptionError
from video.loading import (
    Augment,
    Batch,
    ClipSet,
    balanced_order,
    batch_rows,
    epoch_order,
    group_weights,
    weighted_order,
)
from video.losses import WeightedCrossEntropy, class_weights
from video.memory import TooLittleMemoryError
from video.metrics import SUMMARY, NonFinitePredictionsError, classification_metrics
from video.model_shape import ModelShape
from video.models import Normalise, build_model, head_of
from video.optimisation import Optimisation
from video.packs import PackError
from video.pixels import Clip
from video.prefetch import Prefetched
from video.recipe import AugmentationRecipe
from video.splits import TRAIN, VAL, class_names
from video.steps import batch_memory, predict

CLIPS = Path("data/clips.parquet")
PACKS = Path("data/clips")
SPLITS = Path("data/splits.parquet")
AUGMENTED = Path("data/augmented.parquet")
AUGMENTED_PACKS = Path("data/augmented")

# In a run directory.
LATEST = "checkpoints/latest_checkpoint.pt"
BEST = "checkpoints/best_model.pt"

# Distributions whose version can change a trained weight.
LIBRARIES = ("torch", "torchvision", "numpy", "polars")


@dataclass
class Progress:
    """How far training is."""

    epoch: int = 0  # the next one to train
    step: int = 0  # optimizer steps done
    best_epoch: int = -1
    best_figures: dict[str, float] = field(default_factory=dict)  # its validation


@dataclass
class Session:
    """All that changes while training, and hence all that a checkpoint holds."""

    cell: str  # its name in the log
    learner: Learner
    tracker: ExperimentTracker
    progress: Progress

    def state_dict(self) -> State:
        return {
            "learner": self.learner.state_dict(),
            "progress": vars(self.progress),
            "rng": rng_state(),
            "tracker": self.tracker.state_dict(),
        }

    def load_state_dict(self, state: State) -> None:
        self.learner.load_state_dict(state["learner"])
        self.progress = Progress(**state["progress"])
        self.tracker.load_state_dict(state["tracker"])
        # Last: what is built above must not have drawn from the generators put back.
        set_rng_state(state["rng"])


def main() -> None:
    cell = parse_options(__doc__, model=str, fold=int)
    params = read_params()
    check_cell(cell.model, cell.fold, params)
    device = choose_device(params.runtime.device)
    make_deterministic(
        derive_seed(params.seed, "train", cell.model, cell.fold),
        num_threads=params.train.num_threads,
    )
    train_set, val_set, labels = load_clips(
        cell.fold, params.split.near_duplicate_distance, augments_online=params.augment.online
    )
    init_path = Path(f"models/{cell.model}/init.pt")
    run_dir = find_or_create_run(params, cell, init_path, device)
    model, shape = load_model(cell.model, init_path, device)
    normalise = Normalise(cell.model).to(device)
    num_batches = len(batch_rows(range(len(train_set)), params.train.batch_size))
    learner = Learner(
        model,
        normalise,
        pick(params.train, Optimisation),
        head=head_of(cell.model, model),
        loss=weighted_loss(params.train, train_set, len(labels)),
        num_batches=num_batches,
        device=device,
    )
    session = start_session(cell, learner, run_dir)
    restore(session, run_dir, device)

    while not finished(session.progress, params):
        epoch = session.progress.epoch
        order = clip_order(params, train_set, epoch)
        augment = online_augmentation(params, train_set, epoch)
        batches = Prefetched(
            train_set.batches(
                order,
                params.train.batch_size,
                augment,
                allocate=batch_memory(device),
                workers=params.runtime.workers,
            )
        )
        losses = []
        learner.start_epoch(epoch)
        for batch in track(
            batches, total=num_batches, task=f"train: {session.cell}: epoch {epoch}"
        ):
            try:
                loss = learner.step(batch)
            except NonFiniteLossError as error:
                raise PipelineError(non_finite(error, session, train_set, batch)) from None
            losses.append(loss * len(batch.rows))
            session.progress.step += 1
            log_out_of_memory(session)
            log_step(session, loss, params.runtime.log_every_steps)
        log_epoch(session, {"loss": sum(losses) / len(order)})

        val_batches = Prefetched(
            val_set.batches(
                range(len(val_set)), params.train.batch_size, allocate=batch_memory(device)
            )
        )
        probabilities = predict(learner.evaluated, normalise, val_batches, device)
        figures = validation_figures(val_set, probabilities, labels)
        log_validation(session, figures)

        session.progress.epoch += 1
        if is_better(figures, session.progress.best_figures, params.train.monitor):
            session.progress.best_epoch, session.progress.best_figures = epoch, figures
            best = {
                "model": cpu_state(learner.evaluated),
                "shape": shape,
                "labels": labels,
                "epoch": epoch,
            }
            save_checkpoint(run_dir / BEST, best)
        # After the best one: a crash between the two repeats the epoch and writes both again.
        session.tracker.sync()
        save_checkpoint(run_dir / LATEST, session.state_dict())

    publish(run_dir, cell, session, params.train.monitor)


def load_clips(
    fold: int, near_duplicate_distance: float, *, augments_online: bool
) -> tuple[ClipSet, ClipSet, list[str]]:
    """The training set, with its augmented copies unless training makes its own, the validation
    set, and the classes."""
    clips = pl.read_parquet(CLIPS)
    labels = class_names(clips)
    cell = cell_clips(
        pl.read_parquet(SPLITS),
        clips,
        fold,
        near_duplicate_distance=near_duplicate_distance,
        copies=pl.read_parquet(AUGMENTED),
    )
    train, copies, val = cell[TRAIN], cell[COPIES], cell[VAL]
    if augments_online:
        copies = copies.clear()
    table = pl.concat(common_columns(train, copies))
    directories = [PACKS] * train.height + [AUGMENTED_PACKS] * copies.height
    return ClipSet(table, directories, labels), ClipSet(val, [PACKS] * val.height, labels), labels


def online_augmentation(params: Params, train_set: ClipSet, epoch: int) -> Augment | None:
    """A new copy of every clip in every epoch: epoch e shows copy number e of each.

    A function of seed, epoch and clip alone, so that a resumed training sees the same.
    """
    if not params.augment.online:
        return None
    recipe = pick(params.augment, AugmentationRecipe)
    videos = train_set.table["sha256"]

    def augment(clip: Clip, row: int) -> Clip:
        return augment_clip(clip, recipe, seed=params.seed, video_sha256=videos[row], copy=epoch)

    return augment


def run_config(params: Params, cell: argparse.Namespace) -> dict[str, Any]:
    return {
        "seed": params.seed,
        "train": vars(params.train),
        "augment": vars(params.augment),
        "model": cell.model,
        "fold": cell.fold,
    }


def find_or_create_run(
    params: Params, cell: argparse.Namespace, init_path: Path, device: torch.device
) -> Path:
    """The unfinished run of the same fingerprint, or else a new one."""
    config = run_config(params, cell)
    fingerprint = run_fingerprint(
        config=config,
        inputs=[CLIPS, PACKS, SPLITS, AUGMENTED, AUGMENTED_PACKS, init_path],
        module="stages.train",
        root=Path(),
        libraries=LIBRARIES,
        device=device_kind(device),
    )
    run_dir, resumes = open_run(runs_root(), params.experiment.name, fingerprint, config)
    print(f"train: {'resuming' if resumes else 'starting'} {run_dir}")
    return run_dir


def load_model(name: str, path: Path, device: torch.device) -> tuple[nn.Module, dict[str, Any]]:
    """The initial model and the shape it was built for."""
    state = load_checkpoint(path)
    model = build_model(name, ModelShape(**state["shape"]))
    model.load_state_dict(state["model"])
    return model.to(device), state["shape"]


def start_session(cell: argparse.Namespace, learner: Learner, run_dir: Path) -> Session:
    return Session(
        cell=f"{cell.model} fold {cell.fold}",
        learner=learner,
        tracker=ExperimentTracker(run_dir, run_dir.name),
        progress=Progress(),
    )


def restore(session: Session, run_dir: Path, device: torch.device) -> None:
    """Bring the session to the run's last checkpoint; without one, clear the log of its start."""
    if (run_dir / LATEST).exists():
        session.load_state_dict(load_checkpoint(run_dir / LATEST, device=device))
        print(f"train: {session.cell}: goes on with epoch {session.progress.epoch}")
    else:
        session.tracker.load_state_dict(None)


def finished(progress: Progress, params: Params) -> bool:
    waited = progress.epoch - 1 - progress.best_epoch
    return progress.epoch >= params.train.epochs or waited >= params.train.patience_epochs


def weighted_loss(train: Train, train_set: ClipSet, num_classes: int) -> WeightedCrossEntropy:
    weights = torch.ones(num_classes)
    if train.class_weights:
        weights = class_weights(train_set.targets, num_classes)
    return WeightedCrossEntropy(weights, train.label_smoothing)


def clip_order(params: Params, train_set: ClipSet, epoch: int) -> list[int]:
    if params.train.sampling == "balanced":
        return balanced_order(train_set.targets, seed=params.seed, epoch=epoch)
    if params.train.sampling == "weighted":
        weights = group_weights(train_set.table["group"].to_list())
        return weighted_order(weights, seed=params.seed, epoch=epoch)
    return epoch_order(len(train_set), seed=params.seed, epoch=epoch)


def validation_figures(
    val_set: ClipSet, probabilities: NDArray[np.float64], labels: list[str]
) -> dict[str, float]:
    try:
        figures = classification_metrics(val_set.targets, probabilities, labels)
    except NonFinitePredictionsError as error:
        raise PipelineError(f"validation: {error}") from None
    return {name: figures[name] for name in SUMMARY}


def is_better(figures: dict[str, float], best: dict[str, float], metric: str) -> bool:
    return not best or rank(figures, metric) > rank(best, metric)


def rank(figures: dict[str, float], metric: str) -> tuple[float, float]:
    """Greater is better; of equals, which a small validation set often gives, the lower loss."""
    return (-figures["loss"] if metric == "loss" else figures[metric], -figures["loss"])


def log_step(session: Session, loss: float, every_steps: int) -> None:
    progress = session.progress
    if progress.step % every_steps == 0:
        session.tracker.log({"loss": loss}, step=progress.step, epoch=progress.epoch, phase="step")


def log_out_of_memory(session: Session) -> None:
    for event in session.learner.events:
        print(
            f"train: {session.cell}: step {event.step}: no memory for {event.micro_batch} clips at "
            f"once; goes on with {event.next_micro_batch}: {event.reason}"
        )
    session.learner.events.clear()


def log_epoch(session: Session, means: dict[str, float]) -> None:
    progress = session.progress
    rate = {"learning_rate": session.learner.learning_rate}
    session.tracker.log(means | rate, step=progress.step, epoch=progress.epoch, phase="train")
    print(f"train: {session.cell}: epoch {progress.epoch}: train loss {means['loss']:.4f}")


def log_validation(session: Session, figures: dict[str, float]) -> None:
    progress = session.progress
    session.tracker.log(figures, step=progress.step, epoch=progress.epoch, phase="val")
    shown = ", ".join(f"{name} {value:.4f}" for name, value in figures.items())
    print(f"train: {session.cell}: epoch {progress.epoch}: val {shown}")


def cpu_state(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.cpu() for name, tensor in model.state_dict().items()}


def non_finite(
    error: NonFiniteLossError, session: Session, train_set: ClipSet, batch: Batch
) -> str:
    clips = ", ".join(train_set.table[list(batch.rows)]["video_path"].unique(maintain_order=True))
    progress = session.progress
    return (
        f"{error} at step {progress.step} of epoch {progress.epoch}; lower train.learning_rate, "
        f"or look at the clips of the batch: {clips}"
    )


def publish(run_dir: Path, cell: argparse.Namespace, session: Session, monitor: str) -> None:
    """Write the outs, whole or not at all, and mark the run as finished."""
    history = (
        session.tracker.get_metrics()
        .filter(pl.col("phase") != "step")
        .with_columns(name=pl.format("{}_{}", "phase", "metric"))
        .pivot("name", index="epoch", values="value", maintain_order=True)
    )
    files.write_text(Path(f"results/{cell.model}/fold{cell.fold}/history.csv"), history.write_csv())
    best = (run_dir / BEST).read_bytes()
    files.write_bytes(Path(f"models/{cell.model}/fold{cell.fold}/best_model.pt"), best)
    session.tracker.close()
    progress = session.progress
    write_metadata(run_dir, status=FINISHED, best_epoch=progress.best_epoch)
    best_value = progress.best_figures[monitor]
    print(
        f"train: {session.cell}: best val {monitor} {best_value:.4f} in epoch {progress.best_epoch}"
    )


if __name__ == "__main__":
    run_stage(
        "train",
        main,
        input_faults=(LeakageError, PackError, TooLittleMemoryError, UnsuitableOptionError),
    )
