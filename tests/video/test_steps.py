"""Predictions are probabilities, in the batches' order."""

import numpy as np
import pytest
import torch
from torch import nn

from video.clips.loading import Batch
from video.learning.predict import predict

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


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(24, 3)


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
