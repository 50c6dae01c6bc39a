"""Coverage of intervals, and claims of more than luck where it is luck, simulated.

    python -m benchmarks.coverage [--draws 20000]

Each group of videos gets a chance of being right, by the beta distribution with the intraclass
correlation of the table. Prints the tables of docs/defending_a_score.md.
"""

import argparse
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mlops.stage import run_command
from video.scoring.intervals import (
    Array,
    GroupedScore,
    Variance,
    difference_interval,
    grouped_score,
    score_interval,
)

CORRELATIONS = (0.0, 0.1, 0.3)
CELLS = [
    (groups, videos, accuracy)
    for groups in (8, 20)
    for videos in (6, 30)
    for accuracy in (0.7, 0.9)
]
LUCK_ACCURACIES = (0.5, 0.7, 0.85, 0.95)
LUCK_CELLS = [
    (groups, videos, accuracy)
    for groups in (5, 8, 30)
    for videos in (6, 30)
    for accuracy in LUCK_ACCURACIES
]
# The correlation of the model's errors, that of the baseline's, and whether in the same groups.
RIVALS = {
    "independent errors": (0.0, 0.0, False),
    "clustered, each by itself": (0.3, 0.3, False),
    "clustered in the same groups": (0.3, 0.3, True),
    "the model's alone clustered": (0.3, 0.0, False),
}

Sizes = NDArray[np.int64]  # videos of each of two classes in each group: shape (groups, 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--draws", type=int, default=20_000)
    draws = parser.parse_args().draws
    columns = [f"{correlation:g}" for correlation in CORRELATIONS]
    print_table("groups × videos, accuracy", columns)
    for groups, videos, accuracy in CELLS:
        shares = [coverage(even(groups, videos), accuracy, of, draws) for of in CORRELATIONS]
        print_row(f"{groups} × {videos}, {accuracy}", shares)
    print_table("20 groups, accuracy 0.9", columns)
    for name, sizes in uneven(20, 30).items():
        print_row(name, [coverage(sizes, 0.9, of, draws) for of in CORRELATIONS])
    print_table("folds, deviation by training", ["groups alone", "groups and folds"])
    for folds in (2, 3, 5):
        for deviation in (0.0, 0.02, 0.06):
            print_row(f"{folds}, {deviation}", coverage_over_folds(folds, deviation, draws))
    print_table("groups × videos, accuracy of both", list(RIVALS))
    for groups, videos, accuracy in LUCK_CELLS:
        sizes = even(groups, videos)
        shares = [claims(sizes, (accuracy, accuracy), name, draws) for name in RIVALS]
        print_row(f"{groups} × {videos}, {accuracy}", shares)


def print_table(first: str, columns: Sequence[str]) -> None:
    print(f"\n| {' | '.join([first, *columns])} |\n|{' --- |' * (1 + len(columns))}")


def print_row(name: str, shares: Sequence[float]) -> None:
    print(f"| {' | '.join([name, *(f'{share:.3f}' for share in shares)])} |", flush=True)


def even(groups: int, videos: int) -> Sizes:
    return np.full((groups, 2), videos // 2)


def uneven(groups: int, videos: int) -> dict[str, Sizes]:
    """Return groups of one class each, a class that is in two groups alone, and shrinking ones."""
    place = np.arange(groups)
    shrinking = np.maximum(1, videos * 0.7**place).astype(int)
    return {
        "a class in each group": videos * np.eye(2, dtype=int)[place % 2],
        "a class in two groups alone": videos * np.eye(2, dtype=int)[(place > 1).astype(int)],
        "each group 0.7 of the one before": np.stack([shrinking, shrinking], axis=1),
    }


def chances(
    generator: np.random.Generator, accuracy: float, correlation: float, shape: tuple[int, ...]
) -> Array:
    if correlation == 0:
        return np.full(shape, accuracy)
    strength = 1 / correlation - 1
    return generator.beta(accuracy * strength, (1 - accuracy) * strength, shape)


def score(
    right: NDArray[np.int64], sizes: Sizes, metric: str = "balanced_accuracy"
) -> GroupedScore:
    """Return the score of draws of right videos, shape (draws, groups, 2 or more ratios)."""
    wrong = sizes - right
    sides = {
        "accuracy": (right.sum(-1, keepdims=True), sizes.sum(-1, keepdims=True)),
        "balanced_accuracy": (right, sizes),
        "f1_macro": (2 * right, sizes + right + wrong[..., ::-1]),
    }[metric]
    videos = sizes[:, :2].sum(axis=0)
    alike = videos.sum() if metric == "accuracy" else 4 / (1 / videos).sum()
    return grouped_score(*(side.astype(np.float64) for side in sides), num_videos=float(alike))


def coverage(
    sizes: Sizes, accuracy: float, correlation: float, draws: int, metric: str = "balanced_accuracy"
) -> float:
    """Return the share of draws whose interval holds the true accuracy, that of both classes."""
    generator = np.random.default_rng(0)
    chance = chances(generator, accuracy, correlation, (draws, len(sizes)))
    right = generator.binomial(sizes, chance[..., None])
    return held(score(right, sizes, metric), accuracy)


def held(found: GroupedScore, truth: float, *more: Variance) -> float:
    low, high = score_interval(found, *more)
    return float(np.mean((low <= truth) & (truth <= high)))


def coverage_over_folds(folds: int, deviation: float, draws: int) -> tuple[float, float]:
    """Return the coverage for a mean over folds whose models are better or worse by chance.

    Twenty groups of 30 videos are the test set of all; the mean accuracy is 0.7.
    """
    generator = np.random.default_rng(0)
    sizes = even(20, 30)
    chance = chances(generator, 0.7, 0.1, (draws, len(sizes)))
    each = [
        generator.binomial(sizes, np.clip(chance + change[:, None], 0, 1)[..., None])
        for change in generator.normal(0, deviation, (folds, draws))
    ]
    values = np.stack([score(right, sizes).value for right in each])
    found = score(np.concatenate(each, axis=-1), np.tile(sizes, folds))
    variance = values.var(axis=0, ddof=1) * (1 / folds + 1 / (folds - 1))
    return held(found, 0.7), held(found, 0.7, (variance, folds - 1))


def claims(sizes: Sizes, accuracies: tuple[float, float], rival: str, draws: int) -> float:
    """Return the share of draws in which a model is said to be better than its baseline."""
    generator = np.random.default_rng(0)
    *correlations, together = RIVALS[rival]
    shape = (draws, len(sizes))
    own, other = (
        chances(generator, accuracy, correlation, shape)
        for accuracy, correlation in zip(accuracies, correlations, strict=True)
    )
    model, baseline = (
        score(generator.binomial(sizes, chance[..., None]), sizes)
        for chance in (own, own if together else other)
    )
    low, _ = difference_interval(model, baseline)
    return float(np.mean(low > 0))


if __name__ == "__main__":
    run_command("coverage", main)
