"""Epoch order as a pure function of (seed, epoch), without the state of a sampler."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Sampling = Literal["shuffled", "balanced", "weighted"]


def sampling_order(
    sampling: Sampling,
    targets: NDArray[np.int64],
    groups: Sequence[str],
    *,
    seed: int,
    epoch: int,
) -> list[int]:
    """Return the row numbers of an epoch, as many as there are rows.

    Every row occurs once (shuffled), or every class (balanced) or every group of near-duplicates
    (weighted) equally often. targets: class numbers, shape (rows,); groups: one name per row.
    """
    if sampling == "balanced":
        return balanced_order(targets, seed=seed, epoch=epoch)
    if sampling == "weighted":
        return weighted_order(group_weights(groups), seed=seed, epoch=epoch)
    return epoch_order(len(targets), seed=seed, epoch=epoch)


def epoch_order(num_clips: int, *, seed: int, epoch: int) -> list[int]:
    """Return a permutation of range(num_clips) that depends on the arguments alone."""
    permutation: list[int] = _generator(seed, epoch).permutation(num_clips).tolist()
    return permutation


def balanced_order(targets: NDArray[np.int64], *, seed: int, epoch: int) -> list[int]:
    """Draw as many rows as `targets` has, with every class equally often.

    Within a class no row is repeated before each has occurred as often.
    """
    generator = _generator(seed, epoch)
    classes = np.unique(targets)
    quotas = np.full(len(classes), len(targets) // len(classes))
    quotas[: len(targets) % len(classes)] += 1
    drawn: list[NDArray[np.int64]] = []
    for label, quota in zip(classes, quotas, strict=True):
        rows = np.flatnonzero(targets == label)
        rounds = -(-quota // len(rows))
        drawn.append(np.concatenate([generator.permutation(rows) for _ in range(rounds)])[:quota])
    order: list[int] = generator.permutation(np.concatenate(drawn)).tolist()
    return order


def weighted_order(weights: NDArray[np.float64], *, seed: int, epoch: int) -> list[int]:
    """Draw as many rows as there are weights, with probability proportional to the weight.

    Systematic resampling: a row expected 1.3 times on average occurs once or twice, never more or
    less, and one of weight 0 never. Raises `ValueError` for weights that are negative, not finite,
    or all 0.
    """
    if not (np.isfinite(weights).all() and (weights >= 0).all() and weights.sum() > 0):
        raise ValueError(
            "weights of the order: expected finite ones >= 0, not all of them 0, got "
            f"{np.min(weights)} to {np.max(weights)}; correct them"
        )
    generator = _generator(seed, epoch)
    # Shuffled before as well: a drawn row makes its neighbors less likely to be drawn.
    rows = generator.permutation(np.flatnonzero(weights))
    ends = np.cumsum(weights[rows])
    picks = (generator.random() + np.arange(len(weights))) * (ends[-1] / len(weights))
    # Rounding may put the last pick on the very end, past the last row.
    drawn = rows[np.searchsorted(ends, picks, side="right").clip(max=len(rows) - 1)]
    order: list[int] = generator.permutation(drawn).tolist()
    return order


def group_weights(groups: Sequence[str]) -> NDArray[np.float64]:
    """Return 1 / (rows of the group) for each row: each group is drawn equally often."""
    sizes = Counter(groups)
    return np.array([1.0 / sizes[group] for group in groups])


def drawn_rows(
    order: Sequence[int], rows: Sequence[Sequence[int]], *, seed: int, epoch: int
) -> list[int]:
    """Return one row of each item in an order, drawn by seed, epoch and place in the order.

    rows: those of each item, for example the clips of a video.
    """
    draws = _generator(seed, epoch, "clip").random(len(order))
    return [
        rows[item][int(draw * len(rows[item]))] for item, draw in zip(order, draws, strict=True)
    ]


def _generator(seed: int, epoch: int, purpose: str = "order") -> np.random.Generator:
    key = hashlib.blake2b(f"{purpose}|{seed}|{epoch}".encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(key, "big")))
