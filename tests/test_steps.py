"""A step changes the weights by its batch, or not at all; predictions are probabilities."""

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch import nn

from video.loading import Batch
from video.steps import NonFiniteLossError, class_weights, predict, train_step

CPU = torch.device("cpu")


class Flat(nn.Module):
    """uint8 clips to float vectors."""

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        return clips.flatten(1).float() / 255.0


def batch_of(num_clips: int = 6, *, seed: int = 0) -> Batch:
    generator = np.random.default_rng(seed)
    clips = generator.integers(0, 256, (num_clips, 2, 2, 2, 3), dtype=np.uint8)
    return Batch(clips=clips, labels=np.arange(num_clips) % 3, rows=range(num_clips))


def logits_of(model: nn.Module, batch: Batch) -> torch.Tensor:
    logits: torch.Tensor = model(Flat()(torch.from_numpy(batch.clips)))
    return logits


def loss_of_batch(model: nn.Module, batch: Batch) -> torch.Tensor:
    return nn.functional.cross_entropy(logits_of(model, batch), torch.from_numpy(batch.labels))


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(24, 3)


def step(model: nn.Module, optimizer: torch.optim.Optimizer, loss_of: Any, batch: Batch) -> float:
    return train_step(model, Flat(), optimizer, loss_of, batch, CPU)


# --- steps -------------------------------------------------------------------------------------


def test_a_step_is_the_optimizers_on_the_gradient_of_the_batch(model: nn.Module) -> None:
    reference = copy.deepcopy(model)
    batch = batch_of()
    loss_of_batch(reference, batch).backward()  # type: ignore[no-untyped-call]

    step(model, torch.optim.SGD(model.parameters(), lr=0.5), nn.CrossEntropyLoss(), batch)

    for ours, theirs in zip(model.parameters(), reference.parameters(), strict=True):
        assert theirs.grad is not None
        torch.testing.assert_close(ours.data, theirs.data - 0.5 * theirs.grad, rtol=0, atol=0)


def test_a_step_forgets_the_gradient_of_the_one_before(model: nn.Module) -> None:
    reference = copy.deepcopy(model)
    for name, steps in ((model, 2), (reference, 1)):
        optimizer = torch.optim.SGD(name.parameters(), lr=0.0)
        for seed in range(2 - steps, 2):
            step(name, optimizer, nn.CrossEntropyLoss(), batch_of(seed=seed))

    for ours, theirs in zip(model.parameters(), reference.parameters(), strict=True):
        assert ours.grad is not None
        assert theirs.grad is not None
        assert torch.equal(ours.grad, theirs.grad)


def test_a_step_reports_the_loss_before_it(model: nn.Module) -> None:
    batch = batch_of()
    expected = loss_of_batch(model, batch).item()

    loss = step(model, torch.optim.SGD(model.parameters(), lr=9.0), nn.CrossEntropyLoss(), batch)

    assert loss == pytest.approx(expected)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_no_number_stops_before_anything_changed(
    model: nn.Module, value: float
) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    step(model, optimizer, nn.CrossEntropyLoss(), batch_of())
    before = copy.deepcopy([model.state_dict(), optimizer.state_dict()])

    def broken(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return logits.sum() * value

    with pytest.raises(NonFiniteLossError, match=f"the loss is -?{value}"):
        step(model, optimizer, broken, batch_of(seed=1))

    torch.testing.assert_close([model.state_dict(), optimizer.state_dict()], before, rtol=0, atol=0)


# --- class weights -----------------------------------------------------------------------------


@pytest.mark.parametrize("counts", [[5, 5], [90, 9, 1], [1, 2, 3, 4]])
def test_class_weights_are_those_of_scikit_learn(counts: list[int]) -> None:
    targets = np.repeat(np.arange(len(counts)), counts)

    expected = compute_class_weight("balanced", classes=np.arange(len(counts)), y=targets)

    np.testing.assert_allclose(class_weights(targets, len(counts)), expected, rtol=1e-6)


def test_class_weights_are_one_on_average_over_the_clips() -> None:
    targets = np.array([0] * 7 + [1] * 2 + [2])

    assert class_weights(targets, 3)[targets].mean().item() == pytest.approx(1.0)


def test_a_class_without_clips_has_a_finite_weight() -> None:
    assert class_weights(np.array([0, 0, 1]), 3).isfinite().all()


# --- predictions -------------------------------------------------------------------------------


def test_probabilities_come_in_the_batches_order(model: nn.Module) -> None:
    batches = [batch_of(4, seed=1), batch_of(2, seed=2)]

    probabilities = predict(model, Flat(), batches, CPU)

    with torch.no_grad():
        logits = torch.cat([logits_of(model, batch) for batch in batches])
    expected = logits.double().softmax(1)
    np.testing.assert_allclose(probabilities, expected, rtol=1e-6)


def test_probabilities_sum_to_one(model: nn.Module) -> None:
    np.testing.assert_allclose(
        predict(model, Flat(), [batch_of()], CPU).sum(axis=1), 1.0, atol=1e-15
    )


def test_predictions_do_not_depend_on_the_batch_they_are_made_in() -> None:
    """Neither dropout nor the batch's statistics are at work."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm1d(24), nn.Dropout(0.5), nn.Linear(24, 3)).train()
    whole = batch_of(6)
    halves = [
        Batch(clips=whole.clips[part], labels=whole.labels[part], rows=range(3))
        for part in (slice(0, 3), slice(3, 6))
    ]

    together, apart = (predict(model, Flat(), parts, CPU) for parts in ([whole], halves))

    np.testing.assert_allclose(together, apart, rtol=1e-6)
