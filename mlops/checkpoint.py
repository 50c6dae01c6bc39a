"""Asynchronous checkpoints: snapshot in memory, write in a background thread.

    checkpoints/
        latest_checkpoint.pt       the newest state
        previous_checkpoint.pt     the one before
        checkpoint_epoch_0003.pt   states after whole epochs, the newest few

Each state holds all that training needs to go on and to publish, so one sound file of these is
enough. What a crash leaves, step by step: the newest state is written and synced under a temporary
name; then the one that was newest becomes the previous one, then the new one the newest. Between
these two renames only the previous one is there. Pruning comes last. A full disk costs the new
state and never an older one.
"""

import errno
import os
import re
import shutil
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from mlops.errors import PipelineError
from mlops.files import atomic
from mlops.files.checkpoint_file import (
    State,
    load_checkpoint,
    other_kind,
    write_checkpoint,
)

LATEST = "latest_checkpoint.pt"
PREVIOUS = "previous_checkpoint.pt"
EPOCH = "checkpoint_epoch_{:04}.pt"

# Of a rename onto a directory, or of one onto a file: something else is where a checkpoint was.
_IN_THE_WAY = (errno.EISDIR, errno.ENOTDIR, errno.ENOTEMPTY)

Log = Callable[[str], None]


def load_newest(
    directory: Path,
    refuse: Callable[[State], str | None],
    *,
    log: Log = print,
    set_aside: bool = True,
) -> State | None:
    """Return the newest sound state in a run's checkpoints, on the CPU; None if there is none.

    A damaged file is set aside under another name, and an older one is taken; so is a sound one
    for which `refuse` gives a reason why it may not be used.
    """
    places = [directory / LATEST, directory / PREVIOUS]
    for path in [*places, *reversed(epoch_checkpoints(directory))]:
        state = _load_sound(path, log, set_aside)
        reason = None if state is None else refuse(state)
        if reason is not None:
            _pass_over(path, "refused", f"{path}: {reason}", log, set_aside)
        elif state is not None:
            return state
    return None


def epoch_checkpoints(directory: Path) -> list[Path]:
    """Return the states after whole epochs, oldest first."""
    pattern = re.compile(r"checkpoint_epoch_(\d{4}|[1-9]\d{4,})\.pt", re.ASCII)
    return sorted((p for p in directory.glob("*.pt") if pattern.fullmatch(p.name)), key=_epoch_of)


def _load_sound(path: Path, log: Log, set_aside: bool) -> State | None:
    try:
        return load_checkpoint(path)
    except FileNotFoundError:  # also of a run at work, between two of its renames
        return None
    except PipelineError as error:
        _pass_over(path, "damaged", str(error).rpartition(";")[0], log, set_aside)
        return None


def set_others_aside(directory: Path, log: Log) -> None:
    """Rename what lies in the place of a checkpoint and is no file: no rename could replace it."""
    places = (directory / name for name in (LATEST, PREVIOUS))
    for path in [*places, *epoch_checkpoints(directory)]:
        if kind := other_kind(path):
            _pass_over(path, "damaged", f"{path}: expected a checkpoint, got {kind}", log)


def set_later_aside(directory: Path, epoch: int) -> None:
    """Rename the states after more than `epoch` epochs: they are of a log that is no more."""
    for path in epoch_checkpoints(directory):
        if _epoch_of(path) > epoch:
            atomic.set_aside(path, "later")


def _epoch_of(path: Path) -> int:
    return int(path.stem.rpartition("_")[2])


def _pass_over(path: Path, why: str, fault: str, log: Log, set_aside: bool = True) -> None:
    where = f"kept as {atomic.set_aside(path, why)}" if set_aside else "left there"
    log(f"{fault}; {where}, and not used")


