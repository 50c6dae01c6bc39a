"""A step changes the weights by its whole batch or not at all; a loaded learner goes on exactly."""

import copy
import io
import math
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from video.clips.loading import Batch
from video.learning.learner import Learner, NonFiniteLossError, UnsuitableOptionError
from video.learning.losses import WeightedCrossEntropy
from video.learning.optimizer_config import OptimizerConfig
from video.models.classifiers import Normalize, build_model, head_of
from video.models.registry import MODULES
from video.models.shape import ModelShape

CPU = torch.device("cpu")
WEIGHTS = torch.tensor([0.5, 1.0, 2.5])
NUM_BATCHES = 5

PLAIN = OptimizerConfig(
    epochs=4,
    batch_size=10,
    micro_batches=1,
    precision="float32",
    compile=False,
    learning_rate=0.05,
    schedule="constant",
    step_epochs=1,
    step_factor=0.1,
    warmup_steps=0,
    weight_decay=0.1,
    clip_norm=0.0,
    ema_decay=0.0,
    frozen_epochs=0,
    label_smoothing=0.0,
)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


class Flat(nn.Module):
    """uint8 clips to float vectors."""

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        return clips.flatten(1).float() / 255.0


class Scaled(nn.Module):
    """Logits times a factor that a test may set, behind running statistics and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(24)
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(24, 3)
        self.factor = 1.0

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.dropout(self.norm(vectors)))
        return logits * self.factor


def batch_of(num_clips: int = 10, *, seed: int = 0, shape: tuple[int, ...] = (2, 2, 2)) -> Batch:
    generator = np.random.default_rng(seed)
    clips = generator.integers(0, 256, (num_clips, *shape, 3), dtype=np.uint8)
    labels = generator.integers(0, 3, num_clips)
    return Batch(clips=clips, labels=labels, rows=range(num_clips))


def linear() -> nn.Module:
    """Build a model without batch normalization, so that parts of a batch are independent."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(24, 8), nn.Tanh(), nn.Linear(8, 3))


def learner_of(model: nn.Module, options: OptimizerConfig = PLAIN, **changes: Any) -> Learner:
    return Learner(
        model,
        Flat(),
        replace(options, **changes),
        head=[list(model.children())[-1]],
        loss=WeightedCrossEntropy(WEIGHTS, options.label_smoothing),
        num_batches=NUM_BATCHES,
        device=CPU,
    )


def small3d_learner(**changes: Any) -> Learner:
    return video_learner("small3d", **changes)


def video_learner(name: str, **changes: Any) -> Learner:
    torch.manual_seed(0)
    model = build_model(name, ModelShape(num_classes=3, frames=8, height=32, width=32, dropout=0.5))
    return Learner(
        model,
        Normalize(name),
        replace(PLAIN, **changes),
        head=head_of(name, model),
        loss=WeightedCrossEntropy(WEIGHTS, 0.0),
        num_batches=NUM_BATCHES,
        device=CPU,
    )


def video_batch(num_clips: int = 6, *, seed: int = 0) -> Batch:
    return batch_of(num_clips, seed=seed, shape=(8, 32, 32))


def reference_loss(model: nn.Module, batch: Batch) -> torch.Tensor:
    logits = model(Flat()(torch.from_numpy(batch.clips)))
    return nn.functional.cross_entropy(logits, torch.from_numpy(batch.labels), WEIGHTS)


