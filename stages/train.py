"""Train one model on one fold with one seed, with tracking, checkpoints and automatic resume.

State lives in runs/, named by the fingerprint of all that can change the result; what is
published to models/ is written when training is complete. A kill at any place costs the time since
the last checkpoint: the same command goes on from there and ends with the same bytes.
"""

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import torch

from mlops import files
from mlops.attempt_log import attempt_log
from mlops.attempts import recorded_attempt
from mlops.checkpoint import State, load_checkpoint
from mlops.checkpoint_manager import BEST, CheckpointManager, load_best
from mlops.determinism import derive_seed, device_kind, make_deterministic
from mlops.devices import claimed_devices
from mlops.environment import environment
from mlops.errors import PipelineError
from mlops.fingerprint import fingerprint_hash, run_fingerprint
from mlops.ledger import Ledger
from mlops.locks import workspace_md5s
from mlops.parameters import pick
from mlops.places import runs_root
from mlops.processes import watch_parent
from mlops.progress import track
from mlops.resume import Start, Wanted, choose_start, trajectory_hash
from mlops.run_lock import run_lock
from mlops.runs import CHECKPOINTS, make_run, read_metadata, write_metadata
from mlops.session import Progress, Session, restore
from mlops.stage import parse_options, run_stage
from mlops.stop import StopFlag, StoppedError
from mlops.timings import Timings
from mlops.tracker import ExperimentTracker
from stages.params import Cell, Params, Train, check_cell, read_params
from video.augmentation import augment_clip
from video.cells import COPIES, cell_clips, common_columns
from video.leakage import LeakageError
from video.learner import (
    Learner,
    NonFiniteLossError,
    UnsuitableOptionError,
    evaluated_weights,
)
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
from video.memory import TooLittleMemoryError, keep_freed_memory
from video.metrics import SUMMARY, NonFinitePredictionsError, classification_metrics
from video.model_shape import ModelShape
from video.models import Normalise, build_model, head_of
from video.optimisation import Optimisation
from video.packs import PackError
from video.pixels import Clip
from video.prefetch import Prefetched
from video.recipe import AugmentationRecipe
from video.schedules import depends_on_epochs
from video.splits import TRAIN, VAL, class_names
from video.steps import batch_memory, predict

CLIPS = Path("data/clips.parquet")
PACKS = Path("data/clips")
SPLITS = Path("data/splits.parquet")
AUGMENTED = Path("data/augmented.parquet")
AUGMENTED_PACKS = Path("data/augmented")

# Distributions whose version can change a trained weight.
LIBRARIES = ("torch", "torchvision", "numpy", "opencv-python-headless", "polars")


@dataclass(frozen=True, kw_only=True)
class Clips:
    """What is trained and validated on."""

    train: ClipSet
    val: ClipSet
    labels: list[str]

    def num_batches(self, batch_size: int) -> int:
        """Of an epoch of training."""
        return len(batch_rows(range(len(self.train)), batch_size))


def main() -> None:
    cell = Cell(**vars(parse_options(__doc__, model=str, fold=int, seed=int)))
    stop = StopFlag()
    watch_parent(lambda: stop.set("the end of the process that started it"))
    params = read_params()
    check_cell(cell, params)
    make_deterministic(
        derive_seed(cell.seed, "train", cell.model, cell.fold),
        num_threads=params.train.num_threads,
    )
    with ExitStack() as held:
        claim = claimed_devices(
            params.runtime.device, work=f"train {cell.name}", say=say, check=stop.check
        )
        (device,) = held.enter_context(claim)
        wanted = wanted_training(params, cell, device)
        identity = fingerprint_hash(wanted.fingerprint)
        lock = run_lock(runs_root(), identity, say=say, check=stop.check)
        if held.enter_context(lock) and wanted_training(params, cell, device) != wanted:
            raise PipelineError(
                "inputs: expected those that were there before waiting for another training, got "
                "others; run again"
            )
        start = choose_start(
            runs_root(), wanted, mode=params.runtime.resume, recorded=workspace_md5s().get
        )
        run_dir = start.run_dir or make_run(runs_root(), params.experiment.name, wanted)
        attempt = held.enter_context(
            recorded_attempt(
                run_dir, start=start.how, environment=environment(LIBRARIES, wanted.inputs)
            )
        )
        held.enter_context(attempt_log(run_dir, attempt.number))
        announce(start, run_dir, params.train)

        keep_freed_memory()
        clips = load_clips(params, cell.fold, run_dir)
        learner, shape = build_learner(params, cell, clips, device)
        session = Session(
            cell=cell.name,
            fingerprint=wanted.fingerprint,
            learner=learner,
            tracker=ExperimentTracker(run_dir, run_dir.name),
            ledger=Ledger(run_dir),
        )
        restore(session, start, run_dir, num_epochs=params.train.epochs, say=say)
        train(session, learner, clips, params, cell, run_dir, stop, shape)
        publish(session, cell, params.train.monitor, run_dir, stop)


