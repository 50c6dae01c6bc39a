"""Processes that train one model: each takes its share, and together they take one step."""

import copy
import os
import signal
import threading
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from mlops.processes.group import LostProcessError, ProcessGroup
from mlops.processes.signals import StopFlag, StoppedError
from tests.support.ranks import together
from video.clips.loading import Batch
from video.learning.learner import Learner
from video.learning.losses import WeightedCrossEntropy
from video.learning.memory import OutOfMemory, TooLittleMemoryError
from video.learning.optimizer_config import OptimizerConfig
from video.models.classifiers import Normalize, head_of
from video.models.small3d import Small3D

CPU = torch.device("cpu")
OPTIONS: dict[str, Any] = {
    "epochs": 4,
    "batch_size": 12,
    "micro_batches": 1,
    "precision": "float32",
    "compile": False,
    "learning_rate": 0.05,
    "schedule": "constant",
    "step_epochs": 1,
    "step_factor": 0.1,
    "warmup_steps": 0,
    "weight_decay": 0.1,
    "clip_norm": 1.0,
    "ema_decay": 0.9,
    "frozen_epochs": 0,
    "label_smoothing": 0.1,
}


@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("count", [0, 1, 3, 10, 11])
def test_shares_are_each_thing_once_and_of_about_one_size(size: int, count: int) -> None:
    shares = [range(count)[ProcessGroup(rank=rank, size=size).shard(count)] for rank in range(size)]
    assert [thing for share in shares for thing in share] == [*range(count)]
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def sums(group: ProcessGroup, sizes: list[int]) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(group.rank)
    tensors = [torch.randn(size, 3, generator=generator) for size in sizes]
    tensors.append(torch.full((2,), float(group.rank), dtype=torch.float64))
    group.all_reduce_(tensors)
    return tensors


def test_sums_are_the_same_bits_in_every_process() -> None:
    sizes = [1, 700_000, 5, 2_000_000, 7]  # more than a piece
    first, second, third = together(sums, sizes, size=3)
    expected = []
    for rank in range(3):
        generator = torch.Generator().manual_seed(rank)
        expected.append([torch.randn(size, 3, generator=generator) for size in sizes])
    for i in range(len(sizes)):
        assert torch.equal(first[i], second[i])
        assert torch.equal(first[i], third[i])
        torch.testing.assert_close(first[i], expected[0][i] + expected[1][i] + expected[2][i])
    assert first[-1].tolist() == [3.0, 3.0]


def spread_and_joined(group: ProcessGroup) -> Any:
    tensors = [torch.full((2,), float(group.rank)), torch.tensor(group.rank)]
    group.broadcast_(tensors)
    state = (
        {"weights": torch.arange(3), "step": 7, "best": {"loss": 0.5}} if group.is_main else None
    )
    received = group.broadcast_state(state, CPU)
    joined = group.all_gather(np.full((group.rank, 2), group.rank, np.float64))
    return tensors, received, joined.tolist()


def test_what_the_first_process_has_reaches_all_and_parts_are_joined_in_order() -> None:
    for tensors, received, joined in together(spread_and_joined, size=3):
        assert [tensor.tolist() for tensor in tensors] == [[0.0, 0.0], 0]
        assert received["weights"].tolist() == [0, 1, 2]
        assert (received["step"], received["best"]) == (7, {"loss": 0.5})
        assert joined == [[1.0, 1.0], [2.0, 2.0], [2.0, 2.0]]


def told_to_stop(group: ProcessGroup) -> tuple[str, int]:
    stop = StopFlag()
    for _ in range(3):
        group.raise_if_stopped(stop)
    if group.rank == 1:
        os.kill(os.getpid(), signal.SIGUSR1)
    try:
        group.raise_if_stopped(stop)
    except StoppedError as error:
        return error.reason, error.exit_code
    return "not stopped", 0


def test_a_signal_to_one_process_stops_all_at_the_same_place() -> None:
    first, second = together(told_to_stop)
    assert first == ("a signal to another of its processes", 75)
    assert second == ("SIGUSR1", 75)


