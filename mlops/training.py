"""Frame of a training: its processes and devices, its run directory, its checkpoints.

What can change a trained weight is the caller's: the data, the model and the loop.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch

from mlops.checkpoint import CheckpointManager, Log, NoCheckpoints
from mlops.config import RunConfig
from mlops.determinism import device_kind
from mlops.errors import PipelineError
from mlops.files import atomic
from mlops.files.locks import run_lock
from mlops.files.places import runs_root
from mlops.metrics.ledger import Ledger
from mlops.metrics.timings import Timings
from mlops.processes.devices import choose_device, claimed_devices
from mlops.processes.group import LostProcessError, ProcessGroup, is_launched, process_group
from mlops.processes.launch import launch, spans_machines
from mlops.processes.progress import silent_stdout
from mlops.processes.signals import StopFlag, StoppedError
from mlops.recorded.git import git_fault
from mlops.resume import Mode, Start, choose_start
from mlops.run.attempt_log import attempt_log
from mlops.run.attempts import recorded_attempt
from mlops.run.directory import CHECKPOINTS, make_run, write_metadata
from mlops.run.documents import read_metadata
from mlops.run.environment import environment
from mlops.run.identity import Fingerprint, TrainingIdentity, fingerprint_hash
from mlops.session import Follower, Session, Stateful, restore
from mlops.tracker import ExperimentTracker

# Of a description of the devices what is trained on them.
Identify = Callable[[str], TrainingIdentity]

_VERBS = {"resume": "resuming", "republish": "publishes again what is finished in"}


@dataclass(frozen=True, kw_only=True)
class TrainingRuntime:
    """Parameters of how a training runs, none of which changes its result."""

    device: str
    num_processes: int
    checkpoint_every_sec: float
    keep_epoch_checkpoints: int
    resume: Mode


@dataclass(frozen=True, kw_only=True)
class TrainingProcess:
    """One process of a training: its device, the others, and the flag that stops it."""

    device: torch.device
    group: ProcessGroup
    stop: StopFlag
    runtime: TrainingRuntime
    log: Log

    @property
    def devices(self) -> str:
        """Name what can change a result: the device, and the number of processes that reduce."""
        size = self.group.size
        return device_kind(self.device) + (f", {size} processes" if size > 1 else "")

    def raise_if_stopped(self) -> None:
        """Raise `StoppedError` in every process if any of them was told to stop."""
        self.group.raise_if_stopped(self.stop)


def run_on_devices(
    train: Callable[[TrainingProcess], None],
    module: str,
    identify: Identify,
    runtime: TrainingRuntime,
    *,
    work: str,
    num_threads: int,
    stop: StopFlag,
    log: Log,
) -> None:
    """Call `train` in this process, or run `module` again in one process per device.

    `module` is the one that runs as a script here; what it runs in the other processes calls this
    function, which then calls `train` as a member of the group. `work` tells who holds a device.

    Of the processes that ask for the same training and devices, one holds devices; the others wait
    without any.
    """
    process = partial(TrainingProcess, stop=stop, runtime=runtime, log=log)
    if is_launched():
        # Of the GPUs that it was given, that of its number in the group.
        device = choose_device(runtime.device.partition(":")[0])
        with process_group(device.type) as group:
            train(process(device=device, group=group))
        return
    turn = _turn(
        partial(identify, f"{runtime.device}, {runtime.num_processes}"), log=log, check=stop.check
    )
    claim = claimed_devices(
        runtime.device, count=runtime.num_processes, work=work, log=log, check=stop.check
    )
    with turn, claim as devices:
        if len(devices) > 1 or spans_machines():
            launch(module, sys.argv[1:], devices, num_threads=num_threads, stop=stop)
        else:
            train(process(device=devices[0], group=ProcessGroup()))


@dataclass(frozen=True, kw_only=True)
class TrainingRun:
    """A run directory at work; in a worker there is none, and nothing is written."""

    process: TrainingProcess
    directory: Path = Path(os.devnull)
    timings: Timings | None = None
    start: Start | None = None
    fingerprint: Fingerprint = field(default_factory=dict)
    num_epochs: int = 0

    @contextmanager
    def once(self, check: str) -> Iterator[bool]:
        """Yield whether the block is to make this check: once per run, by its main process."""
        is_due = self.start is not None and not read_metadata(self.directory).get(check, False)
        yield is_due
        if is_due:
            write_metadata(self.directory, **{check: True})

    def restore(self, cell: str, learner: Stateful) -> Session:
        """Return the session at its newest usable checkpoint, in every process."""
        if self.start is None:
            session: Session = Follower(cell, learner)
        else:
            session = Session(
                cell=cell,
                fingerprint=self.fingerprint,
                learner=learner,
                tracker=ExperimentTracker(self.directory, self.directory.name),
                ledger=Ledger(self.directory),
            )
            log, num_epochs = self.process.log, self.num_epochs
            restore(session, self.start, self.directory, num_epochs=num_epochs, log=log)
        self._share(session)
        return session

    def _share(self, session: Session) -> None:
        """Broadcast the state that the main process has restored to all processes."""
        group, progress = self.process.group, vars(session.progress)
        if group.size > 1:
            own = {"learner": session.learner.state_dict(), "progress": progress}
            state = group.broadcast_state(own if group.is_main else None, self.process.device)
            if not group.is_main:
                session.learner.load_state_dict(state["learner"])
                progress.update(state["progress"])

    @contextmanager
    def checkpoints(self, session: Session) -> Iterator[CheckpointManager | NoCheckpoints]:
        """Save checkpoints in the block, and one more if the block is stopped."""
        checkpoints = self._checkpoint_manager(session)
        try:
            yield checkpoints
            checkpoints.finish()
        except (StoppedError, LostProcessError):
            checkpoints.save(session.state_dict())
            raise
        finally:
            checkpoints.close()

    def _checkpoint_manager(self, session: Session) -> CheckpointManager | NoCheckpoints:
        if self.start is None:
            return NoCheckpoints()
        return CheckpointManager(
            self.directory / CHECKPOINTS,
            keep_epochs=self.process.runtime.keep_epoch_checkpoints,
            every_sec=self.process.runtime.checkpoint_every_sec,
            sync=[session.tracker.sync, session.ledger.sync],
            check=session.check_in_place,
            log=self.process.log,
        )

    def report_epoch(self, session: Session, *, took_sec: float, waited_sec: float) -> None:
        """Print and record how long an attempt took for an epoch's steps."""
        progress = session.progress
        if self.timings is not None:
            self.timings.record(epoch=progress.epoch, took_sec=took_sec, waited_sec=waited_sec)
        self.process.log(
            f"{session.cell}: epoch {progress.epoch}: train loss {progress.mean_loss:.4f}, "
            f"{took_sec:.1f} s, of which {waited_sec / max(took_sec, 1e-9):.0%} waiting for data"
        )

    def close(self, session: Session, published: Sequence[Path], *, epoch: int) -> None:
        """Keep a copy of what was published, of `epoch`, note its bytes, and close the logs."""
        for path in published:
            atomic.write_bytes(self.directory / "artifacts" / path.name, path.read_bytes())
        write_metadata(
            self.directory,
            published={path.as_posix(): atomic.md5(path) for path in published},
            published_epoch=epoch,
            wall_sec=round(time.monotonic() - session.started, 1),
        )
        session.close()


