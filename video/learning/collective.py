"""Collectives between the ranks that train the same model."""

from collections.abc import Sequence
from typing import Protocol

import torch


class Collective(Protocol):
    """A group of `size` processes, seen from the one of rank `rank`, counted from 0.

    A call blocks until all ranks have made it. If a rank has ended, it raises and changes nothing.
    """

    rank: int
    size: int

    def all_reduce_(self, tensors: Sequence[torch.Tensor]) -> None:
        """All-reduce the tensors in place by their sum."""

    def broadcast_(self, tensors: Sequence[torch.Tensor]) -> None:
        """Broadcast the tensors of rank 0 in place."""


class SingleProcess:
    """A training in one process."""

    rank = 0
    size = 1

    def all_reduce_(self, tensors: Sequence[torch.Tensor]) -> None: ...
    def broadcast_(self, tensors: Sequence[torch.Tensor]) -> None: ...
