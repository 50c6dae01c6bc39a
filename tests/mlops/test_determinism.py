"""One seed decides every draw; the device is what the machine has."""

import os
import random
import re
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from mlops.determinism import KERNEL_VARIABLES, derive_seed, device_kind, make_deterministic
from mlops.errors import PipelineError
from mlops.processes.devices import choose_device


@pytest.fixture(autouse=True)
def _settings_of_the_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Put the switches of torch back for the tests that follow."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    switches = cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32, matmul.allow_tf32
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(strict)
    cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32, matmul.allow_tf32 = switches


def draws() -> tuple[float, float, float]:
    return random.random(), float(np.random.random()), torch.rand(1).item()  # noqa: NPY002


def test_one_seed_gives_the_same_draws() -> None:
    make_deterministic(7, num_threads=1)
    first = draws()
    make_deterministic(7, num_threads=1)
    assert draws() == first


def test_another_seed_gives_other_draws_of_every_generator() -> None:
    make_deterministic(7, num_threads=1)
    first = draws()
    make_deterministic(8, num_threads=1)
    assert all(one != other for one, other in zip(first, draws(), strict=True))


def test_every_derived_seed_can_seed() -> None:
    for part in range(50):
        seed = derive_seed("any", part)
        make_deterministic(seed, num_threads=1)
        assert torch.initial_seed() == seed
    make_deterministic(2**63 - 1, num_threads=1)
    assert torch.initial_seed() == 2**63 - 1


def test_the_threads_are_as_asked() -> None:
    for num_threads in (2, 1):
        make_deterministic(0, num_threads=num_threads)
        assert torch.get_num_threads() == num_threads


def test_kernels_that_vary_are_forbidden() -> None:
    make_deterministic(0, num_threads=1)
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.is_deterministic_algorithms_warn_only_enabled()
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    assert (cudnn.benchmark, cudnn.deterministic) == (False, True)
    assert (cudnn.allow_tf32, matmul.allow_tf32) == (False, False)
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


def test_a_derived_seed_is_a_number_of_63_bits() -> None:
    seeds = [derive_seed("a", part) for part in range(1000)]
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert max(seeds) > 2**62
    assert len(set(seeds)) == 1000


def test_a_derived_seed_never_changes() -> None:
    # Another formula would change every result of the pipeline with no parameter changed.
    assert derive_seed(0, "order", 3) == 8694274603111992397


def test_streams_of_different_purposes_do_not_meet() -> None:
    order = {derive_seed(seed, "order", epoch) for seed in range(30) for epoch in range(30)}
    augment = {derive_seed(seed, "augment", epoch) for seed in range(30) for epoch in range(30)}
    assert len(order | augment) == 1800


def test_the_order_of_the_parts_counts() -> None:
    assert derive_seed(1, 2) != derive_seed(2, 1) != derive_seed(12)


def test_parts_that_look_alike_make_different_seeds() -> None:
    assert derive_seed("a", "b") != derive_seed("a|b") != derive_seed("a,b")
    assert derive_seed(1) != derive_seed("1")


def test_the_cpu_can_be_chosen_anywhere() -> None:
    assert choose_device("cpu") == torch.device("cpu")


def test_auto_is_a_gpu_if_there_is_one() -> None:
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("name", ["gpu", "cuda:99", "meta", "", "CPU"])
def test_a_device_that_is_not_there_is_told_with_the_remedy(name: str) -> None:
    with pytest.raises(PipelineError) as caught:
        choose_device(name)
    (fault,) = caught.value.faults
    assert fault.startswith("runtime.device: expected auto, cpu, ")
    assert fault.endswith(f"got {name!r}; write auto")


def test_the_kind_of_the_cpu_is_its_model_and_what_it_computes_with(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in KERNEL_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    kind = device_kind(torch.device("cpu"))
    assert re.fullmatch(r"cpu .+ [0-9a-f]{8}", kind)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    assert device_kind(torch.device("cpu")) == f"{kind}, ONEDNN_MAX_CPU_ISA=AVX2"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine")
def test_the_kind_of_a_gpu_names_its_model() -> None:
    assert device_kind(torch.device("cuda")).startswith(
        f"cuda {torch.cuda.get_device_name(0)}, cuDNN "
    )
