"""The mutable state of a training run: everything that a checkpoint saves and restores.

Whatever resumes has `state_dict` and `load_state_dict`, and so has the session, which is made of
such parts. The order of the data and its augmentation are functions of (seed, epoch, index), so a
place in them is the numbers of `Progress`, and nothing is replayed to come back to it.
"""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

from mlops.checkpoint import Log, load_newest, set_later_aside, set_others_aside
from mlops.determinism import rng_state, set_rng_state
from mlops.errors import PipelineError
from mlops.files import atomic
from mlops.files.checkpoint_file import State
from mlops.files.journal import fault_of, intact
from mlops.metrics.ledger import LEDGER, Ledger
from mlops.metrics.log import LOG
from mlops.resume import Start
from mlops.run.directory import CHECKPOINTS, gone, write_metadata
from mlops.run.documents import METADATA, read_metadata
from mlops.run.identity import Fingerprint
from mlops.tracker import ExperimentTracker

REMEDY = (
    "nothing is published: run the same command again, which goes on from the last checkpoint that "
    "fits what is there"
)

# What a state of other code shows as when it is loaded.
_OF_OTHER_CODE = (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError)


class Stateful(Protocol):
    device: torch.device

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


@dataclass
class Progress:
    """A place between two steps."""

    epoch: int = 0  # the one that is trained or validated
    batch: int = 0  # its next one; as many as it has when validation is next
    step: int = 0  # optimizer steps done
    loss_sum: float = 0.0  # over the epoch's clips so far
    num_clips: int = 0  # of them
    best_epoch: int = -1
    best_metrics: dict[str, float] = field(default_factory=dict)  # its validation

    @property
    def mean_loss(self) -> float:
        """The mean loss of the epoch's clips so far."""
        return self.loss_sum / self.num_clips


@dataclass(kw_only=True)
class Session:
    """The mutable state of a training, which a checkpoint saves and restores."""

    cell: str  # its name in what is printed
    fingerprint: Fingerprint
    learner: Stateful
    tracker: ExperimentTracker
    ledger: Ledger
    progress: Progress = field(default_factory=Progress)
    best_weights: State | None = None  # of the best epoch, where these are to be published
    exact_up_to_step: int | None = None  # then came other code, versions or another device
    started: float = field(default_factory=time.monotonic)  # less what earlier attempts took

    def state_dict(self) -> State:
        return {
            "fingerprint": self.fingerprint,
            "learner": self.learner.state_dict(),
            "progress": vars(self.progress),
            "best_weights": self.best_weights,
            "exact_up_to_step": self.exact_up_to_step,
            "rng": rng_state(self.learner.device),
            "tracker": self.tracker.state_dict(),
            "ledger": self.ledger.state_dict(),
            "wall_sec": time.monotonic() - self.started,
        }

    def load_state_dict(self, state: State) -> None:
        self.learner.load_state_dict(state["learner"])
        vars(self.progress).update(state["progress"])
        self.best_weights = state["best_weights"]
        self.exact_up_to_step = state["exact_up_to_step"]
        self.tracker.load_state_dict(state["tracker"])
        self.ledger.load_state_dict(state["ledger"])
        self.started = time.monotonic() - state["wall_sec"]
        # Last: what is built above must not have drawn from the generators put back.
        set_rng_state(state["rng"], self.learner.device)

    def log(self, metrics: Mapping[str, float], *, phase: str) -> None:
        progress = self.progress
        self.tracker.log(metrics, step=progress.step, epoch=progress.epoch, phase=phase)

    def record_step(self, samples: Sequence[int], loss: float, *, log_every_steps: int) -> None:
        """Record one more optimizer step, on these samples; `loss` is their mean."""
        progress = self.progress
        progress.batch += 1
        progress.step += 1
        progress.loss_sum += loss * len(samples)
        progress.num_clips += len(samples)
        self._record_samples(samples)
        if progress.step % log_every_steps == 0:
            self.log({"loss": loss}, phase="step")

    def record_epoch(
        self, train: Mapping[str, float], val: dict[str, float], *, is_best: bool
    ) -> None:
        """Log the epoch, of training and of validation at once, and move on to the next one.

        At once: a state saved between the two would know of rows that are written again. `train` is
        logged beside the mean loss.
        """
        progress = self.progress
        self.log({"loss": progress.mean_loss, **train}, phase="train")
        self.log(val, phase="val")
        if is_best:
            progress.best_epoch, progress.best_metrics = progress.epoch, val
        progress.epoch += 1
        progress.batch, progress.loss_sum, progress.num_clips = 0, 0.0, 0

    def _record_samples(self, samples: Sequence[int]) -> None:
        progress = self.progress
        self.ledger.record(epoch=progress.epoch, step=progress.step, samples=samples)

    def check_in_place(self) -> None:
        """Raise `PipelineError` if the run's directory or its logs are gone or are other files."""
        for journal in (self.tracker.journal, self.ledger):
            if not journal.is_in_place:
                run_dir = journal.path.parent
                if not (run_dir / METADATA).exists():  # or what a removal has not yet come to
                    raise PipelineError(gone(run_dir))
                raise PipelineError(
                    f"{journal.path}: expected the file that is written here, found "
                    f"{'another' if journal.path.exists() else 'none'}; {REMEDY}"
                )

    def check_logs(self) -> None:
        """Raise `PipelineError` unless log and ledger hold what was written, and nothing else."""
        self.check_in_place()
        for journal in (self.tracker.journal, self.ledger):
            if fault := journal.fault():
                raise PipelineError(f"{fault}; {REMEDY}")

    def flush(self) -> None:
        """Write what a full disk had no room for; a `PipelineError` says that there is none yet."""
        self.tracker.flush()
        self.ledger.flush()

    def close(self) -> None:
        self.tracker.close()
        self.ledger.close()


