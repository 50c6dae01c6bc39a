"""Determinism: one seed for all random choices, and no kernel whose results vary."""

import hashlib
import json
import os
import platform
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch

KERNEL_VARIABLES = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "MKL_CBWR", "ATEN_CPU_CAPABILITY")


def derive_seed(*parts: int | str) -> int:
    """Derive a 63-bit seed from parts, e.g. `derive_seed(seed, "order", epoch)`.

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


def device_kind(device: torch.device) -> str:
    """Return what can change a result: the device's model, and what chooses its kernels."""
    if device.type == "cuda":
        cudnn = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
        return f"cuda {torch.cuda.get_device_name(device)}, cuDNN {cudnn}"
    # Kernels are chosen by what the CPU can do, which these variables may narrow.
    chosen = [f"{name}={os.environ[name]}" for name in KERNEL_VARIABLES if name in os.environ]
    return ", ".join([f"cpu {_cpu_model()}", *chosen])


def _cpu_model() -> str:
    """Return the CPU's name, often vague in a virtual machine, and a digest of its features."""
    entries = dict.fromkeys(("model name", "flags"), "")
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = (part.strip() for part in line.partition(":"))
        if name in entries:
            entries[name] = value
    able = sorted(re.findall(r"\b(?:sse|avx|fma|f16c|bmi|amx)\w*", entries["flags"]))
    digest = hashlib.sha256(" ".join(able).encode()).hexdigest()
    return f"{entries['model name'] or platform.machine()} {digest[:8]}"


def rng_state(device: torch.device) -> dict[str, Any]:
    """Return the states of all generators that training on `device` may use, as plain types.

    Of several GPUs that of this one alone: the next start may have another number of them, or
    another one of the same model.
    """
    kind, keys, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002
    version, internal, gauss_next = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        "numpy": [kind, torch.from_numpy(np.asarray(keys).copy()), position, has_gauss, cached],
        "python": [version, list(internal), gauss_next],
    }


def set_rng_state(state: dict[str, Any], device: torch.device) -> None:
    """Set all generators to a state of `rng_state`."""
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] is not None and device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"].cpu(), device)
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.cpu().numpy(), *rest))  # noqa: NPY002
    version, internal, gauss_next = state["python"]
    random.setstate((version, tuple(internal), gauss_next))
