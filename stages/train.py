"""Train one model on one fold with one seed, with tracking, checkpoints and automatic resume.

State lives in runs/, named by the fingerprint of all that can change the result; what is
published to models/ is written when training is complete. A kill at any place costs the time since
the last checkpoint: the same command goes on from there and ends with the same bytes.
"""

import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import polars as pl
import torch
from torch import nn

from mlops.checkpoint import BEST, CheckpointManager, NoCheckpoints, load_best
from mlops.config import RunConfig
from mlops.determinism import derive_seed, device_kind, make_deterministic
from mlops.errors import PipelineError
from mlops.files import atomic
from mlops.files.checkpoint_file import State, load_checkpoint
from mlops.files.locks import run_lock
from mlops.files.places import runs_root
from mlops.inputs import StageInputs
from mlops.metrics.ledger import Ledger
from mlops.metrics.timings import Timings
from mlops.params import section_as
from mlops.processes.devices import choose_device, claimed_devices
from mlops.processes.group import LostProcessError, ProcessGroup, is_launched, process_group
from mlops.processes.launch import launch, spans_machines
from mlops.processes.parent import watch_parent
from mlops.processes.progress import silent_stdout, track
from mlops.processes.signals import StopFlag, StoppedError
from mlops.resume import Start, choose_start
from mlops.run.attempt_log import attempt_log
from mlops.run.attempts import recorded_attempt
from mlops.run.directory import CHECKPOINTS, make_run, write_metadata
from mlops.run.documents import read_metadata
from mlops.run.environment import environment
from mlops.run.identity import (
    Fingerprint,
    TrainingIdentity,
    fingerprint_hash,
    imported_sources,
    run_fingerprint,
    trajectory_hash,
)
from mlops.session import Progress, Session, restore
from mlops.stage import parse_options, run_stage
from mlops.tracker import ExperimentTracker
from stages.params import Params, Train, check_cell, read_params
from stages.paths import AUGMENTED, AUGMENTED_PACKS, CLIPS, PACKS, SPLITS, Cell
from video.augmentation.config import AugmentationRecipe
from video.clips.loading import Batch, ClipSet
from video.clips.packs import PackError
from video.clips.prefetch import Prefetched
from video.learning.learner import (
    Learner,
    NonFiniteLossError,
    UnsuitableOptionError,
    evaluated_weights,
)
from video.learning.memory import TooLittleMemoryError, keep_freed_memory
from video.learning.optimizer_config import OptimizerConfig
from video.learning.predict import batch_memory, predict
from video.learning.schedules import depends_on_epochs
from video.learning.training_data import TrainingClips, online_augmentation
from video.models.classifiers import Normalise, build_model, head_of
from video.models.registry import MODULES
from video.models.shape import ModelShape
from video.scoring.monitored import NonFinitePredictionsError, is_better, summary_metrics
from video.splitting.cells import COPIES, cell_clips, common_columns
from video.splitting.leakage import LeakageError
from video.splitting.splits import TRAIN, VAL, class_names

# Outside video/, what can change a trained weight, or the bytes of the file that holds it.
DECISIVE = {
    Path(name)
    for name in (
        "stages/train.py",
        "mlops/determinism.py",
        "mlops/files/checkpoint_file.py",
        "mlops/processes/group.py",
    )
}

REGISTRY = Path("video/models/registry.py")

# Distributions whose version can change a trained weight.
LIBRARIES = ("torch", "torchvision", "numpy", "opencv-python-headless", "polars")


@dataclass(frozen=True, kw_only=True)
class TrainingContext:
    """What a training is given, and what stays as it is."""

    cell: Cell
    params: Params
    device: torch.device
    group: ProcessGroup
    stop: StopFlag
    inputs: StageInputs