def train(
    session: Session,
    learner: Learner,
    clips: Clips,
    params: Params,
    cell: Cell,
    run_dir: Path,
    stop: StopFlag,
    shape: dict[str, Any],
) -> None:
    """Train and validate, epoch by epoch, from where the session is to the end."""
    progress = session.progress
    timings = Timings(run_dir)
    checkpoints = CheckpointManager(
        run_dir / CHECKPOINTS,
        keep_epochs=params.runtime.keep_epoch_checkpoints,
        every_sec=params.runtime.checkpoint_every_sec,
        sync=[session.tracker.sync, session.ledger.sync],
        say=say,
    )
    try:
        while not finished(progress, params.train):
            learner.start_epoch(progress.epoch)
            batches = training_batches(params, cell, clips, progress, learner.device)
            began = time.monotonic()
            for batch in track(
                batches,
                total=clips.num_batches(params.train.batch_size),
                before=progress.batch,
                task=f"train: {session.cell}: epoch {progress.epoch}",
            ):
                loss = take_step(session, learner, clips.train, batch)
                record_step(session, batch, loss, params.runtime.log_every_steps)
                if checkpoints.is_due:
                    checkpoints.save(session.state_dict())
                stop.check()
            report_epoch(session, timings, time.monotonic() - began, batches.waited_sec)

            figures = validate(session, learner, clips, params.train.batch_size, stop)
            is_best = is_better(figures, progress.best_figures, params.train.monitor)
            record_epoch(session, learner, figures, is_best=is_best)
            checkpoints.save(
                session.state_dict(),
                best=best_model(shape, clips.labels, progress.best_epoch) if is_best else None,
                epoch=progress.epoch,
            )
            stop.check()
        checkpoints.finish()
    except StoppedError:
        checkpoints.save(session.state_dict())
        raise
    finally:
        checkpoints.close()


def wanted_training(params: Params, cell: Cell, device: torch.device) -> Wanted:
    """What identifies this training.

    `seed` of params.yaml is not in it: it acts through the inputs. The packs are not hashed: the
    tables hold the sha256 of every clip, and the loader compares.
    """
    config = {
        "train": vars(params.train),
        "augment": vars(params.augment),
        "split": {"near_duplicate_distance": params.split.near_duplicate_distance},
        "model": cell.model,
        "fold": cell.fold,
        "seed": cell.seed,
    }
    fingerprint = run_fingerprint(
        config=config,
        inputs=[CLIPS, SPLITS, AUGMENTED, cell.initial_weights],
        module="stages.train",
        root=Path(),
        libraries=LIBRARIES,
        builds={"torch": str(torch.__version__)},
        device=device_kind(device),
    )
    length = () if depends_on_epochs(params.train.schedule) else ("train.epochs",)
    return Wanted(
        config=config,
        fingerprint=fingerprint,
        trajectory=trajectory_hash(fingerprint, config, without=length),
        cell=("model", "fold", "seed"),
        num_epochs=params.train.epochs,
    )


def announce(start: Start, run_dir: Path, train: Train) -> None:
    """One line: what is done, where, and what differs from the run that is closest."""
    verbs = {"resumes": "resuming", "publishes": "publishes again what is finished in"}
    source = f", which goes on from {start.source.name}" if start.source else ""
    differs = f"; {start.differs}" if start.differs else ""
    say(f"{verbs.get(start.how, 'starting')} {run_dir}{source}{differs}")
    if "train.epochs" in start.differs and depends_on_epochs(train.schedule):
        say(f"the {train.schedule} schedule depends on train.epochs: no shorter run can go on")


def load_clips(params: Params, fold: int, run_dir: Path) -> Clips:
    """The training set, with its augmented copies unless training makes its own, the validation
    set, and the classes.

    That the two sides show no common pictures is looked at once a run: its fingerprint names the
    same tables ever after.
    """
    tables = pl.read_parquet(CLIPS)
    labels = class_names(tables)
    checked = read_metadata(run_dir).get("clips_checked", False)
    cell = cell_clips(
        pl.read_parquet(SPLITS),
        tables,
        fold,
        near_duplicate_distance=0.0 if checked else params.split.near_duplicate_distance,
        copies=pl.read_parquet(AUGMENTED),
    )
    if not checked:
        write_metadata(run_dir, clips_checked=True)
    train, copies, val = cell[TRAIN], cell[COPIES], cell[VAL]
    if params.augment.online:
        copies = copies.clear()
    table = pl.concat(common_columns(train, copies))
    directories = [PACKS] * train.height + [AUGMENTED_PACKS] * copies.height
    return Clips(
        train=ClipSet(table, directories, labels),
        val=ClipSet(val, [PACKS] * val.height, labels),
        labels=labels,
    )


