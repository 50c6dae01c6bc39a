"""One seed for everything that draws, and no kernel that answers differently twice."""

import hashlib
import json
import os
import random
from typing import Any

import numpy as np
import torch

from mlops.errors import PipelineError


def derive_seed(*parts: int | str) -> int:
    """A 63-bit seed from parts, e.g. `derive_seed(seed, "order", epoch)`.

    Streams of different purposes never share numbers, as `seed + epoch` would let them.
    """
    # JSON, so that "1" and 1, or ("a", "b") and ("a|b"), are different streams.
    text = json.dumps(parts, separators=(",", ":"))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def make_deterministic(seed: int, *, num_threads: int) -> None:
    """Seed python, numpy and torch, forbid kernels with varying results, fix the threads.

    Call before the first CUDA call: cuBLAS reads its workspace setting once. The number of
    threads is fixed because a sum split among another number of threads rounds differently.
    """
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002  libraries may draw from the old generator
    torch.manual_seed(seed)
    torch.set_num_threads(num_threads)
    # As use_deterministic_algorithms(True), which takes a second to import torch's compiler first.
    torch.set_deterministic_debug_mode("error")
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


def choose_device(name: str) -> torch.device:
    """`auto` is the first CUDA device if there is one, else the CPU."""
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


def device_kind(device: torch.device) -> str:
    """What of a device can change a result: its type and, for a GPU, its model."""
    if device.type == "cuda":
        return f"cuda {torch.cuda.get_device_name(device)}"
    return device.type


def rng_state() -> dict[str, Any]:
    """The states of all generators that training may draw from, as tensors and plain types."""
    kind, keys, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002
    version, internal, gauss_next = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": [kind, torch.from_numpy(np.asarray(keys).copy()), position, has_gauss, cached],
        "python": [version, list(internal), gauss_next],
    }


def set_rng_state(state: dict[str, Any]) -> None:
    """Put all generators into a state of `rng_state`."""
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"]:
        torch.cuda.set_rng_state_all([item.cpu() for item in state["cuda"]])
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.cpu().numpy(), *rest))  # noqa: NPY002
    version, internal, gauss_next = state["python"]
    random.setstate((version, tuple(internal), gauss_next))