def main(inputs: StageInputs) -> None:
    cell = Cell(**vars(parse_options(__doc__, model=str, fold=int, seed=int)))
    stop = StopFlag()
    watch_parent(lambda: stop.set("the end of the process that started it"))
    params = read_params()
    check_cell(cell, params)
    num_threads = params.train.num_threads
    make_deterministic(
        derive_seed(cell.seed, "train", cell.model, cell.fold), num_threads=num_threads
    )
    context = partial(TrainingContext, cell=cell, params=params, stop=stop, inputs=inputs)
    if is_launched():
        # Of the GPUs that it was given, that of its number in the group.
        device = choose_device(params.runtime.device.partition(":")[0])
        with process_group(device.type) as group:
            train_in_group(context(device=device, group=group))
        return
    claim = claimed_devices(
        params.runtime.device,
        count=params.runtime.num_processes,
        work=f"train {cell.name}",
        say=say,
        check=stop.check,
    )
    with claim as devices:
        if len(devices) > 1 or spans_machines():
            launch("stages.train", sys.argv[1:], devices, num_threads=num_threads, stop=stop)
            return
        train_in_group(context(device=devices[0], group=ProcessGroup()))


def train_in_group(context: TrainingContext) -> None:
    if context.group.is_main:
        train_as_main_process(context)
    else:
        train_as_worker(context)


def train_as_main_process(context: TrainingContext) -> None:
    """Train in a run directory of its own, alone or as the first of several processes."""
    params, stop = context.params, context.stop
    wanted = training_identity(context)
    with ExitStack() as held:
        identity = fingerprint_hash(wanted.fingerprint)
        lock = run_lock(runs_root(), identity, say=say, check=stop.check)
        if held.enter_context(lock) and training_identity(context) != wanted:
            raise PipelineError(
                "inputs: expected those that were there before waiting for another training, got "
                "others; run again"
            )
        start = choose_start(runs_root(), wanted, mode=params.runtime.resume, say=say)
        run_dir = start.run_dir or make_run(
            runs_root(), params.experiment.name, wanted, RunConfig.from_params().document()
        )
        attempt = held.enter_context(
            recorded_attempt(
                run_dir, start=start.how, environment=environment(LIBRARIES, wanted.inputs)
            )
        )
        held.enter_context(attempt_log(run_dir, attempt.number))
        announce(start, run_dir, params.train)

        keep_freed_memory()
        clips = load_checked_clips(context, run_dir)
        learner, shape = build_learner(context, clips)
        session = new_session(context, learner, run_dir, wanted.fingerprint)
        restore(session, start, run_dir, num_epochs=params.train.epochs, say=say)
        if context.group.size > 1:
            state = {"learner": learner.state_dict(), "progress": vars(session.progress)}
            context.group.broadcast_state(state, context.device)
        train(session, learner, clips, shape, context, run_dir)
        publish(session, context, run_dir)


def train_as_worker(context: TrainingContext) -> None:
    """Train beside the first process, which alone is heard and leaves records."""
    keep_freed_memory()
    clips = load_clips(context.params, context.cell.fold, near_duplicate_distance=0.0)
    learner, shape = build_learner(context, clips)
    with silent_stdout(), TemporaryDirectory() as scratch:
        run_dir = Path(scratch)
        session = new_session(context, learner, run_dir, {})
        session.tracker.load_state_dict(None)
        session.ledger.load_state_dict(None)
        state = context.group.broadcast_state(None, context.device)
        learner.load_state_dict(state["learner"])
        vars(session.progress).update(state["progress"])
        train(session, learner, clips, shape, context, run_dir)


def new_session(
    context: TrainingContext, learner: Learner, run_dir: Path, fingerprint: Fingerprint
) -> Session:
    return Session(
        cell=context.cell.name,
        fingerprint=fingerprint,
        learner=learner,
        tracker=ExperimentTracker(run_dir, run_dir.name),
        ledger=Ledger(run_dir),
    )