def build_learner(
    params: Params, cell: Cell, clips: Clips, device: torch.device
) -> tuple[Learner, dict[str, Any]]:
    """A learner with the initial weights, and the shape that its model was built for."""
    initial = load_checkpoint(cell.initial_weights)
    model = build_model(cell.model, ModelShape(**initial["shape"]))
    model.load_state_dict(initial["model"])
    learner = Learner(
        model.to(device),
        Normalise(cell.model).to(device),
        pick(params.train, Optimisation),
        head=head_of(cell.model, model),
        loss=weighted_loss(params.train, clips),
        num_batches=clips.num_batches(params.train.batch_size),
        device=device,
    )
    return learner, initial["shape"]


def weighted_loss(train: Train, clips: Clips) -> WeightedCrossEntropy:
    weights = torch.ones(len(clips.labels))
    if train.class_weights:
        weights = class_weights(clips.train.targets, len(clips.labels))
    return WeightedCrossEntropy(weights, train.label_smoothing)


def finished(progress: Progress, train: Train) -> bool:
    waited = progress.epoch - 1 - progress.best_epoch
    return progress.epoch >= train.epochs or waited >= train.patience_epochs


def training_batches(
    params: Params, cell: Cell, clips: Clips, progress: Progress, device: torch.device
) -> Prefetched:
    """The epoch's batches from where training is, made ahead by a thread."""
    return Prefetched(
        clips.train.batches(
            clip_order(params, cell.seed, clips.train, progress.epoch),
            params.train.batch_size,
            online_augmentation(params, cell.seed, clips.train, progress.epoch),
            first=progress.batch,
            allocate=batch_memory(device),
            workers=params.runtime.workers,
        )
    )


def clip_order(params: Params, seed: int, train_set: ClipSet, epoch: int) -> list[int]:
    if params.train.sampling == "balanced":
        return balanced_order(train_set.targets, seed=seed, epoch=epoch)
    if params.train.sampling == "weighted":
        weights = group_weights(train_set.table["group"].to_list())
        return weighted_order(weights, seed=seed, epoch=epoch)
    return epoch_order(len(train_set), seed=seed, epoch=epoch)


def online_augmentation(
    params: Params, seed: int, train_set: ClipSet, epoch: int
) -> Augment | None:
    """A new copy of every clip in every epoch: epoch e shows copy number e of each.

    A function of seed, epoch and clip alone, so that a resumed training sees the same.
    """
    if not params.augment.online:
        return None
    recipe = pick(params.augment, AugmentationRecipe)
    videos = train_set.table["sha256"]

    def augment(clip: Clip, row: int) -> Clip:
        return augment_clip(clip, recipe, seed=seed, video_sha256=videos[row], copy=epoch)

    return augment


def take_step(session: Session, learner: Learner, train_set: ClipSet, batch: Batch) -> float:
    """One optimizer step; a fault comes with its place and its clips."""
    try:
        loss = learner.step(batch)
    except NonFiniteLossError as error:
        raise PipelineError(non_finite(error, session, train_set, batch)) from None
    if learner.events:
        for event in learner.events:
            say(
                f"{session.cell}: step {event.step}: no memory for {event.micro_batch} clips at "
                f"once ({event.reason}); from here on {event.next_micro_batch}, batches as before"
            )
        learner.events.clear()
        log(session, {"micro_batch": learner.micro_batch}, phase="step")
    return loss


def record_step(session: Session, batch: Batch, loss: float, log_every_steps: int) -> None:
    progress = session.progress
    progress.batch += 1
    progress.step += 1
    progress.loss_sum += loss * len(batch.rows)
    progress.num_clips += len(batch.rows)
    session.ledger.record(epoch=progress.epoch, step=progress.step, samples=batch.rows)
    if progress.step % log_every_steps == 0:
        log(session, {"loss": loss}, phase="step")


def validate(
    session: Session, learner: Learner, clips: Clips, batch_size: int, stop: StopFlag
) -> dict[str, float]:
    batches = Prefetched(
        clips.val.batches(range(len(clips.val)), batch_size, allocate=batch_memory(learner.device))
    )
    probabilities = predict(
        learner.evaluated, learner.normalise, stop.checked(batches), learner.device
    )
    try:
        figures = classification_metrics(clips.val.targets, probabilities, clips.labels)
    except NonFinitePredictionsError as error:
        raise PipelineError(f"validation: {error}") from None
    shown = {name: figures[name] for name in SUMMARY}
    text = ", ".join(f"{name} {value:.4f}" for name, value in shown.items())
    say(f"{session.cell}: epoch {session.progress.epoch}: val {text}")
    return shown


