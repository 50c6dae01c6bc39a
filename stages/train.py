"""Training of one model on one fold with one seed, with tracking, checkpoints and resume.

State lives in runs/, named by the fingerprint of all that can change the result; what is
published to models/ is written when training is complete. A kill at any place costs the time since
the last checkpoint: the same command goes on from there and ends with the same bytes.
"""

import sys
import time
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import polars as pl
import torch

from mlops.determinism import derive_seed, make_deterministic
from mlops.files import atomic
from mlops.files.checkpoint_file import State, load_checkpoint, save_checkpoint
from mlops.inputs import StageInputs
from mlops.params import section_as
from mlops.processes.parent import stop_flag
from mlops.processes.progress import track
from mlops.run.identity import fingerprint_hash
from mlops.session import Progress, Session
from mlops.stage import parse_options, run_stage
from mlops.training import TrainingProcess, TrainingRun, TrainingRuntime, open_run, run_on_devices
from stages.identity import LIBRARIES, training_identity, why_not_extended
from stages.params import Params, Train, check_cell, read_params, training_of
from stages.paths import AUGMENTED, AUGMENTED_PACKS, CLIPS, PACKS, SPLITS, Cell
from video.augmentation.config import AugmentationRecipe
from video.clips.loading import Batch
from video.learning.building import TRAINING_FAULTS, build_learner
from video.learning.learner import Learner
from video.learning.memory import keep_freed_memory
from video.learning.optimizer_config import OptimizerConfig
from video.learning.schedules import first_candidate
from video.learning.trained import DESCRIPTION
from video.learning.training_data import TrainingClips
from video.scoring.monitored import SUMMARY, is_better


@dataclass(frozen=True)
class TrainingContext:
    """Everything that a training is given and that does not change."""

    cell: Cell
    params: Params
    inputs: StageInputs
    process: TrainingProcess


def main(inputs: StageInputs) -> None:
    cell = Cell(**vars(parse_options(__doc__, model=str, fold=int, seed=int)))
    stop = stop_flag()
    params = read_params()
    check_cell(cell, params)
    if own := params.train_of.get(cell.model):
        log(f"{cell.name}: values of its own: {', '.join(f'{k} {v}' for k, v in own.items())}")
    params = replace(params, train=training_of(cell.model, params.train, params.train_of))
    seed = derive_seed(cell.seed, "train", cell.model, cell.fold)
    make_deterministic(seed, num_threads=params.train.num_threads)
    run_on_devices(
        lambda process: train(TrainingContext(cell, params, inputs, process)),
        "stages.train",
        partial(training_identity, cell, params),
        section_as(params.runtime, TrainingRuntime),
        work=f"train {cell.name}",
        num_threads=params.train.num_threads,
        stop=stop,
        log=log,
    )


def train(context: TrainingContext) -> None:
    """Train in a run directory, new or resumed, alone or as one of several processes."""
    cell, params, process = context.cell, context.params, context.process
    keep_freed_memory()
    identify = partial(training_identity, cell, params)
    with open_run(identify, process, params.experiment.name, LIBRARIES) as run:
        if reason := why_not_extended(run.start, params.train):
            log(reason)
        # The fingerprint of a run names the same tables ever after.
        with run.once("clips_checked") as is_due:
            distance = params.split.near_duplicate_distance if is_due else 0.0
            clips = load_clips(params, cell, near_duplicate_distance=distance)
        learner, kept = new_learner(context, clips)
        session = run.restore(cell.name, learner)
        fit(session, learner, clips, context, run)
        if process.group.is_main:
            model = published_model(session, learner, kept, params.train)
            publish(session, model, context, run)


def fit(
    session: Session,
    learner: Learner,
    clips: TrainingClips,
    context: TrainingContext,
    run: TrainingRun,
) -> None:
    """Train and validate, epoch by epoch, from where the session is to the end."""
    progress, params, process = session.progress, context.params, context.process
    recipe = section_as(params.augment, AugmentationRecipe) if params.augment.online else None
    with run.checkpoints(session) as checkpoints:
        while not finished(progress, params.train):
            learner.start_epoch(progress.epoch)
            batches = clips.training_batches(
                learner,
                params.train.sampling,
                params.train.batch_size,
                recipe,
                seed=context.cell.seed,
                epoch=progress.epoch,
                first=progress.batch,
                workers=params.runtime.workers,
            )
            began = time.monotonic()
            for batch in track(
                batches,
                total=len(clips.batch_sizes(params.train.batch_size)),
                before=progress.batch,
                task=f"train: {session.cell}: epoch {progress.epoch}",
            ):
                loss = take_step(session, learner, clips, batch, context)
                session.record_step(
                    batch.rows, loss, log_every_steps=params.runtime.log_every_steps
                )
                if checkpoints.is_due:
                    checkpoints.save(session.state_dict())
                session.check_in_place()
                process.raise_if_stopped()
            took_sec = time.monotonic() - began
            run.report_epoch(session, took_sec=took_sec, waited_sec=batches.waited_sec)
            for change in context.inputs.news():
                log(f"warning: {session.cell}: {change}; put it back, or nothing will be published")

            # An error in validation does not cost the epoch.
            checkpoints.save(session.state_dict())
            metrics = validate(session, learner, clips, context)
            is_best = progress.epoch >= first_candidate(
                params.train.schedule, params.train.epochs
            ) and is_better(metrics, progress.best_metrics, params.train.monitor)
            session.record_epoch(learner.epoch_metrics, metrics, is_best=is_best)
            if is_best and params.train.publish == "best":
                session.best_weights = learner.evaluated_weights()
            checkpoints.save(session.state_dict(), epoch=progress.epoch)
            process.raise_if_stopped()