def train(
    session: Session,
    learner: Learner,
    clips: TrainingClips,
    shape: dict[str, Any],
    context: TrainingContext,
    run_dir: Path,
) -> None:
    """Train and validate, epoch by epoch, from where the session is to the end."""
    progress, params = session.progress, context.params
    timings = Timings(run_dir)
    checkpoints = new_checkpoints(session, context, run_dir)
    try:
        while not finished(progress, params.train):
            learner.start_epoch(progress.epoch)
            batches = training_batches(context, clips, progress, learner)
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
                context.group.raise_if_stopped(context.stop)
            report_epoch(session, timings, time.monotonic() - began, batches.waited_sec)
            warn_of_edits(context)

            figures = validate(session, learner, clips, context)
            is_best = is_better(figures, progress.best_figures, params.train.monitor)
            session.record_epoch(learner.learning_rate, figures, is_best=is_best)
            checkpoints.save(
                session.state_dict(),
                best=best_model(shape, clips.labels, progress.best_epoch) if is_best else None,
                epoch=progress.epoch,
            )
            context.group.raise_if_stopped(context.stop)
        checkpoints.finish()
    except (StoppedError, LostProcessError):
        checkpoints.save(session.state_dict())
        raise
    finally:
        checkpoints.close()


def new_checkpoints(
    session: Session, context: TrainingContext, run_dir: Path
) -> CheckpointManager | NoCheckpoints:
    if not context.group.is_main:
        return NoCheckpoints()
    return CheckpointManager(
        run_dir / CHECKPOINTS,
        keep_epochs=context.params.runtime.keep_epoch_checkpoints,
        every_sec=context.params.runtime.checkpoint_every_sec,
        sync=[session.tracker.sync, session.ledger.sync],
        check=session.check_in_place,
        say=say,
    )


def training_identity(context: TrainingContext) -> TrainingIdentity:
    """What identifies this training.

    `seed` of params.yaml is not in it: it acts through the inputs. The packs are not hashed: the
    tables hold the sha256 of every clip, and the loader compares.
    """
    cell, params, size = context.cell, context.params, context.group.size
    online = params.augment.online
    recipe = section_as(params.augment, AugmentationRecipe)
    config = {
        "train": vars(params.train),
        # Copies that were made before training are an input, whatever made them.
        "augment": {"online": online} | (recipe.in_effect() if online else {}),
        "split": {"near_duplicate_distance": params.split.near_duplicate_distance},
        "model": cell.model,
        "fold": cell.fold,
        "seed": cell.seed,
    }
    fingerprint = run_fingerprint(
        config=config,
        inputs=[CLIPS, SPLITS, AUGMENTED, cell.initial_weights],
        code=training_code(cell.model, online=online),
        libraries=LIBRARIES,
        builds={"torch": str(torch.__version__)},
        # Another number of processes adds in another order.
        device=device_kind(context.device) + (f", {size} processes" if size > 1 else ""),
    )
    length = () if depends_on_epochs(params.train.schedule) else ("train.epochs",)
    return TrainingIdentity(
        config=config,
        fingerprint=fingerprint,
        trajectory=trajectory_hash(fingerprint, config, without=length),
        cell=("model", "fold", "seed"),
        num_epochs=params.train.epochs,
    )


def training_code(model: str, *, online: bool) -> set[Path]:
    """Return the modules that can change what a training of this model publishes.

    Of the models that of this one alone, not the list of them; of augmentation nothing, unless
    training augments by itself.
    """

    def counts(path: Path) -> bool:
        if path.parts[:2] == ("video", "augmentation"):
            return online
        return path.parts[0] == "video" and path != REGISTRY

    modules = ["stages.train", MODULES[model]]
    found = (
        imported_sources(name, counts=lambda p: p in DECISIVE or counts(p)) for name in modules
    )
    return DECISIVE.union(*found)


def announce(start: Start, run_dir: Path, train: Train) -> None:
    """One line: what is done, where, and what differs from the run that is closest."""
    verbs = {"resume": "resuming", "republish": "publishes again what is finished in"}
    source = f", which goes on from {start.source.name}" if start.source else ""
    differs = f"; {start.differs}" if start.differs else ""
    say(f"{verbs.get(start.how, 'starting')} {run_dir}{source}{differs}")
    if "train.epochs" in start.differs and depends_on_epochs(train.schedule):
        say(f"the {train.schedule} schedule depends on train.epochs: no shorter run can go on")