class Follower(Session):
    """The place of a rank other than 0, which takes the same steps and writes nothing."""

    def __init__(self, cell: str, learner: Stateful) -> None:
        self.cell = cell
        self.learner = learner
        self.progress = Progress()

    def state_dict(self) -> State:
        return {}

    def log(self, metrics: Mapping[str, float], *, phase: str) -> None: ...
    def _record_samples(self, samples: Sequence[int]) -> None: ...
    def check_in_place(self) -> None: ...


def restore(session: Session, start: Start, run_dir: Path, *, num_epochs: int, log: Log) -> None:
    """Bring the session to the run's newest usable checkpoint, or to that of the run that it goes
    on from; without one, to its beginning."""
    directory = run_dir / CHECKPOINTS
    if os.path.lexists(directory) and not directory.is_dir():
        raise PipelineError(
            f"{directory}: expected the directory of the checkpoints, got something else; put it "
            "back, or remove what is there to begin anew"
        )
    atomic.remove_half_written(directory)
    set_others_aside(directory, log)
    state = load_newest(directory, _refuse_other_runs(session.fingerprint, run_dir), log=log)
    if state is not None:
        session.load_state_dict(state)
    elif start.source is None or not _adopt(session, start, start.source, run_dir, num_epochs, log):
        session.tracker.load_state_dict(None)
        session.ledger.load_state_dict(None)
        write_metadata(run_dir, goes_on_from=None, exact_up_to_step=None)
        set_later_aside(directory, 0)
        if start.how != "new":
            log(f"{session.cell}: found no state that fits: begins again with epoch 0, step 0")
        return
    progress = session.progress
    # What is later refers to a log that will be written anew from here.
    set_later_aside(directory, progress.epoch)
    log(f"{session.cell}: goes on with epoch {progress.epoch}, step {progress.step}")


def _adopt(
    session: Session, start: Start, source: Path, run_dir: Path, num_epochs: int, log: Log
) -> bool:
    """Load a state of the run that this one goes on from, and copy its log; False if none fits.

    Nothing there is changed: it may be at work, and it stays the record of what it was.
    """
    refuse_other = _refuse_other_runs(read_metadata(source)["fingerprint"], source)
    refuse = _refuse_longer_runs(refuse_other, num_epochs)
    state = load_newest(source / CHECKPOINTS, refuse, log=log, set_aside=False)
    if state is None:
        return False
    session.tracker.adopt(source, state["tracker"])
    session.ledger.adopt(source / LEDGER, state["ledger"])
    place = {name: state["progress"][name] for name in ("epoch", "step")}
    exact_up_to_step = state["exact_up_to_step"]
    if not start.is_exact and exact_up_to_step is None:
        exact_up_to_step = place["step"]
    own = {
        "fingerprint": session.fingerprint,
        "exact_up_to_step": exact_up_to_step,
        "tracker": session.tracker.state_dict(),
        "ledger": session.ledger.state_dict(),
    }
    try:
        session.load_state_dict(state | own)
    except _OF_OTHER_CODE as error:
        if start.is_exact:
            raise
        reason = str(error).partition("\n")[0]
        raise PipelineError(
            f"runtime.resume: expected code that can load the state of {source} ({start.differs}), "
            f"got {type(error).__name__}: {reason}; undo that change, or write exact to train anew"
        ) from None
    told = {"run": source.name, "exact": exact_up_to_step is None, "differs": start.differs}
    write_metadata(run_dir, goes_on_from=told | place, exact_up_to_step=exact_up_to_step)
    if exact_up_to_step is not None:
        log(f"exact up to step {exact_up_to_step}, and from there on only about so")
    return True


Refuse = Callable[[State], str | None]  # why a state may not be used, None if it may


def _refuse_other_runs(fingerprint: Fingerprint, run_dir: Path) -> Refuse:
    """Refuse the states that do not belong to the run and its logs as they are."""

    def refuse(state: State) -> str | None:
        if state.get("fingerprint") != fingerprint:
            return "expected the state of this run, got that of another fingerprint"
        logs = {"tracker": run_dir / LOG, "ledger": run_dir / LEDGER}
        lost = (name for name, log in logs.items() if intact(log, state[name]) is None)
        return next((f"does not fit {fault_of(logs[name], state[name])}" for name in lost), None)

    return refuse


def _refuse_longer_runs(refuse_other: Refuse, num_epochs: int) -> Refuse:
    def refuse(state: State) -> str | None:
        reason = refuse_other(state)
        if reason is None and state["progress"]["epoch"] > num_epochs:
            return f"expected at most {num_epochs} epochs, got {state['progress']['epoch']}"
        return reason

    return refuse
