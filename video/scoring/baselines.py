"""Baselines to beat: predictions made without a single pixel."""

from collections.abc import Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray
from sklearn.compose import make_column_transformer
from sklearn.ensemble import RandomForestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

# Columns of data/videos.parquet: all that a file tells without its pictures.
NUMBERS = (
    *("width", "height", "rotation", "mirrored", "interlaced", "pixel_aspect"),
    *("fps", "num_frames", "declared_frames", "duration_sec", "size_bytes"),
    *("num_corrupt_frames", "num_size_changes", "num_hidden_frames"),
    *("length_known", "timing_proven"),
    *("num_streams", "stream_index", "audio_rate", "audio_channels"),
)
CATEGORIES = (
    *("verdict", "container", "written_by", "codec", "profile", "pixel_format", "color_tags"),
    *("time_base", "audio_codec"),
)
TIMING = ("packet_pts", "frame_pts", "end_pts", "key_frame_pts")
METADATA = (*NUMBERS, *CATEGORIES, *TIMING)

MIN_VIDEOS = 3  # of a leaf, and of a category beside "any other"


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

    The tables hold these columns. Returns probabilities of shape (rows, num_classes) for each of
    `tables`. Classes have equal weight, for the best balanced accuracy.
    """
    forest = RandomForestClassifier(
        n_estimators=300,
        min_samples_leaf=MIN_VIDEOS,
        max_features=0.5,  # of few videos, fewer facts a split miss the one that tells
        class_weight="balanced",
        random_state=seed,
        n_jobs=1,
    )
    categories = OneHotEncoder(min_frequency=MIN_VIDEOS, handle_unknown="infrequent_if_exist")
    model = make_pipeline(
        make_column_transformer((categories, CATEGORIES), remainder="passthrough"), forest
    )
    model.fit(_features(train), train_targets)
    results = []
    for table in tables:
        probabilities = np.zeros((table.height, num_classes))
        probabilities[:, forest.classes_] = model.predict_proba(_features(table))
        results.append(probabilities)
    return results


def _features(table: pl.DataFrame) -> pl.DataFrame:
    """Return the numbers and categories, with rates, the distance of key frames and the timing."""
    ticks = pl.col("frame_pts").list.diff()
    numbers = {
        "bytes_per_frame": pl.col("size_bytes") / pl.col("num_frames"),
        "bytes_per_sec": pl.col("size_bytes") / pl.col("duration_sec"),
        "key_frame_distance": pl.col("num_frames") / pl.col("key_frame_pts").list.len(),
        "reordered": pl.col("packet_pts").list.diff().list.min() < 0,
        "longest_frame": ticks.list.max() / ticks.list.min(),
    }
    found = table.select(*NUMBERS, **numbers).cast(pl.Float64).fill_null(0.0).fill_nan(0.0)
    # Trees need no scale, only an order: a rate that is infinite lies above all others.
    bounded = found.select(pl.all().clip(-1e30, 1e30))
    return bounded.hstack(table.select(pl.col(CATEGORIES).fill_null("")))