def load_checked_clips(context: TrainingContext, run_dir: Path) -> TrainingClips:
    """That train and validation show no common pictures is looked at once a run: its fingerprint
    names the same tables ever after."""
    checked = read_metadata(run_dir).get("clips_checked", False)
    distance = 0.0 if checked else context.params.split.near_duplicate_distance
    clips = load_clips(context.params, context.cell.fold, near_duplicate_distance=distance)
    if not checked:
        write_metadata(run_dir, clips_checked=True)
    return clips


def load_clips(params: Params, fold: int, *, near_duplicate_distance: float) -> TrainingClips:
    """The training set, with its augmented copies unless training makes its own, the validation
    set, and the classes."""
    tables = pl.read_parquet(CLIPS)
    labels = class_names(tables)
    cell = cell_clips(
        pl.read_parquet(SPLITS),
        tables,
        fold,
        near_duplicate_distance=near_duplicate_distance,
        copies=pl.read_parquet(AUGMENTED),
    )
    train, copies, val = cell[TRAIN], cell[COPIES], cell[VAL]
    if params.augment.online:
        copies = copies.clear()
    table = pl.concat(common_columns(train, copies))
    directories = [PACKS] * train.height + [AUGMENTED_PACKS] * copies.height
    return TrainingClips(
        train=ClipSet(table, directories, labels),
        val=ClipSet(val, [PACKS] * val.height, labels),
        labels=labels,
    )


def build_learner(context: TrainingContext, clips: TrainingClips) -> tuple[Learner, dict[str, Any]]:
    """A learner with the initial weights, and the shape that its model was built for."""
    cell, params, group = context.cell, context.params, context.group
    initial = load_checkpoint(cell.initial_weights)
    model = build_model(cell.model, ModelShape(**initial["shape"]))
    model.load_state_dict(initial["model"])
    check_shares(clips, context)
    if params.train.sync_batch_norm and group.size > 1:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
    learner = Learner(
        model.to(context.device),
        Normalise(cell.model).to(context.device),
        section_as(params.train, OptimizerConfig),
        head=head_of(cell.model, model),
        loss=clips.loss(
            balanced=params.train.class_weights, label_smoothing=params.train.label_smoothing
        ),
        num_batches=len(clips.batch_sizes(params.train.batch_size)),
        device=context.device,
        peers=group,
    )
    return learner, initial["shape"]


def check_shares(clips: TrainingClips, context: TrainingContext) -> None:
    """Refuse more processes than can work on this data, or in the way that is asked for."""
    size, train = context.group.size, context.params.train
    if size > len(clips.val):
        raise UnsuitableOptionError(
            f"runtime.num_processes: expected at most {len(clips.val)}, a process a clip of "
            f"validation, got {size}; lower it"
        )
    if size == 1 or not train.sync_batch_norm:
        return
    if context.device.type == "cpu":
        raise UnsuitableOptionError(
            "train.sync_batch_norm: expected false on a CPU, where torch cannot do it, got true; "
            "write false, and a train.batch_size that leaves each process enough clips"
        )
    smallest = min(clips.batch_sizes(train.batch_size))
    if smallest < size:
        raise UnsuitableOptionError(
            f"train.sync_batch_norm: expected batches of at least a clip for each of {size} "
            f"processes, got one of {smallest} at the end of an epoch; change train.batch_size"
        )


def finished(progress: Progress, train: Train) -> bool:
    waited = progress.epoch - 1 - progress.best_epoch
    return progress.epoch >= train.epochs or waited >= train.patience_epochs


