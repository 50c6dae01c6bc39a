"""What a learner asks of the processes that train the same model beside it."""

from collections.abc import Sequence
from typing import Protocol

import torch


class Peers(Protocol):
    """`size` processes, of which this one is number `rank`, from 0.

    The calls return when all processes have made them; each may raise where a process has ended,
    and has then changed nothing.
    """

    rank: int
    size: int

    def sum_(self, tensors: Sequence[torch.Tensor]) -> None:
        """Put the sums over the processes in the place of the tensors."""

    def spread_(self, tensors: Sequence[torch.Tensor]) -> None:
        """Put those of the first process in the place of the tensors."""


class Alone:
    """One process, which has nothing to tell."""

    rank = 0
    size = 1

    def sum_(self, tensors: Sequence[torch.Tensor]) -> None: ...
    def spread_(self, tensors: Sequence[torch.Tensor]) -> None: ...