class CheckpointManager:
    """Asynchronous checkpoints: a save blocks training only for a copy in memory.

    One at a time: `save` waits for the save before it. `sync` names what has to be on the disk
    before a state that refers to it, as the log up to an offset. `check` raises if there is no
    place to save to any more. The first `save` allocates the buffers that later ones copy into, of
    the size of the state.
    """

    def __init__(
        self,
        directory: Path,
        *,
        keep_epochs: int,
        every_sec: float,
        sync: Sequence[Callable[[], None]] = (),
        check: Callable[[], None] = lambda: None,
        log: Log = print,
    ) -> None:
        self._directory = directory
        self._keep_epochs = keep_epochs
        self._every_sec = every_sec
        self._saved = time.monotonic()
        self._sync = sync
        self._check = check
        self._log = log
        self._copy = _WarmCopy()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoints")
        self._writing: Future[None] | None = None

    @property
    def is_due(self) -> bool:
        """True if the last save was written, and is `every_sec` ago."""
        is_writing = self._writing is not None and not self._writing.done()
        return not is_writing and time.monotonic() - self._saved >= self._every_sec

    def save(self, state: State, *, epoch: int | None = None) -> None:
        """Copy `state` and return; the file is written meanwhile.

        `epoch` is the number of whole epochs trained, when the state is one after an epoch. What
        went wrong is said, and training goes on; only what `check` raises, and a fault of the
        program, is raised, by the next call.
        """
        self.wait()
        copied = self._copy.take(state)
        self._saved = time.monotonic()
        self._writing = self._thread.submit(self._write, copied, epoch)

    def wait(self) -> None:
        """Return when all that was saved is on the disk."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def finish(self) -> None:
        """Wait; what `check` raises is raised now."""
        self.wait()
        self._check()

    def close(self) -> None:
        try:
            self.wait()
        finally:
            self._thread.shutdown()

    def _write(self, state: State, epoch: int | None) -> None:
        self._check()
        try:
            self._write_with_room(state, epoch)
        except OSError as error:
            self._check()
            self._log(
                f"{error.filename or self._directory}: expected to write a checkpoint, got: "
                f"{error.strerror or error}; a kill from now on costs what was done since the last "
                "one: make room, or mend that"
            )

    def _write_with_room(self, state: State, epoch: int | None) -> None:
        in_the_way = True
        while True:
            try:
                return self._write_all(state, epoch)
            except OSError as error:
                if error.errno in _IN_THE_WAY and in_the_way:
                    in_the_way = False  # set aside by the second try
                    continue
                # The newest is never given up: training began with it, or wrote it since. It is
                # LATEST, but after a kill between two renames, or where that one was damaged.
                named = (self._directory / name for name in (PREVIOUS, LATEST))
                states = [*epoch_checkpoints(self._directory), *named]
                states = [path for path in states if atomic.is_regular(path)]
                if error.errno not in atomic.FULL or len(states) < 2:
                    raise
                states[0].unlink()

    def _write_all(self, state: State, epoch: int | None) -> None:
        _check_room(self._directory, _num_bytes(state))
        set_others_aside(self._directory, self._log)
        for sync in self._sync:
            sync()
        latest = self._directory / LATEST
        previous = self._directory / PREVIOUS
        # Without parents: a run's directory that was removed meanwhile is not to come back.
        with atomic.replacing(latest, keep_as=previous, parents=False) as temporary:
            write_checkpoint(temporary, state)
        if epoch is not None and self._keep_epochs:
            with suppress(OSError):  # one more of what there is: not worth another try
                _link_or_copy(latest, self._directory / EPOCH.format(epoch))
            for path in epoch_checkpoints(self._directory)[: -self._keep_epochs]:
                atomic.remove_file(path)


class NoCheckpoints:
    """For the processes beside the one that saves: has what `CheckpointManager` has."""

    is_due = False

    def save(self, state: State, *, epoch: int | None = None) -> None: ...
    def finish(self) -> None: ...
    def close(self) -> None: ...


class _WarmCopy:
    """Copies states into buffers that stay: fresh memory costs more to get than to fill."""

    def __init__(self) -> None:
        self._buffers: dict[tuple[Any, ...], torch.Tensor] = {}

    def take(self, state: State) -> State:
        """Return a copy of `state` on the CPU, good until the next call."""
        copied: State = self._copied(state, ())
        # Without a context there is nothing to wait for, and none is made: it takes GPU memory.
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            torch.cuda.synchronize()  # copies from the device are not waited for one by one
        return copied

    def _copied(self, value: Any, place: tuple[Any, ...]) -> Any:
        if isinstance(value, dict):
            return {key: self._copied(item, (*place, key)) for key, item in value.items()}
        if isinstance(value, list | tuple):
            items = [self._copied(item, (*place, i)) for i, item in enumerate(value)]
            return items if isinstance(value, list) else tuple(items)
        if isinstance(value, torch.Tensor):
            buffer = self._buffers.get(place)
            if buffer is None or buffer.shape != value.shape or buffer.dtype != value.dtype:
                buffer = torch.empty(
                    value.shape, dtype=value.dtype, pin_memory=value.device.type == "cuda"
                )
                self._buffers[place] = buffer
            return buffer.copy_(value.detach(), non_blocking=True)
        return value


def _num_bytes(value: Any) -> int:
    """Return the bytes of the tensors in a state, about what its file takes."""
    if isinstance(value, dict):
        return sum(map(_num_bytes, value.values()))
    if isinstance(value, list | tuple):
        return sum(map(_num_bytes, value))
    return value.nbytes if isinstance(value, torch.Tensor) else 0


def _check_room(directory: Path, num_bytes: int) -> None:
    # Before anything is written, so that a disk is not filled up for others.
    if shutil.disk_usage(directory).free < num_bytes:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(directory))


def _link_or_copy(source: Path, target: Path) -> None:
    target.unlink(missing_ok=True)
    try:
        target.hardlink_to(source)
    except OSError:  # a file system without links
        with atomic.replacing(target, parents=False) as temporary:
            shutil.copyfile(source, temporary)
