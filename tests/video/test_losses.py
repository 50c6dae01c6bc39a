"""The loss is torch's weighted and smoothed mean, as a sum that can be taken in parts."""

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch import nn

from video.learning.losses import WeightedCrossEntropy, class_weights

LABELS = np.array([0, 2, 1, 2, 2, 0, 1])


def logits_and_reference(
    weights: torch.Tensor, smoothing: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return random logits that take gradients, and torch's loss of them."""
    torch.manual_seed(0)
    logits = torch.randn(len(LABELS), len(weights), requires_grad=True)
    reference = nn.CrossEntropyLoss(weights, label_smoothing=smoothing)
    return logits, reference(logits, torch.from_numpy(LABELS))


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
@pytest.mark.parametrize("weights", [[1.0, 1.0, 1.0], [0.2, 1.5, 3.0]])
def test_the_mean_and_its_gradient_are_those_of_torch(
    weights: list[float], smoothing: float
) -> None:
    logits, expected = logits_and_reference(torch.tensor(weights), smoothing)
    loss = WeightedCrossEntropy(torch.tensor(weights), smoothing)

    mean = loss.sum(logits, loss.targets(LABELS)) / loss.total_weight(LABELS)

    torch.testing.assert_close(mean, expected)
    (ours,) = torch.autograd.grad(mean, logits)
    (theirs,) = torch.autograd.grad(expected, logits)
    torch.testing.assert_close(ours, theirs)


def test_the_sums_of_parts_add_up_to_that_of_the_whole() -> None:
    weights = torch.tensor([0.2, 1.5, 3.0])
    logits, expected = logits_and_reference(weights, 0.1)
    loss = WeightedCrossEntropy(weights, 0.1)

    parts = [
        loss.sum(logits[part], loss.targets(LABELS[part])) for part in (slice(0, 2), slice(2, 7))
    ]

    torch.testing.assert_close(sum(parts) / loss.total_weight(LABELS), expected)


def test_logits_of_half_precision_are_summed_in_single() -> None:
    loss = WeightedCrossEntropy(torch.ones(3), 0.0)
    logits = torch.randn(len(LABELS), 3).bfloat16()

    total = loss.sum(logits, loss.targets(LABELS))

    expected = nn.functional.cross_entropy(
        logits.float(), torch.from_numpy(LABELS), reduction="sum"
    )
    assert total.dtype == torch.float32
    torch.testing.assert_close(total, expected)


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
