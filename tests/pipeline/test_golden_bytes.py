"""Bytes that are promised: the same on every machine with the locked versions.

A digest that changes means that results recorded before can no longer be reproduced. The only
legal way to change one is to raise the version that its comment names and to add a line to
CHANGELOG.md. The augmented clips have their own such test in test_augmentation.py.
"""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl

from mlops.determinism import derive_seed
from mlops.files.canonical import config_hash
from video.clips.frames import uniform_indices
from video.clips.packs import pack_bytes, pack_key
from video.clips.sampling import balanced_order, epoch_order, weighted_order
from video.source.decoding import read_frames
from video.source.inspection import inspect_video
from video.splitting.groups import effective_groups
from video.splitting.splits import assign_splits
from video.synthesis.frames import render_frames
from video.synthesis.plan import SampleRecipe, plan_sample

# 24 frames of 64x48, H.264 in MP4, made once; its bytes never change.
SQUARE = Path(__file__).parents[1] / "support/data/square.mp4"

RECIPE = SampleRecipe(
    num_scenes=3,
    versions_per_scene=3,
    tampered_share=0.4,
    mixed_scene_share=0.5,
    min_duration_sec=1.0,
    max_duration_sec=1.5,
    tampered_time_share=0.67,
    region_area_share=0.33,
    noise_sigma=8.0,
)


def digest(*parts: bytes | str) -> str:
    sha256 = hashlib.sha256()
    for part in parts:
        sha256.update(part.encode() if isinstance(part, str) else part)
    return sha256.hexdigest()[:16]


def test_the_frames_of_the_sample() -> None:
    """video.synthesis.random_streams.VERSION"""
    videos = plan_sample(0, RECIPE)
    frames = [frame.tobytes() for video in videos[:4] for frame in list(render_frames(video))[::5]]
    assert digest(*frames) == "029e166bfefed901"


def test_the_plan_of_the_sample() -> None:
    """video.synthesis.random_streams.VERSION"""
    plan = plan_sample(0, replace(RECIPE, num_scenes=20))  # as many as have every fault
    assert digest(*map(repr, plan)) == "f082a32868043255"


def test_the_pack_of_a_letterboxed_video() -> None:
    """video.clips.frames.DECODING_VERSION"""
    clip = read_frames(
        SQUARE, uniform_indices(24, 8), height=40, width=40, fit="letterbox", timing=None
    ).clip
    assert digest(pack_bytes(clip[np.newaxis])) == "9234fa9a5769f23e"


def test_the_pack_of_a_cropped_video() -> None:
    """video.clips.frames.DECODING_VERSION"""
    clip = read_frames(
        SQUARE, uniform_indices(24, 8), height=40, width=40, fit="crop", timing=None
    ).clip
    assert digest(pack_bytes(clip[np.newaxis])) == "78ee32c3700546f2"


def test_the_fingerprint_of_a_video() -> None:
    """video.splitting.fingerprints.FINGERPRINT_VERSION"""
    assert digest(json.dumps(inspect_video(SQUARE).fingerprint)) == "53ac23c3398fc8b3"


def test_the_key_of_a_pack() -> None:
    assert (
        pack_key("ab" * 32, {"frames": 8, "fit": "crop"})
        == "c943134f9fd7f181d003b7a8c6f98a28865cedb1"
    )


def test_the_splits_of_a_table() -> None:
    """video.splitting.splits.SPLITS_VERSION"""
    videos = pl.DataFrame(
        {
            "sha256": [f"{i:02x}" * 32 for i in range(60)],
            "group": [f"scene {i // 4}" if i % 7 else None for i in range(60)],
            "label": ["a" if i % 3 else "b" for i in range(60)],
        },
        schema_overrides={"label": pl.Enum(["a", "b"])},
    )
    videos = videos.with_columns(group=pl.Series(effective_groups(videos)))
    splits = assign_splits(videos, test_share=0.2, num_folds=5, rebalance=7)
    assert digest(json.dumps(splits.select("group", "split", "fold").rows())) == "0de7616304bcad9a"


def test_the_order_of_an_epoch() -> None:
    orders = [epoch_order(100, seed=3, epoch=2), balanced_order(np.arange(90) % 4, seed=3, epoch=2)]
    assert digest(json.dumps(orders)) == "a48d5ca84b7fa463"


def test_the_weighted_order_of_an_epoch() -> None:
    order = weighted_order(np.arange(100) % 7 + 0.5, seed=3, epoch=2)
    assert digest(json.dumps(order)) == "01dfa1dd63fd3fcf"


def test_the_hash_of_a_configuration() -> None:
    assert config_hash({"b": 1.0, "a": [1e-3, "x", None]})[:16] == "a07ad3780b227df8"


def test_a_derived_seed() -> None:
    assert derive_seed(0, "train", "small3d", 0) == 8175028979887810929
