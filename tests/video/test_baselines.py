"""The baselines find what the container gives away, and nothing else."""

from dataclasses import fields
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray
from sklearn.metrics import balanced_accuracy_score

from stages.evaluate import baseline_probabilities
from tests.support.encoded import Making, write_video
from video.scoring.baselines import METADATA, majority_probabilities, metadata_probabilities
from video.source.facts import VideoFacts, facts_table
from video.source.inspection import inspect_video


def videos(num_rows: int, *, seed: int) -> pl.DataFrame:
    """Draw facts of files, independent of any class."""
    generator = np.random.default_rng(seed)
    num_frames = generator.integers(50, 300, num_rows)
    drawn = {
        "width": generator.choice([320, 640, 1280], num_rows),
        "height": generator.choice([240, 480, 720], num_rows),
        "fps": generator.choice([24.0, 25.0, 30.0], num_rows),
        "num_frames": num_frames,
        "duration_sec": num_frames / 25.0,
        "size_bytes": num_frames * generator.integers(1000, 3000, num_rows),
        "codec": generator.choice(["h264", "vp9", "mpeg4"], num_rows),
        "key_frame_pts": [list(range(n)) for n in generator.integers(1, 9, num_rows)],
    }
    plain = facts_table([VideoFacts(verdict="ok", reason="", sha256="", size_bytes=0)] * num_rows)
    return plain.with_columns(pl.Series(name, values) for name, values in drawn.items())


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


# The timing of ten frames, of class 0 and of class 1.
TIMINGS = {
    "key_frame_pts": ([0, 5], [0, 2, 4, 6, 8]),
    "packet_pts": (list(range(10)), [0, 2, 1, 4, 3, 6, 5, 8, 7, 9]),
    "frame_pts": (list(range(10)), [0, 1, 2, 3, 4, 9, 10, 11, 12, 13]),
}


@pytest.mark.parametrize("name", TIMINGS)
def test_the_forest_finds_a_difference_in_timing(name: str) -> None:
    train_targets, targets = targets_of(200, seed=3), targets_of(200, seed=4)

    def marked(seed: int, drawn: NDArray[np.int64]) -> pl.DataFrame:
        told = pl.Series([TIMINGS[name][target] for target in drawn], dtype=pl.List(pl.Int64))
        return videos(200, seed=seed).with_columns(told.alias(name))

    assert score(marked(1, train_targets), train_targets, marked(2, targets), targets) > 0.95


# What tells the classes apart, and nothing else does: the files of class 0 and those of class 1.
PLANTED = {
    "codec": ({"encoder": "libx264"}, {"encoder": "mpeg4"}),
    "container": ({"suffix": "mkv"}, {"suffix": "mp4"}),
    "brand of one container": ({"suffix": "mov"}, {"suffix": "mp4"}),
    "pixel format": ({"pixel_format": "yuv420p"}, {"pixel_format": "yuv444p"}),
    "sound": ({}, {"audio_rate": 44100}),
    "rate of the sound": ({"audio_rate": 22050}, {"audio_rate": 44100}),
    "distance of key frames": ({"key_frame_distance": 12}, {"key_frame_distance": 3}),
    "frame rate": ({"fps": 24}, {"fps": 25}),
}


@pytest.mark.parametrize("makings", PLANTED.values(), ids=PLANTED)
def test_what_a_file_tells_without_pixels_is_found_in_real_files(
    makings: tuple[dict[str, object], dict[str, object]], tmp_path: Path
) -> None:
    train_targets, targets = targets_of(30, seed=1), targets_of(30, seed=2)

    def encoded(drawn: NDArray[np.int64], first_seed: int) -> pl.DataFrame:
        names = (tmp_path / str(first_seed + number) for number in range(len(drawn)))
        return facts_table(
            inspect_video(write_video(name, Making(**makings[target]), seed=int(name.name)))
            for name, target in zip(names, drawn, strict=True)
        )

    assert score(encoded(train_targets, 0), train_targets, encoded(targets, 100), targets) > 0.97


def test_every_fact_is_given_to_the_baseline_but_pixels_and_names() -> None:
    of_pixels = {"frame_crc32", "fingerprint"}
    facts = {field.name for field in fields(VideoFacts)}
    # The sha256 is a name, the reason a sentence on the verdict.
    assert set(METADATA) == facts - of_pixels - {"sha256", "reason"}


def test_a_category_that_training_has_not_seen_is_no_error() -> None:
    train, test = videos(60, seed=1), videos(20, seed=2).with_columns(codec=pl.lit("av1"))

    (probabilities,) = metadata_probabilities(
        train, targets_of(60, seed=3), [test], num_classes=2, seed=0
    )

    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0)


def test_the_forest_guesses_where_the_container_tells_nothing() -> None:
    found = [
        score(
            videos(300, seed=seed),
            targets_of(300, seed=seed + 10),
            videos(600, seed=seed + 20),
            targets_of(600, seed=seed + 30),
        )
        for seed in range(4)
    ]

    assert np.mean(found) == pytest.approx(0.5, abs=0.03)


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


def clips_of(num_rows: int, *, seed: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Make clips and facts as the stage has them, of two classes, one half as wide."""
    facts = videos(num_rows, seed=seed)
    targets = targets_of(num_rows, seed=seed)
    names = pl.Series("video_path", [f"{seed}/{number}.mp4" for number in range(num_rows)])
    facts = facts.with_columns(names, width=pl.Series(np.where(targets == 1, 320, 640)))
    labels = pl.Series("label", [("real", "fake")[target] for target in targets])
    return pl.DataFrame([names, labels]), facts.sample(fraction=1.0, shuffle=True, seed=0)


def guesses(sizes: dict[str, int], seed: int = 0) -> tuple[dict[str, pl.DataFrame], dict]:
    made = {role: clips_of(size, seed=i) for i, (role, size) in enumerate(sizes.items())}
    clips = {role: table for role, (table, _) in made.items()}
    facts = pl.concat(of for _, of in made.values())
    return clips, baseline_probabilities(clips, facts, ["real", "fake"], seed)


def test_the_baselines_learn_from_the_training_videos_and_judge_the_others() -> None:
    clips, found = guesses({"train": 200, "val": 201, "test": 202})

    share = (clips["train"]["label"] == "fake").mean()
    for role in ("val", "test"):
        assert found["majority"][role].shape == (clips[role].height, 2)
        np.testing.assert_allclose(found["majority"][role][:, 1], share)
        fake = (clips[role]["label"] == "fake").to_numpy()
        assert ((found["metadata"][role][:, 1] > 0.5) == fake).mean() > 0.95


def test_another_seed_of_the_pipeline_grows_another_forest() -> None:
    sizes = {"train": 60, "val": 60, "test": 60}

    forests = [guesses(sizes, seed)[1]["metadata"]["test"] for seed in (0, 0, 1)]

    assert (forests[0] == forests[1]).all()
    assert (forests[0] != forests[2]).any()