def told_while_asking(group: ProcessGroup) -> tuple[list[int], int]:
    """Return the rounds passed and the exit code. The second process is told to stop after it
    has reported that it was not, while it waits for the first."""
    stop, passed = StopFlag(), []
    try:
        for number in range(3):
            if number == 1 and group.rank == 0:
                time.sleep(0.6)
            elif number == 1:
                threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGUSR1)).start()
            group.raise_if_stopped(stop)
            passed.append(number)
    except StoppedError as error:
        return passed, error.exit_code
    return passed, 0


def test_a_signal_while_the_processes_ask_each_other_counts_the_next_time() -> None:
    assert together(told_while_asking) == [([0, 1], 75), ([0, 1], 75)]


def items_until_told(group: ProcessGroup) -> list[int]:
    stop, seen = StopFlag(), []
    try:
        # The second one has an item more, before which the first cannot be asked.
        for item in group.checked(range(3 + group.rank), stop, count=3):
            seen.append(item)
            if group.rank == item == 1:
                os.kill(os.getpid(), signal.SIGUSR1)
    except StoppedError:
        return seen
    return [-1]


def all_items(group: ProcessGroup) -> list[int]:
    return list(group.checked(range(3 + group.rank), StopFlag(), count=3))


def test_items_that_are_checked_end_in_all_processes_before_the_same_one() -> None:
    assert together(items_until_told) == [[0, 1], [0, 1]]
    assert together(all_items) == [[0, 1, 2], [0, 1, 2, 3]]


def learner_of(
    group: ProcessGroup, kind: type[Small3D] = Small3D, *, dropout: float = 0.0, **changes: Any
) -> Learner:
    torch.manual_seed(0)
    model = kind(num_classes=3, channels=(4, 4, 4), dropout=dropout)
    return Learner(
        model,
        Normalize("small3d"),
        OptimizerConfig(**OPTIONS | changes),
        head=head_of("small3d", model),
        loss=WeightedCrossEntropy(torch.tensor([0.5, 1.0, 2.5]), 0.1),
        num_batches=5,
        device=CPU,
        collective=group,
    )


def own_share(learner: Learner, num_clips: int, *, seed: int) -> Batch:
    """Return a batch as the loader gives it to one of several processes."""
    whole, share = batch_of(num_clips, seed=seed), learner.share(num_clips)
    return Batch(clips=whole.clips[share], labels=whole.labels, rows=whole.rows, share=share)


def steps(group: ProcessGroup, changes: dict[str, Any], sizes: list[int]) -> Any:
    """Return the losses of some steps, the parameters after them, and the last part's size."""
    learner = learner_of(group, **changes)
    losses = [
        learner.step(own_share(learner, size, seed=number)) for number, size in enumerate(sizes)
    ]
    learner.broadcast_statistics()
    return losses, learner.model.state_dict(), learner.evaluated.state_dict()


def batch_of(num_clips: int, *, seed: int) -> Batch:
    generator = np.random.default_rng(seed)
    clips = generator.integers(0, 256, (num_clips, 3, 16, 16, 3), dtype=np.uint8)
    return Batch(clips=clips, labels=generator.integers(0, 3, num_clips), rows=range(num_clips))


@pytest.mark.parametrize("sizes", [[12, 12, 12], [13, 2, 3, 7]], ids=["whole", "left over"])
def test_steps_of_two_processes_are_those_of_one_in_two_parts(sizes: list[int]) -> None:
    """Up to rounding; the running statistics are the first process's."""
    losses, weights, average = steps(ProcessGroup(), {"micro_batches": 2}, sizes)
    (first, second) = together(steps, {}, sizes)
    assert first[0] == second[0]
    np.testing.assert_allclose(first[0], losses, rtol=1e-4)
    for name, tensor in first[1].items():
        assert torch.equal(tensor, second[1][name]), name
        assert torch.equal(first[2][name], second[2][name]), name
        if "running" not in name and "batches" not in name:
            torch.testing.assert_close(tensor, weights[name], rtol=2e-3, atol=2e-4)
            torch.testing.assert_close(first[2][name], average[name], rtol=2e-3, atol=2e-4)


