"""Devices: the ones that a stage computes on, held as long as it runs.

`auto` and `cuda` are any CUDA device that is free, `cuda:1` is that one; a GPU that another stage
holds is waited for. A CPU is nobody's own.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from mlops.errors import PipelineError
from mlops.files.locks import DeviceLocks


def choose_device(name: str) -> torch.device:
    """Return the device of this name; `auto` is the first CUDA device, or the CPU without one.

    Of several, `claimed_devices` takes one that is free.
    """
    num_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    known = ["cpu", *(["cuda"] if num_gpus else []), *(f"cuda:{i}" for i in range(num_gpus))]
    if name == "auto":
        name = "cuda" if num_gpus else "cpu"
    if name not in known:
        raise PipelineError(
            f"runtime.device: expected auto, {', '.join(known)}, which this machine has, got "
            f"{name!r}; write auto"
        )
    return torch.device(name)


@contextmanager
def claimed_devices(
    requested: str,
    *,
    count: int = 1,
    work: str,
    log: Callable[[str], None],
    check: Callable[[], None],
) -> Iterator[list[torch.device]]:
    """Hold `count` devices of those that `runtime.device` asks for.

    A single one is torch's current one meanwhile; with several, each is for a process of its own,
    and this one stays out of their memory. Of CPUs all are the same, and none is held.
    """
    chosen = choose_device(requested)
    if chosen.type == "cpu":
        yield [chosen] * count
        return
    names = candidates(requested, torch.cuda.device_count(), count)
    ids = {name: str(torch.cuda.get_device_properties(name).uuid) for name in names}
    with DeviceLocks(work=work, log=log, check=check).hold(ids, count) as held:
        if count == 1:
            torch.cuda.set_device(held[0])
        yield [torch.device(name) for name in held]


def candidates(requested: str, num_devices: int, count: int) -> list[str]:
    """Return the CUDA devices that may be used, best first."""
    names = [f"cuda:{index}" for index in range(num_devices)]
    if requested not in ("auto", "cuda"):
        names = [requested]
    if len(names) < count:
        raise PipelineError(
            f"runtime.device: expected {count} devices, got '{requested}', which is "
            f"{len(names)} of the {num_devices} that this process sees; write auto, or ask for "
            "fewer"
        )
    return names
