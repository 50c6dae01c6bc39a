"""The baselines find what the container gives away, and nothing else."""

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray
from sklearn.metrics import balanced_accuracy_score

from stages.evaluate import baseline_probabilities
from video.scoring.baselines import majority_probabilities, metadata_probabilities


def videos(num_rows: int, *, seed: int) -> pl.DataFrame:
    """Draw metadata of containers, independent of any class."""
    generator = np.random.default_rng(seed)
    num_frames = generator.integers(50, 300, num_rows)
    return pl.DataFrame(
        {
            "width": generator.choice([320, 640, 1280], num_rows),
            "height": generator.choice([240, 480, 720], num_rows),
            "fps": generator.choice([24.0, 25.0, 30.0], num_rows),
            "num_frames": num_frames,
            "duration_sec": num_frames / 25.0,
            "size_bytes": num_frames * generator.integers(1000, 3000, num_rows),
        }
    )


def targets_of(num_rows: int, *, seed: int, num_classes: int = 2) -> NDArray[np.int64]:
    return np.random.default_rng(seed).integers(0, num_classes, num_rows)


def score(
    train: pl.DataFrame,
    train_targets: NDArray[np.int64],
    test: pl.DataFrame,
    targets: NDArray[np.int64],
) -> float:
    (probabilities,) = metadata_probabilities(train, train_targets, [test], num_classes=2, seed=0)
    return float(balanced_accuracy_score(targets, probabilities.argmax(axis=1)))


def test_the_majority_has_the_shares_of_training_in_every_row() -> None:
    probabilities = majority_probabilities(np.array([0, 1, 1, 1]), 2, 3)

    np.testing.assert_array_equal(probabilities, [[0.25, 0.75, 0.0], [0.25, 0.75, 0.0]])


@pytest.mark.parametrize("planted", ["width", "fps", "size_bytes"])
def test_the_forest_finds_a_planted_difference(planted: str) -> None:
    train, test = videos(200, seed=1), videos(200, seed=2)
    train_targets, targets = targets_of(200, seed=3), targets_of(200, seed=4)

    def marked(table: pl.DataFrame, labels: NDArray[np.int64]) -> pl.DataFrame:
        """Return the table with seven times as much of it in videos of class 1."""
        return table.with_columns(pl.col(planted) * pl.Series(1 + 6 * labels))

    assert score(marked(train, train_targets), train_targets, marked(test, targets), targets) > 0.95


def test_the_forest_finds_a_difference_in_bytes_a_frame() -> None:
    """Neither the size nor the number of frames tells, only the one over the other."""
    train, test = videos(200, seed=1), videos(200, seed=2)
    train_targets, targets = targets_of(200, seed=3), targets_of(200, seed=4)

    def marked(table: pl.DataFrame, labels: NDArray[np.int64]) -> pl.DataFrame:
        return table.with_columns(size_bytes=pl.col("num_frames") * pl.Series(1000 + 100 * labels))

    assert score(marked(train, train_targets), train_targets, marked(test, targets), targets) > 0.95


def test_the_forest_guesses_where_the_container_tells_nothing() -> None:
    train, test = videos(300, seed=1), videos(600, seed=2)

    found = score(train, targets_of(300, seed=3), test, targets_of(600, seed=4))

    assert found == pytest.approx(0.5, abs=0.06)


def test_the_forest_is_the_same_for_the_same_seed() -> None:
    train, test = videos(60, seed=1), videos(20, seed=2)
    targets = targets_of(60, seed=3)

    first, second = (
        metadata_probabilities(train, targets, [test], num_classes=2, seed=5)[0] for _ in range(2)
    )

    np.testing.assert_array_equal(first, second)


def test_a_class_absent_from_training_has_probability_zero() -> None:
    train, test = videos(60, seed=1), videos(20, seed=2)
    targets = np.where(targets_of(60, seed=3) == 1, 2, 0)

    (probabilities,) = metadata_probabilities(train, targets, [test], num_classes=4, seed=0)

    assert probabilities.shape == (20, 4)
    assert (probabilities[:, [1, 3]] == 0.0).all()
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0)


def test_every_table_gets_its_own_probabilities() -> None:
    train, targets = videos(60, seed=1), targets_of(60, seed=3)

    results = metadata_probabilities(
        train, targets, [videos(20, seed=2), videos(7, seed=4)], num_classes=2, seed=0
    )

    assert [result.shape for result in results] == [(20, 2), (7, 2)]


# --- in the evaluation -------------------------------------------------------------------------


def clips_of(num_rows: int, *, seed: int) -> pl.DataFrame:
    """Make clips as the stage has them, of two classes, one half as wide."""
    facts = videos(num_rows, seed=seed)
    targets = targets_of(num_rows, seed=seed)
    facts = facts.with_columns(width=pl.Series(np.where(targets == 1, 320, 640)))
    return facts.rename(lambda name: f"video_{name}").with_columns(
        label=pl.Series([("real", "fake")[target] for target in targets])
    )


def test_the_baselines_learn_from_the_training_videos_and_judge_the_others() -> None:
    clips = {role: clips_of(200 + i, seed=i) for i, role in enumerate(("train", "val", "test"))}

    found = baseline_probabilities(clips, ["real", "fake"], 0)

    share = (clips["train"]["label"] == "fake").mean()
    for role in ("val", "test"):
        assert found["majority"][role].shape == (clips[role].height, 2)
        np.testing.assert_allclose(found["majority"][role][:, 1], share)
        fake = (clips[role]["label"] == "fake").to_numpy()
        assert ((found["metadata"][role][:, 1] > 0.5) == fake).mean() > 0.95


def test_another_seed_of_the_pipeline_grows_another_forest() -> None:
    clips = {role: clips_of(60, seed=i) for i, role in enumerate(("train", "val", "test"))}

    forests = [
        baseline_probabilities(clips, ["real", "fake"], seed)["metadata"]["test"]
        for seed in (0, 0, 1)
    ]

    assert (forests[0] == forests[1]).all()
    assert (forests[0] != forests[2]).any()