def is_better(figures: dict[str, float], best: dict[str, float], metric: str) -> bool:
    return not best or rank(figures, metric) > rank(best, metric)


def rank(figures: dict[str, float], metric: str) -> tuple[float, float]:
    """Greater is better; of equals, which a small validation set often gives, the lower loss."""
    return (-figures["loss"] if metric == "loss" else figures[metric], -figures["loss"])


def record_epoch(
    session: Session, learner: Learner, figures: dict[str, float], *, is_best: bool
) -> None:
    """Log the epoch, of training and of validation at once, and move on to the next one.

    At once: a state saved between the two would know of rows that are written again.
    """
    progress = session.progress
    mean = {"loss": progress.loss_sum / progress.num_clips}
    log(session, mean | {"learning_rate": learner.learning_rate}, phase="train")
    log(session, figures, phase="val")
    if is_best:
        progress.best_epoch, progress.best_figures = progress.epoch, figures
    progress.epoch += 1
    progress.batch, progress.loss_sum, progress.num_clips = 0, 0.0, 0


def log(session: Session, metrics: dict[str, float], *, phase: str) -> None:
    progress = session.progress
    session.tracker.log(metrics, step=progress.step, epoch=progress.epoch, phase=phase)


def report_epoch(session: Session, timings: Timings, took_sec: float, waited_sec: float) -> None:
    progress = session.progress
    timings.record(epoch=progress.epoch, took_sec=took_sec, waited_sec=waited_sec)
    say(
        f"{session.cell}: epoch {progress.epoch}: train loss "
        f"{progress.loss_sum / progress.num_clips:.4f}, {took_sec:.1f} s, of which "
        f"{waited_sec / max(took_sec, 1e-9):.0%} waiting for data"
    )


def best_model(shape: dict[str, Any], labels: list[str], epoch: int) -> Callable[[State], State]:
    """Makes the published file out of the copy of a session's state."""
    return lambda state: {
        "model": evaluated_weights(state["learner"]),
        "shape": shape,
        "labels": labels,
        "epoch": epoch,
    }


def non_finite(
    error: NonFiniteLossError, session: Session, train_set: ClipSet, batch: Batch
) -> str:
    clips = ", ".join(train_set.table[list(batch.rows)]["video_path"].unique(maintain_order=True))
    progress = session.progress
    return (
        f"{error} at step {progress.step} of epoch {progress.epoch}; lower train.learning_rate, "
        f"or look at the clips of the batch: {clips}"
    )


def publish(session: Session, cell: Cell, monitor: str, run_dir: Path, stop: StopFlag) -> None:
    """Write the outs, whole or not at all, and note which bytes they have."""
    progress = session.progress
    session.flush()
    history = (
        session.tracker.get_metrics()
        .filter(pl.col("phase") != "step")
        .with_columns(name=pl.format("{}_{}", "phase", "metric"))
        .pivot("name", index="epoch", values="value", maintain_order=True)
    )
    stop.check()
    files.write_text(cell.history, history.write_csv())
    files.write_text(run_dir / "artifacts/history.csv", history.write_csv())
    best_path = run_dir / CHECKPOINTS / BEST
    best = load_best(best_path.parent, say=say)
    if best is None or best["epoch"] != progress.best_epoch:
        if best is not None:
            best_path.rename(best_path.with_name(f"{BEST}.of_epoch_{best['epoch']}"))
        raise PipelineError(
            f"{best_path}: expected the best model, of epoch {progress.best_epoch}, got "
            f"{'none that is sound' if best is None else 'another'}; run the same command again, "
            "which trains it again"
        )
    stop.check()
    files.write_bytes(cell.best_model, best_path.read_bytes())
    published = {path.as_posix(): files.md5(path) for path in (cell.best_model, cell.history)}
    wall_sec = round(time.monotonic() - session.started, 1)
    write_metadata(run_dir, published=published, best_epoch=progress.best_epoch, wall_sec=wall_sec)
    session.close()
    say(
        f"{session.cell}: best val {monitor} {progress.best_figures[monitor]:.4f} in epoch "
        f"{progress.best_epoch}"
    )


def say(text: str) -> None:
    print(f"train: {text}")


if __name__ == "__main__":
    run_stage(
        "train",
        main,
        input_faults=(LeakageError, PackError, TooLittleMemoryError, UnsuitableOptionError),
    )
