"""Recovery from running out of memory in a step, and reuse of freed memory between steps.

On a CPU, recovery is as good as the libraries: oneDNN, which torch uses for convolutions, does not
always check its allocations. The process then ends by SIGSEGV, or by SIGKILL if Linux itself runs
out of memory, and resumes from its last checkpoint when run again.
"""

import ctypes
from dataclasses import dataclass

import torch
from torch import nn

# Messages of the CPU's allocator, oneDNN and C++. oneDNN also reports that it could not create a
# primitive if there is no memory for its scratch space. On CUDA the error has its own type, except
# for the allocations of cuBLAS and cuDNN.
_WORDS = (
    "can't allocate memory",
    "not enough memory",
    "std::bad_alloc",
    "out of memory",
    "create a primitive",
    "STATUS_ALLOC_FAILED",
)


# Of mallopt(3).
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_LARGE_BYTES = 1 << 30


class TooLittleMemoryError(ValueError):
    """Not even the smallest micro-batch fits into memory."""


@dataclass(frozen=True, kw_only=True)
class OutOfMemory:
    """A step that did not fit into memory, and the micro-batch tried next."""

    step: int  # counted from 0
    micro_batch: int  # clips; did not fit
    next_micro_batch: int  # clips; used from here on
    reason: str

    def __str__(self) -> str:
        return (
            f"step {self.step}: no memory for {self.micro_batch} clips at once ({self.reason}); "
            f"from here on {self.next_micro_batch}, batches as before"
        )


def is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _WORDS)


def keep_freed_memory() -> None:
    """Make the C library keep the memory that a step on the CPU frees for the next step.

    glibc returns large blocks to the system, and page faults then take a quarter of the time of
    small3d's steps on 64 x 64 clips. The process keeps its peak size. No effect on other C
    libraries.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_TRIM_THRESHOLD, _LARGE_BYTES)
        mallopt(_MMAP_THRESHOLD, _LARGE_BYTES)


class StepStart:
    """A snapshot of what a forward pass changes: the model's buffers and the generators.

    `save` copies the running statistics into memory that is allocated once.
    """

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        self._device = device
        self._buffers = list(model.buffers())
        self._copies = [torch.empty_like(buffer) for buffer in self._buffers]

    def save(self) -> None:
        _copy(self._copies, self._buffers)
        self._rng = torch.get_rng_state()
        if self._device.type == "cuda":
            self._cuda_rng = torch.cuda.get_rng_state(self._device)

    def restore(self) -> None:
        _copy(self._buffers, self._copies)
        torch.set_rng_state(self._rng)
        if self._device.type == "cuda":
            torch.cuda.set_rng_state(self._cuda_rng, self._device)


@torch.no_grad()
def _copy(targets: list[torch.Tensor], sources: list[torch.Tensor]) -> None:
    if targets:
        torch._foreach_copy_(targets, sources)
