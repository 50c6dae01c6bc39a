"""Ranks of a distributed training and the collectives they share.

torch.distributed.run starts them and gives each its number. Between the calls below each works by
itself; a call returns when all have made it. One process alone is a group of one, for which every
call returns at once.
"""

import io
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import distributed

from mlops.errors import PipelineError
from mlops.processes.signals import StopFlag

T = TypeVar("T")

# The first one may wait for hours, for another training; that one has ended is told at once.
_PATIENCE = timedelta(days=30)

# Gradients travel in pieces of this size, the next one while the one before is being summed.
_PIECE_BYTES = 25 << 20

# Of the allocators of CUDA and of the CPU, and of NCCL.
_NO_MEMORY = ("out of memory", "allocate memory")


class LostProcessError(PipelineError):
    """Another process of the group has ended; what this one holds is as it was before the call."""


class ProcessGroup:
    """Ranks of one training; `rank` counts from 0, `size` is their number."""

    def __init__(self, *, rank: int = 0, size: int = 1, local_rank: int = 0) -> None:
        self.rank = rank
        self.size = size
        self.local_rank = local_rank  # among those of this machine

    @property
    def is_main(self) -> bool:
        """True in rank 0, which alone writes."""
        return self.rank == 0

    def shard(self, count: int) -> slice:
        """Return this rank's shard of `count` items, cut into `size` shards of about equal size."""
        return slice(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def all_reduce_(self, tensors: Sequence[torch.Tensor]) -> None:
        """All-reduce the tensors in place by their sum; every rank gets identical bits.

        The pieces that are summed at once depend on the tensors' sizes alone. DDP's depend on the
        order in which the gradients of its first step came, so that a resumed training would sum
        three or more processes in another order than one that was never stopped.
        """
        if self.size == 1:
            return
        with _told():
            for piece in _pieces(tensors):
                flat = torch.cat([tensor.flatten() for tensor in piece])
                distributed.all_reduce(flat)
                parts = torch.split(flat, [tensor.numel() for tensor in piece])
                for tensor, part in zip(piece, parts, strict=True):
                    tensor.copy_(part.view_as(tensor))

    def broadcast_(self, tensors: Sequence[torch.Tensor]) -> None:
        """Broadcast the tensors of rank 0 in place."""
        if self.size == 1:
            return
        with _told():
            for tensor in tensors:
                distributed.broadcast(tensor, src=0)

    def broadcast_state(self, state: dict[str, Any] | None, device: torch.device) -> dict[str, Any]:
        """Return the state of rank 0, tensors and plain types, on this rank's device."""
        buffer = io.BytesIO()
        if state is not None:
            torch.save(state, buffer)
        contents = [buffer.getvalue()]
        with _told():
            distributed.broadcast_object_list(contents, src=0, group=_messages())
        received: dict[str, Any] = torch.load(
            io.BytesIO(contents[0]), map_location=device, weights_only=True
        )
        return received

    def all_gather(self, part: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the parts of all ranks, concatenated in their order."""
        if self.size == 1:
            return part
        parts: list[Any] = [None] * self.size
        with _told():
            distributed.all_gather_object(parts, part, group=_messages())
        return np.concatenate(parts)

    def raise_if_stopped(self, stop: StopFlag) -> None:
        """Raise `StoppedError` in every rank if any of them was told to stop.

        They must leave their work at the same step: one that went on would wait for the others.
        """
        if self.size > 1:
            told = torch.tensor(stop.exit_code)
            with _told():
                distributed.all_reduce(told, distributed.ReduceOp.MAX, group=_messages())
            if not (code := int(told)):
                # A signal that came since is for the next time: the others know of none.
                return
            stop.set("a signal to another of its processes", code)
        stop.check()

    def checked(self, items: Iterable[T], stop: StopFlag, *, count: int) -> Iterator[T]:
        """Yield the items, after `raise_if_stopped` for each of the first `count`, as all have."""
        for number, item in enumerate(items):
            if number < count:
                self.raise_if_stopped(stop)
            yield item


_groups: dict[str, Any] = {}


def _messages() -> Any:
    """Return a gloo group, for messages and tensors in the memory of the CPU."""
    return _groups["messages"]


def is_launched() -> bool:
    """Return whether torch.distributed.run has started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


@contextmanager
def process_group(device_type: str) -> Iterator[ProcessGroup]:
    """Yield the group of this process: NCCL for gradients on GPUs, gloo for everything else."""
    if not is_launched():
        yield ProcessGroup()
        return
    rank, size, local_rank = (
        int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    )
    if device_type == "cuda":
        torch.cuda.set_device(local_rank)
    with _told():
        distributed.init_process_group(
            "nccl" if device_type == "cuda" else "gloo",
            timeout=None if device_type == "cuda" else _PATIENCE,
        )
        _groups["messages"] = distributed.new_group(backend="gloo", timeout=_PATIENCE)
    ends_well = False
    try:
        yield ProcessGroup(rank=rank, size=size, local_rank=local_rank)
        ends_well = True
    finally:
        # After a fault NCCL would wait here for the others, which may wait for this process: they
        # are told by its end, and the fault by its message.
        if ends_well or device_type != "cuda":
            _groups.clear()
            distributed.destroy_process_group()


@contextmanager
def _told() -> Iterator[None]:
    """Raise `LostProcessError` for torch's error, unless this process itself has no memory."""
    try:
        yield
    except RuntimeError as error:
        if any(words in str(error) for words in _NO_MEMORY):
            raise
        # Without the place in torch's code, and without its advice.
        reason = re.sub(r"^\[\S*\] ", "", str(error)).partition("\n")[0].partition(". ")[0]
        raise LostProcessError(
            "expected all processes of this training to go on, got the end of one of them "
            f"({reason}); run the same command again, which goes on"
        ) from None


def _pieces(tensors: Sequence[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
    """Yield the tensors in order, in pieces of one dtype and at most `_PIECE_BYTES`."""
    piece: list[torch.Tensor] = []
    size = 0
    for tensor in tensors:
        if piece and (size + tensor.nbytes > _PIECE_BYTES or tensor.dtype != piece[0].dtype):
            yield piece
            piece, size = [], 0
        piece.append(tensor)
        size += tensor.nbytes
    if piece:
        yield piece
