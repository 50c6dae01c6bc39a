"""What to do when a step does not fit into memory: tell it, and begin the step again.

And how the memory of a step is kept for the next one.

On a CPU this is as good as its libraries: oneDNN, which torch takes for convolutions, does not
always look whether it got the memory it asked for. The process then ends by SIGSEGV, as it ends
by SIGKILL where Linux itself has none left, and goes on from its last checkpoint when run again.
"""

import ctypes
from dataclasses import dataclass

import torch
from torch import nn

# What the CPU's allocator, oneDNN and C++ say. oneDNN also says that it could not create a
# primitive where one had no memory left for its scratch space. On CUDA the error has a type of its
# own, but for what cuBLAS and cuDNN take themselves.
_WORDS = (
    "can't allocate memory",
    "not enough memory",
    "std::bad_alloc",
    "out of memory",
    "create a primitive",
    "STATUS_ALLOC_FAILED",
    "unable to find an engine",
)


# Of mallopt(3).
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_LARGE_BYTES = 1 << 30


class TooLittleMemoryError(ValueError):
    """Not even the smallest part of a batch fits into memory."""


@dataclass(frozen=True, kw_only=True)
class OutOfMemory:
    """A step that did not fit, and what was done about it."""

    step: int  # its number, counted from 0
    micro_batch: int  # clips at once, which did not fit
    next_micro_batch: int  # what is tried from here on
    reason: str


def is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _WORDS)


def keep_freed_memory() -> None:
    """Have the C library keep what a step on the CPU frees, for the next step.

    glibc gives large blocks back to the system, which then hands them out again page by page: of
    small3d's steps on 64 x 64 clips a quarter of the time. The process stays as large as it was at
    its largest. Another C library is left as it is.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_TRIM_THRESHOLD, _LARGE_BYTES)
        mallopt(_MMAP_THRESHOLD, _LARGE_BYTES)


class StepStart:
    """What a forward pass changes besides gradients: the model's buffers and the generators.

    `remember` costs a copy of the running statistics, into memory that is taken once.
    """

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        self._device = device
        self._buffers = list(model.buffers())
        self._copies = [torch.empty_like(buffer) for buffer in self._buffers]

    def remember(self) -> None:
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