@contextmanager
def open_run(
    identify: Identify,
    process: TrainingProcess,
    experiment: str,
    libraries: Sequence[str],
) -> Iterator[TrainingRun]:
    """Hold the run directory of a training, new or resumed, with an attempt and its log.

    At most one process works on a fingerprint; a second one waits. The workers of a training have
    no part in this: they print and write nothing.
    """
    if not process.group.is_main:
        with silent_stdout():
            yield TrainingRun(process=process)
        return
    log = process.log
    turn = _turn(partial(identify, process.devices), log=log, check=process.stop.check)
    with ExitStack() as held:
        wanted = held.enter_context(turn)
        start = choose_start(runs_root(), wanted, mode=process.runtime.resume, log=log)
        directory = start.run_dir or make_run(
            runs_root(), experiment, wanted, RunConfig.from_params().document()
        )
        surroundings = environment(libraries, wanted.inputs)
        attempt = held.enter_context(
            recorded_attempt(directory, start=start.how, environment=surroundings)
        )
        held.enter_context(attempt_log(directory, attempt.number))
        if surroundings["git"] is None:
            none = "HEAD names none yet, or git took too long to tell"
            log(f"warning: no commit is recorded with this run: {git_fault() or none}")
        source = f", which goes on from {start.source.name}" if start.source else ""
        differs = f"; {start.differs}" if start.differs else ""
        log(f"{_VERBS.get(start.how, 'starting')} {directory}{source}{differs}")
        yield TrainingRun(
            directory=directory,
            process=process,
            timings=Timings(directory),
            start=start,
            fingerprint=wanted.fingerprint,
            num_epochs=wanted.num_epochs,
        )


@contextmanager
def _turn(
    identify: Callable[[], TrainingIdentity], *, log: Log, check: Callable[[], None]
) -> Iterator[TrainingIdentity]:
    """Yield what identifies a training, when no other process has this identity."""
    wanted = identify()
    name = fingerprint_hash(wanted.fingerprint)
    with run_lock(runs_root(), name, log=log, check=check) as has_waited:
        if has_waited and identify() != wanted:
            raise PipelineError(
                "inputs: expected those that were there before waiting for another training, got "
                "others; run again"
            )
        yield wanted
