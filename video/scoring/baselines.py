"""Baselines to beat: predictions made without a single pixel."""

from collections.abc import Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestClassifier

METADATA = ("width", "height", "fps", "num_frames", "duration_sec", "bytes_per_frame")


def majority_probabilities(
    train_targets: NDArray[np.int64], num_rows: int, num_classes: int
) -> NDArray[np.float64]:
    """Return the class shares of training for every row; shape (num_rows, num_classes)."""
    counts = np.bincount(train_targets, minlength=num_classes)
    return np.tile(counts / counts.sum(), (num_rows, 1))


def metadata_probabilities(
    train: pl.DataFrame,
    train_targets: NDArray[np.int64],
    tables: Sequence[pl.DataFrame],
    *,
    num_classes: int,
    seed: int,
) -> list[NDArray[np.float64]]:
    """Predict with a random forest that sees only METADATA of each video.

    The tables hold width, height, fps, num_frames, duration_sec and size_bytes. Returns
    probabilities of shape (rows, num_classes) for each of `tables`. Classes have equal weight, for
    the best balanced accuracy.
    """
    forest = RandomForestClassifier(
        n_estimators=300, min_samples_leaf=3, class_weight="balanced", random_state=seed, n_jobs=1
    )
    forest.fit(_features(train), train_targets)
    results = []
    for table in tables:
        probabilities = np.zeros((table.height, num_classes))
        probabilities[:, forest.classes_] = forest.predict_proba(_features(table))
        results.append(probabilities)
    return results


def _features(table: pl.DataFrame) -> NDArray[np.float64]:
    with_rate = table.with_columns(bytes_per_frame=pl.col("size_bytes") / pl.col("num_frames"))
    return with_rate.select(METADATA).to_numpy().astype(np.float64)
