"""Predictions are probabilities, in the batches' order."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from video.clips.loading import Batch
from video.learning.predict import predict

ROOT = Path(__file__).parents[2]

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


# --- memory ------------------------------------------------------------------------------------

# Predicts 32 clips that take 16 MB each on the way, within so many megabytes more than there are.
LIMITED = """
import resource, sys
from pathlib import Path
import torch
from tests.video.test_steps import CPU, Flat, batch_of
from torch import nn
from video.learning.predict import predict

torch.set_num_threads(1)
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(24, 4_000_000), nn.AvgPool1d(2_000_000))
whole = predict(model, Flat(), [batch_of(32), batch_of(5)], CPU)
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
limit = used + int(sys.argv[1]) * 10**6
resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
parts = predict(model, Flat(), [batch_of(32), batch_of(5)], CPU)
assert abs(whole - parts).max() < 1e-6
print("predicted", len(parts))
"""


def within(megabytes: int) -> str:
    result = subprocess.run(
        [sys.executable, "-c", LIMITED, str(megabytes)],
        cwd=ROOT,
        text=True,
        capture_output=True,
        check=False,
    )
    return result.stdout + result.stderr


def test_a_batch_that_does_not_fit_is_predicted_in_parts() -> None:
    assert within(150) == "predicted 37\n"


def test_a_clip_that_does_not_fit_is_refused_with_a_remedy() -> None:
    output = within(2)

    assert (
        "TooLittleMemoryError: prediction of one clip: expected memory for it, got none" in output
    )
    assert "take smaller clips, a smaller model, or a machine with more memory" in output


def test_another_error_is_no_lack_of_memory(model: nn.Module) -> None:
    class Broken(nn.Module):
        def forward(self, clips: torch.Tensor) -> torch.Tensor:
            return clips.flatten(1).float()[:, :7]

    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        predict(model, Broken(), [batch_of()], CPU)