def reference_steps(
    model: nn.Module, count: int, change: Callable[[nn.Module], Any] = lambda _: None
) -> None:
    """Run the plain loop of PLAIN; `change` comes between the backward pass and the step."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05, weight_decay=0.1)
    for seed in range(count):
        optimizer.zero_grad()
        reference_loss(model, batch_of(seed=seed)).backward()  # type: ignore[no-untyped-call]
        change(model)
        optimizer.step()


def tensors(model: nn.Module) -> list[torch.Tensor]:
    return [tensor.clone() for tensor in model.state_dict().values()]


def assert_same(first: Any, second: Any) -> None:
    torch.testing.assert_close(first, second, rtol=0, atol=0)


# --- one step ----------------------------------------------------------------------------------


def test_steps_are_those_of_the_plain_loop() -> None:
    reference, learner = linear(), learner_of(linear())
    reference_steps(reference, 4)

    for seed in range(4):
        learner.step(batch_of(seed=seed))

    torch.testing.assert_close(tensors(learner.model), tensors(reference))


def test_a_step_reports_the_loss_before_it() -> None:
    learner = learner_of(linear())
    expected = reference_loss(learner.model, batch_of()).item()

    assert learner.step(batch_of()) == pytest.approx(expected)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_no_number_stops_before_anything_changed(value: float) -> None:
    model = Scaled()
    learner = learner_of(model, ema_decay=0.9)
    learner.step(batch_of())
    before = copy.deepcopy([learner.state_dict(), torch.get_rng_state()])

    model.factor = value
    with pytest.raises(NonFiniteLossError, match=r"the loss is -?(nan|inf)"):
        learner.step(batch_of(seed=1))

    assert_same([learner.state_dict(), torch.get_rng_state()], before)


@pytest.mark.parametrize("num_clips", [10, 11, 7, 2])
@pytest.mark.parametrize("micro_batches", [2, 4, 5])
def test_a_step_in_parts_is_that_of_the_whole_batch(num_clips: int, micro_batches: int) -> None:
    whole, parts = learner_of(linear()), learner_of(linear(), micro_batches=micro_batches)

    losses = [learner.step(batch_of(num_clips)) for learner in (whole, parts)]

    assert losses[0] == pytest.approx(losses[1])
    gradients = [[p.grad for p in learner.model.parameters()] for learner in (whole, parts)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize(
    ("num_clips", "micro_batches", "expected"),
    [
        (10, 1, [10]),
        (11, 1, [11]),
        (10, 2, [5, 5]),
        (10, 3, [3, 3, 4]),
        (11, 2, [5, 6]),
        (7, 2, [3, 4]),
        (3, 2, [3]),
        (3, 5, [3]),  # 2 and 1 without batch normalization
        (5, 5, [2, 3]),
        (1, 5, [1]),
    ],
)
def test_a_batch_is_cut_evenly_and_never_into_single_clips_for_batch_normalization(
    num_clips: int, micro_batches: int, expected: list[int]
) -> None:
    model = nn.Sequential(nn.Linear(24, 3), nn.BatchNorm1d(3))
    learner = learner_of(model, micro_batches=micro_batches)
    seen: list[int] = []
    model[0].register_forward_hook(lambda *arguments: seen.append(len(arguments[2])))
    if num_clips == 1:
        model[1] = nn.Identity()  # one clip alone is no batch to normalize

    learner.step(batch_of(num_clips))

    assert seen == expected


def test_a_model_without_batch_normalization_takes_single_clips() -> None:
    model = linear()
    seen: list[int] = []
    model.register_forward_hook(lambda *arguments: seen.append(len(arguments[2])))

    learner_of(model, micro_batches=10).step(batch_of())

    assert seen == [1] * 10


# --- options -----------------------------------------------------------------------------------


def test_clipping_is_that_of_torch() -> None:
    reference, learner = linear(), learner_of(linear(), clip_norm=0.01)
    reference_steps(reference, 3, lambda m: nn.utils.clip_grad_norm_(m.parameters(), 0.01))

    for seed in range(3):
        learner.step(batch_of(seed=seed))

    torch.testing.assert_close(tensors(learner.model), tensors(reference))


@pytest.mark.parametrize("clip_norm", [0.0, 1.0])
def test_an_infinite_gradient_of_a_finite_loss_reaches_no_weight(clip_norm: float) -> None:
    model = linear()
    learner = learner_of(model, clip_norm=clip_norm)
    before = tensors(model)
    model[0].weight.register_hook(lambda gradient: gradient * math.inf)

    with pytest.raises(NonFiniteLossError, match="the norm of the gradient is"):
        learner.step(batch_of())

    assert_same(tensors(model), before)


def test_every_step_takes_the_learning_rate_of_its_schedule() -> None:
    learner = learner_of(linear(), schedule="step", warmup_steps=3, step_factor=0.5)
    rates = []
    for seed in range(12):
        learner.step(batch_of(seed=seed))
        (group,) = learner.state_dict()["optimizer"]["param_groups"]
        rates.append(group["lr"])
        assert learner.epoch_metrics == {"learning_rate": rates[-1]}

    expected = [1 / 3, 2 / 3, 1, 1, 1, *[0.5] * NUM_BATCHES, 0.25, 0.25]
    assert rates == pytest.approx([0.05 * share for share in expected])


def test_the_learning_rate_of_an_epoch_is_that_of_its_last_step() -> None:
    learner = learner_of(linear(), schedule="cosine", warmup_steps=3)
    rates = []
    for epoch in range(4):
        learner.start_epoch(epoch)
        for seed in range(NUM_BATCHES):
            learner.step(batch_of(seed=seed))
        rates.append(learner.epoch_metrics["learning_rate"])

    # Of 20 steps the first 3 warm up, and step 20 would have 0.
    shares = [(1 + math.cos(math.pi * (step - 3) / 17)) / 2 for step in (4, 9, 14, 19)]
    assert rates == pytest.approx([0.05 * share for share in shares])


def test_the_moving_average_is_that_of_a_loop() -> None:
    model = Scaled()
    learner = learner_of(model, ema_decay=0.3)
    averages = {name: value.double() for name, value in learner.model.state_dict().items()}

    for number in range(1, 7):
        learner.step(batch_of(seed=number))
        kept = min(0.3, (1 + number) / (10 + number))
        for name, value in model.state_dict().items():
            averages[name] = kept * averages[name] + (1 - kept) * value.double()

    found = learner.evaluated.state_dict()
    assert found.pop("norm.num_batches_tracked") == 6
    del averages["norm.num_batches_tracked"]
    for name, value in found.items():
        torch.testing.assert_close(value.double(), averages[name], rtol=1e-5, atol=1e-7)
    assert learner.evaluated is not learner.model


def test_without_an_average_the_model_itself_is_evaluated() -> None:
    learner = learner_of(linear())
    assert learner.evaluated is learner.model


@pytest.mark.parametrize("name", MODULES)
def test_of_a_frozen_model_the_head_alone_moves(name: str) -> None:
    learner = video_learner(name, frozen_epochs=1)
    before = copy.deepcopy(learner.model.state_dict())
    for epoch in (0, 1):
        learner.start_epoch(epoch)
        learner.step(video_batch(2))
        moved = {
            key for key, value in learner.model.state_dict().items() if (value != before[key]).any()
        }
        heads = {key for key in before if key.startswith(("fc.", "head.", "classifier."))}
        if epoch == 0:
            assert moved == heads
    assert moved > heads


def test_a_frozen_backbone_keeps_its_running_statistics_and_later_moves_them() -> None:
    learner = small3d_learner(frozen_epochs=2)
    before = [buffer.clone() for buffer in learner.model.buffers()]
    for epoch in (0, 1):
        learner.start_epoch(epoch)
        learner.step(video_batch())
        assert_same(list(learner.model.buffers()), before)

    learner.start_epoch(2)
    learner.step(video_batch())

    after = list(learner.model.buffers())
    assert all((old != new).any() for old, new in zip(before, after, strict=True))


def test_an_epoch_after_a_validation_trains_again() -> None:
    learner = small3d_learner()
    learner.evaluated.eval()

    learner.start_epoch(1)

    assert all(part.training for part in learner.model.modules())


@pytest.mark.parametrize("name", MODULES)
def test_steps_of_every_model_repeat_under_deterministic_algorithms(name: str) -> None:
    """On a CPU: which kernels of a GPU are refused is not seen here."""
    torch.use_deterministic_algorithms(True)
    try:
        found = []
        for _ in range(2):
            learner = video_learner(name)
            learner.step(video_batch(2))
            found.append(tensors(learner.model))
    finally:
        torch.use_deterministic_algorithms(False)

    assert_same(*found)


# --- memory ------------------------------------------------------------------------------------


class Hungry(nn.Sequential):
    """A model without memory for more than three clips at once."""

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        if len(clips) > 3:
            torch.empty(1 << 60, dtype=torch.uint8)
        logits: torch.Tensor = super().forward(clips)
        return logits


def test_a_step_that_is_taken_again_in_smaller_parts_counts_once() -> None:
    changes: dict[str, Any] = {"schedule": "cosine", "warmup_steps": 2, "ema_decay": 0.5}
    hungry = learner_of(Hungry(*linear()), **changes)
    parts = learner_of(linear(), micro_batches=5, **changes)  # 10 clips halved twice
    for seed in range(6):
        losses = [learner.step(batch_of(seed=seed)) for learner in (hungry, parts)]
        assert losses[0] == losses[1]
        assert hungry.epoch_metrics == parts.epoch_metrics

    assert [event.next_micro_batch for event in hungry.events] == [5, 2]
    assert_same(hungry.state_dict(), parts.state_dict())


# --- what the machine cannot do ----------------------------------------------------------------


def test_float16_is_refused_on_a_cpu() -> None:
    with pytest.raises(UnsuitableOptionError) as caught:
        small3d_learner(precision="float16")
    assert str(caught.value) == (
        "train.precision: expected float32 or bfloat16 on the device cpu, got float16, which only "
        "GPUs train with; write float32"
    )


def test_compilation_without_a_compiler_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UnsuitableOptionError) as caught:
        small3d_learner(compile=True)
    assert str(caught.value) == (
        "train.compile: expected a C++ compiler named no-such-compiler, got none; install one, "
        "name it in the environment variable CXX, or write false"
    )


def test_bfloat16_computes_the_forward_pass_and_leaves_the_weights_in_single() -> None:
    learner, single = small3d_learner(precision="bfloat16"), small3d_learner()
    seen = []
    learner.model.register_forward_hook(lambda *arguments: seen.append(arguments[2].dtype))

    losses = [each.step(video_batch()) for each in (learner, single)]

    assert seen == [torch.bfloat16]
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)
    assert {p.dtype for p in learner.model.parameters()} == {torch.float32}


def scaled_learner(*, scale: float = 65536.0) -> Learner:
    """Return a learner that scales its loss as with float16, which itself takes a GPU."""
    changes: dict[str, Any] = {"schedule": "cosine", "warmup_steps": 3, "ema_decay": 0.5}
    learner = learner_of(linear(), **changes)
    learner._scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=4)
    return learner


def steps_with_overflow(learner: Learner, seeds: range, *, overflow: set[int]) -> list[float]:
    losses = []
    for seed in seeds:
        factor = math.inf if seed in overflow else 1.0
        hook = learner.model.get_parameter("0.weight").register_hook(lambda g, f=factor: g * f)
        losses.append(learner.step(batch_of(seed=seed)))
        hook.remove()
    return losses


def test_a_step_that_the_scaler_skips_moves_neither_schedule_nor_average() -> None:
    learner, other = scaled_learner(), scaled_learner()

    steps_with_overflow(learner, range(9), overflow={0, 3, 4})
    for seed in (1, 2, 5, 6, 7, 8):
        other.step(batch_of(seed=seed))

    assert learner.epoch_metrics["learning_rate"] == other.epoch_metrics["learning_rate"]
    assert learner.steps_done == other.steps_done == 6
    assert_same(tensors(learner.model), tensors(other.model))
    assert_same(tensors(learner.evaluated), tensors(other.evaluated))


def test_clipping_is_of_the_gradient_without_the_scale() -> None:
    plain, scaled = (learner_of(linear(), clip_norm=0.01) for _ in range(2))
    scaled._scaler = torch.amp.GradScaler("cpu")
    for seed in range(3):
        losses = [learner.step(batch_of(seed=seed)) for learner in (plain, scaled)]
        assert losses[0] == losses[1]
    assert_same(tensors(scaled.model), tensors(plain.model))


def test_an_epochs_skipped_steps_and_scale_are_among_its_metrics() -> None:
    learner = scaled_learner(scale=1024.0)
    found = []
    for epoch in (0, 1, 2):
        learner.start_epoch(epoch)
        seeds = range(5 * epoch, 5 * epoch + 5)
        steps_with_overflow(learner, seeds, overflow={0, 3, 5})
        metrics = learner.epoch_metrics
        found.append((metrics["skipped_steps"], metrics["loss_scale"]))

    # Halved three times, and doubled after steps 9 and 13, each the fourth in a row that was taken.
    assert found == [(2, 256.0), (1, 256.0), (0, 512.0)]


@pytest.mark.parametrize("first", [3, 5, 8])
def test_skipped_steps_and_scale_come_back_with_the_state(first: int) -> None:
    overflow = {1, 4, 6, 9}
    learner = scaled_learner()
    learner.start_epoch(1)
    steps_with_overflow(learner, range(first), overflow=overflow)
    state = saved_and_loaded(learner.state_dict())
    steps_with_overflow(learner, range(first, 15), overflow=overflow)

    other = scaled_learner(scale=2.0)
    other.load_state_dict(state)
    other.start_epoch(1)  # as a training that goes on within the epoch
    steps_with_overflow(other, range(first, 15), overflow=overflow)

    assert_same(other.state_dict(), learner.state_dict())
    assert other.epoch_metrics == learner.epoch_metrics
    assert other.epoch_metrics["skipped_steps"] == 4


def test_a_gradient_that_no_scale_makes_finite_ends_the_training() -> None:
    learner = scaled_learner(scale=4.0)
    before = tensors(learner.model)
    with pytest.raises(NonFiniteLossError, match="the gradient is not finite, at a scale of the"):
        steps_with_overflow(learner, range(9), overflow={*range(9)})
    assert_same(tensors(learner.model), before)
    assert learner.epoch_metrics["skipped_steps"] == 2


@pytest.mark.skipif(not torch.cuda.is_available(), reason="float16 is for GPUs, and here is none")
def test_with_float16_an_infinite_gradient_leaves_the_step_out() -> None:
    device = torch.device("cuda")
    torch.manual_seed(0)
    model = linear().to(device)
    learner = Learner(
        model,
        Flat(),
        replace(PLAIN, precision="float16", clip_norm=1.0),
        head=[],
        loss=WeightedCrossEntropy(WEIGHTS, 0.0),
        num_batches=NUM_BATCHES,
        device=device,
    )
    before, scale = tensors(model), learner.state_dict()["scaler"]["scale"]
    hook = model[0].weight.register_hook(lambda gradient: gradient * math.inf)

    learner.step(batch_of())

    assert_same(tensors(model), before)
    assert learner.state_dict()["scaler"]["scale"] == scale / 2
    hook.remove()
    learner.step(batch_of())
    assert any(not torch.equal(*pair) for pair in zip(tensors(model), before, strict=True))


# --- state -------------------------------------------------------------------------------------


def saved_and_loaded(state: dict[str, Any]) -> Any:
    stream = io.BytesIO()
    torch.save(state, stream)
    stream.seek(0)
    return torch.load(stream, weights_only=True)


def assert_goes_on_exactly(**changes: Any) -> Learner:
    """Break off after two steps of the second epoch, and compare what follows bit for bit."""
    learner = small3d_learner(**changes)
    for seed in range(3):
        learner.step(video_batch(seed=seed))
    learner.start_epoch(1)
    for seed in range(3, 5):
        learner.step(video_batch(seed=seed))
    state = saved_and_loaded({"learner": learner.state_dict(), "rng": torch.get_rng_state()})
    expected = [learner.step(video_batch(seed=seed)) for seed in range(5, 9)]

    other = small3d_learner(**changes)
    other.load_state_dict(state["learner"])
    torch.set_rng_state(state["rng"])

    assert [other.step(video_batch(seed=seed)) for seed in range(5, 9)] == expected
    assert_same(other.state_dict(), learner.state_dict())
    assert_same(tensors(other.evaluated), tensors(learner.evaluated))
    return other


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"warmup_steps": 7, "ema_decay": 0.9, "clip_norm": 0.5, "schedule": "cosine"},
        {"precision": "bfloat16", "micro_batches": 2},
        {"frozen_epochs": 1},
        {"frozen_epochs": 2, "ema_decay": 0.9},
    ],
    ids=str,
)
def test_a_loaded_learner_takes_the_same_steps(changes: dict[str, Any]) -> None:
    assert_goes_on_exactly(**changes)


def test_a_loaded_learner_keeps_the_parts_that_fitted() -> None:
    learner, other = small3d_learner(), small3d_learner()
    learner.micro_batch = 3

    other.load_state_dict(saved_and_loaded(learner.state_dict()))

    assert other.micro_batch == 3


@pytest.mark.skipif(
    shutil.which(os.environ.get("CXX", "g++")) is None, reason="no C++ compiler on this machine"
)
def test_a_compiled_model_learns_the_same_under_the_same_names() -> None:
    plain, compiled = small3d_learner(), small3d_learner(compile=True)
    losses = []
    for learner in (plain, compiled):
        torch.manual_seed(1)
        learner.model.get_submodule("dropout").p = 0.0  # drawn in another way when compiled
        losses.append([learner.step(video_batch(6, seed=seed)) for seed in range(3)])

    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    assert compiled.model.state_dict().keys() == plain.model.state_dict().keys()
    assert_goes_on_exactly(compile=True)


@pytest.mark.skipif(
    shutil.which(os.environ.get("CXX", "g++")) is None, reason="no C++ compiler on this machine"
)
def test_there_is_a_graph_for_every_number_of_clips_and_none_runs_without() -> None:
    from torch._dynamo import config

    with config.patch(recompile_limit=8):
        learner = learner_of(linear(), compile=True, batch_size=300)
        # Parts of 1 to 301 clips, in frozen epochs and in others.
        assert min(config.recompile_limit, config.accumulated_recompile_limit) >= 602
        config.recompile_limit = 1
        learner.step(batch_of(3))
        with pytest.raises(UnsuitableOptionError) as caught:
            learner.step(batch_of(4))
    assert str(caught.value) == (
        "train.compile: expected at most 1 graphs of this model, one for each number of clips, got "
        "more; write false"
    )