def load_clips(params: Params, cell: Cell, *, near_duplicate_distance: float) -> TrainingClips:
    """Return the clips of a cell; training that augments by itself has no copies."""
    return TrainingClips.of_cell(
        cell.fold,
        accept_given_leaks=params.split.accept_given_leaks,
        splits=pl.read_parquet(SPLITS),
        clips=(pl.read_parquet(CLIPS), PACKS),
        copies=(pl.read_parquet(AUGMENTED), AUGMENTED_PACKS),
        with_copies=not params.augment.online,
        near_duplicate_distance=near_duplicate_distance,
        features=pl.read_parquet(cell.features) if params.train.features == "frozen" else None,
    )


def new_learner(context: TrainingContext, clips: TrainingClips) -> tuple[Learner, dict[str, Any]]:
    """Return a learner with the initial weights, and what is published of their file.

    That is what it says of the model, and with frozen features also the weights that stay.
    """
    cell, params, process = context.cell, context.params, context.process
    initial = load_checkpoint(cell.initial_weights)
    learner = build_learner(
        cell.model,
        initial,
        section_as(params.train, OptimizerConfig),
        clips,
        class_weights=params.train.class_weights,
        sync_batch_norm=params.train.sync_batch_norm,
        device=process.device,
        collective=process.group,
    )
    names = ("model", *DESCRIPTION) if clips.are_features else DESCRIPTION
    return learner, {name: initial[name] for name in names}


def finished(progress: Progress, train: Train) -> bool:
    waited = progress.epoch - 1 - progress.best_epoch if progress.best_metrics else 0
    return progress.epoch >= train.epochs or 0 < train.patience_epochs <= waited


def take_step(
    session: Session, learner: Learner, clips: TrainingClips, batch: Batch, context: TrainingContext
) -> float:
    """Take one optimizer step; return its loss, and print if memory ran out in it."""
    group, cell = context.process.group, context.cell
    micro_batch = learner.micro_batch
    if group.size > 1:
        # Each process draws by itself, and the generators of the first one alone are saved.
        parts = (cell.seed, "step", cell.model, cell.fold, session.progress.step, group.rank)
        torch.manual_seed(derive_seed(*parts))
    loss = clips.step(learner, batch)
    while learner.events:
        event = learner.events.pop(0)
        where = sys.stdout if group.is_main else sys.stderr
        print(f"train: {session.cell}: process {group.rank}: {event}", file=where)
    if learner.micro_batch != micro_batch:  # of this process's memory, or of another's
        session.log({"micro_batch": learner.micro_batch}, phase="step")
    return loss


def validate(
    session: Session, learner: Learner, clips: TrainingClips, context: TrainingContext
) -> dict[str, float]:
    """Return the metrics of the validation set, of which each process predicts its shard."""
    group, num_clips = context.process.group, len(clips.val)
    batch_size = context.params.train.batch_size
    learner.broadcast_statistics()
    batches = clips.validation_batches(learner, group.shard(num_clips), batch_size)
    min_batches = -(-(num_clips // group.size) // batch_size)  # of the smallest shard
    own = learner.predict(group.checked(batches, context.process.stop, count=min_batches))
    metrics = clips.validation_metrics(group.all_gather(own))
    text = ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())
    log(f"{session.cell}: epoch {session.progress.epoch}: val {text}")
    return metrics


def published_model(
    session: Session, learner: Learner, kept: dict[str, Any], train: Train
) -> State:
    """Return what is published: the weights of an epoch, and what is to be known of them.

    `kept` is what is published of the initial weights' file, beside what has been trained.
    """
    progress, is_last = session.progress, train.publish == "last"
    num_candidates = progress.epoch - first_candidate(train.schedule, train.epochs)
    trained = learner.evaluated_weights() if is_last else session.best_weights
    assert trained is not None
    return {
        "model": kept.get("model", {}) | trained,
        **{name: kept[name] for name in DESCRIPTION},
        "epoch": progress.epoch - 1 if is_last else progress.best_epoch,
        "num_candidates": 1 if is_last else num_candidates,  # epochs that validation chose among
        "exact_up_to_step": session.exact_up_to_step,
        "fingerprint": fingerprint_hash(session.fingerprint),
    }


def publish(session: Session, model: State, context: TrainingContext, run: TrainingRun) -> None:
    """Write the outs, whole or not at all, and note which bytes they have."""
    cell, stop = context.cell, context.process.stop
    epoch, monitor = model["epoch"], context.params.train.monitor
    session.flush()
    history = (
        session.tracker.get_metrics()
        .filter(pl.col("phase") != "step")
        .with_columns(name=pl.format("{}_{}", "phase", "metric"))
        .pivot("name", index="epoch", values="value", maintain_order=True)
    )
    stop.check()
    context.inputs.check()
    session.check_logs()  # after the history was read: it is of what was verified
    atomic.write_text(cell.history, history.write_csv())
    stop.check()
    val = {name: history[f"val_{name}"][epoch] for name in SUMMARY}
    save_checkpoint(cell.best_model, model | {"val": val})
    run.close(session, published=[cell.best_model, cell.history], epoch=epoch)
    num = model["num_candidates"]
    chosen = "the last" if num == 1 else f"the best of the last {num}"
    score = history[f"val_{monitor}"][epoch]
    log(f"{session.cell}: publishes epoch {epoch}, {chosen}: val {monitor} {score:.4f}")


def log(text: str) -> None:
    print(f"train: {text}")


if __name__ == "__main__":
    run_stage("train", main, input_faults=TRAINING_FAULTS)