def training_batches(
    context: TrainingContext, clips: TrainingClips, progress: Progress, learner: Learner
) -> Prefetched:
    """The epoch's batches from where training is, made ahead by a thread."""
    params, drawn = context.params, {"seed": context.cell.seed, "epoch": progress.epoch}
    augment = None
    if params.augment.online:
        recipe = section_as(params.augment, AugmentationRecipe)
        augment = online_augmentation(recipe, clips.train.table["sha256"], **drawn)
    return Prefetched(
        clips.train.batches(
            clips.order(params.train.sampling, **drawn),
            params.train.batch_size,
            augment,
            first=progress.batch,
            allocate=batch_memory(learner.device),
            workers=params.runtime.workers,
            share=learner.share,
        )
    )


def take_step(
    session: Session, learner: Learner, clips: TrainingClips, batch: Batch, context: TrainingContext
) -> float:
    """One optimizer step; a fault comes with its place and its clips."""
    group, cell, step = context.group, context.cell, session.progress.step
    micro_batch = learner.micro_batch
    if group.size > 1:
        # Each process draws by itself, and the generators of the first one alone are saved.
        parts = (cell.seed, "step", cell.model, cell.fold, step, group.rank)
        torch.manual_seed(derive_seed(*parts))
    try:
        loss = learner.step(batch)
    except NonFiniteLossError as error:
        raise PipelineError(
            f"{error} at step {step} of epoch {session.progress.epoch}; lower "
            f"train.learning_rate, or look at the clips of the batch: "
            f"{', '.join(clips.paths(batch.rows))}"
        ) from None
    if learner.events:
        for event in learner.events:
            print(
                f"train: {session.cell}: process {group.rank}: step {event.step}: no memory for "
                f"{event.micro_batch} clips at once ({event.reason}); from here on "
                f"{event.next_micro_batch}, batches as before",
                file=sys.stdout if group.is_main else sys.stderr,
            )
        learner.events.clear()
    if learner.micro_batch != micro_batch:  # of this process's memory, or of another's
        session.log({"micro_batch": learner.micro_batch}, phase="step")
    return loss


def validate(
    session: Session, learner: Learner, clips: TrainingClips, context: TrainingContext
) -> dict[str, float]:
    group, batch_size = context.group, context.params.train.batch_size
    learner.broadcast_statistics()
    batches = Prefetched(
        clips.val.batches(
            range(len(clips.val))[group.shard(len(clips.val))],
            batch_size,
            allocate=batch_memory(learner.device),
        )
    )
    least = -(-(len(clips.val) // group.size) // batch_size)  # of the smallest share
    checked = group.checked(batches, context.stop, count=least)
    own = predict(learner.evaluated, learner.normalise, checked, learner.device)
    probabilities = group.all_gather(own)
    try:
        metrics = summary_metrics(clips.val.targets, probabilities, len(clips.labels))
    except NonFinitePredictionsError as error:
        raise PipelineError(f"validation: {error}") from None
    text = ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())
    say(f"{session.cell}: epoch {session.progress.epoch}: val {text}")
    return metrics


def warn_of_edits(context: TrainingContext) -> None:
    """Tell of an input that was changed, long before nothing can be published for it."""
    for change in context.inputs.news():
        say(f"warning: {context.cell.name}: {change}; put it back, or nothing will be published")


def report_epoch(session: Session, timings: Timings, took_sec: float, waited_sec: float) -> None:
    progress = session.progress
    timings.record(epoch=progress.epoch, took_sec=took_sec, waited_sec=waited_sec)
    say(
        f"{session.cell}: epoch {progress.epoch}: train loss "
        f"{progress.mean_loss:.4f}, {took_sec:.1f} s, of which "
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


def publish(session: Session, context: TrainingContext, run_dir: Path) -> None:
    """Write the outs, whole or not at all, and note which bytes they have."""
    progress, cell, stop = session.progress, context.cell, context.stop
    monitor = context.params.train.monitor
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
    atomic.write_text(run_dir / "artifacts/history.csv", history.write_csv())
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
    atomic.write_bytes(cell.best_model, best_path.read_bytes())
    published = {path.as_posix(): atomic.md5(path) for path in (cell.best_model, cell.history)}
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