def test_two_processes_take_the_same_steps_twice() -> None:
    once, again = (together(steps, {}, [12, 12, 13])[0] for _ in range(2))
    assert once[0] == again[0]
    assert all(torch.equal(tensor, again[1][name]) for name, tensor in once[1].items())


class Hungry(Small3D):
    """Has no memory for more than three clips at once."""

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        if len(clips) > 3:
            torch.empty(1 << 60, dtype=torch.uint8)
        return super().forward(clips)


def hungry_steps(group: ProcessGroup) -> tuple[list[float], list[OutOfMemory], dict[str, Any]]:
    learner = learner_of(group, Hungry if group.rank == 1 else Small3D)
    losses = [learner.step(own_share(learner, 12, seed=number)) for number in range(3)]
    return losses, learner.events, learner.state_dict()


def hungry_steps_with_a_break(group: ProcessGroup) -> tuple[list[float], dict[str, Any]]:
    """Run the same steps, the last ones in processes with enough memory, from the first
    process's state before it."""
    learner = learner_of(group, Hungry if group.rank == 1 else Small3D)
    losses = [learner.step(own_share(learner, 12, seed=number)) for number in range(2)]
    state = group.broadcast_state(learner.state_dict() if group.is_main else None, CPU)
    resumed = learner_of(group)
    resumed.load_state_dict(state)
    losses.append(resumed.step(own_share(resumed, 12, seed=2)))
    return losses, resumed.state_dict()


def test_a_process_without_memory_takes_smaller_parts_while_the_others_wait() -> None:
    (first, no_events, _), (second, events, _) = together(hungry_steps)
    assert first == second
    assert no_events == []
    assert [(event.micro_batch, event.next_micro_batch) for event in events] == [(6, 3)]


def test_the_state_of_one_process_is_that_of_all_when_another_has_run_out_of_memory() -> None:
    losses, _, state = together(hungry_steps)[0]
    again, resumed = together(hungry_steps_with_a_break)[0]
    assert state["micro_batch"] == resumed["micro_batch"] == 3
    assert losses == again
    assert all(torch.equal(tensor, resumed["model"][key]) for key, tensor in state["model"].items())


class Full(ProcessGroup):
    """A process without memory for what it is to sum."""

    def all_reduce_(self, tensors: Sequence[torch.Tensor]) -> None:
        super().all_reduce_([torch.zeros(1).expand(1 << 60), *tensors])


def step_without_memory_for_the_sum(group: ProcessGroup) -> tuple[str, str, bool]:
    if group.rank == 1:
        group = Full(rank=group.rank, size=group.size)
    learner = learner_of(group, dropout=0.5)
    before = copy.deepcopy([learner.state_dict(), torch.get_rng_state()])
    try:
        learner.step(own_share(learner, 12, seed=0))
    except (TooLittleMemoryError, LostProcessError) as error:
        after = [learner.state_dict(), torch.get_rng_state()]
        return type(error).__name__, str(error), str(before) == str(after)
    return "", "", False


def test_memory_that_runs_out_in_a_sum_is_no_lost_process() -> None:
    first, second = together(step_without_memory_for_the_sum)
    assert (first[0], second[0]) == ("LostProcessError", "TooLittleMemoryError")
    assert second[1].startswith(
        "the sum of the gradients over the processes: expected memory for it, got none ("
    )
    assert "can't allocate memory" in second[1]
    assert first[2]
    assert second[2]


def steps_until_the_other_dies(group: ProcessGroup) -> Any:
    learner = learner_of(group, dropout=0.5)
    for number in range(3):
        before = {name: tensor.clone() for name, tensor in learner.model.state_dict().items()}
        if (number, group.rank) == (2, 1):
            raise RuntimeError("ends here")
        try:
            learner.step(own_share(learner, 12, seed=number))
        except LostProcessError as error:
            after = learner.model.state_dict()
            return str(error), all(torch.equal(before[name], after[name]) for name in before)
    return None


def test_a_step_whose_other_process_has_ended_leaves_all_as_it_was() -> None:
    (message, is_as_before), other = together(steps_until_the_other_dies)
    assert other == "ends here"
    assert message.startswith("expected all processes of this training to go on, got the end of")
    assert is_as_before
