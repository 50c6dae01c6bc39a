"""Online augmentation is a function of seed, epoch and clip."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from mlops.params import section_as
from stages.params import read_params
from video.augmentation.clip import augment_clip
from video.augmentation.config import AugmentationRecipe
from video.clips.loading import ClipSet
from video.clips.packs import pack_bytes, pack_rows
from video.learning.training_data import online_augmentation

HASHES = ["ab" * 32, "cd" * 32]
SEED = 1


@pytest.fixture
def recipe(monkeypatch: pytest.MonkeyPatch) -> AugmentationRecipe:
    monkeypatch.chdir(Path(__file__).parents[2])
    return replace(section_as(read_params().augment, AugmentationRecipe), affine_probability=1.0)


@pytest.fixture
def clip_set(tmp_path: Path) -> ClipSet:
    """Return two videos with the same clip."""
    clip = np.random.default_rng(0).integers(0, 256, (1, 4, 16, 16, 3), dtype=np.uint8)
    (tmp_path / "a.npy").write_bytes(pack_bytes(clip))
    table = pl.concat([pack_rows("a.npy", clip)] * 2).with_columns(
        pl.Series("video_path", ["a.mp4", "b.mp4"]),
        pl.Series("sha256", HASHES),
        pl.Series("label", ["x", "y"]),
        pl.Series("group", ["a", "b"]),
    )
    return ClipSet(table, [tmp_path] * 2, ["x", "y"])


def epoch(recipe: AugmentationRecipe, clip_set: ClipSet, number: int, seed: int = SEED) -> bytes:
    videos = clip_set.table["sha256"]
    augment = online_augmentation(recipe, videos, seed=seed, epoch=number)
    return b"".join(batch.clips.tobytes() for batch in clip_set.batches([0, 1], 1, augment))


def test_an_epoch_is_the_same_every_time(recipe: AugmentationRecipe, clip_set: ClipSet) -> None:
    assert epoch(recipe, clip_set, 3) == epoch(recipe, clip_set, 3)


def test_two_epochs_two_seeds_and_two_videos_differ(
    recipe: AugmentationRecipe, clip_set: ClipSet
) -> None:
    shown = epoch(recipe, clip_set, 3)
    assert epoch(recipe, clip_set, 4) != shown
    assert epoch(recipe, clip_set, 3, SEED + 1) != shown
    assert shown[: len(shown) // 2] != shown[len(shown) // 2 :]


def test_epoch_e_shows_copy_e(recipe: AugmentationRecipe, clip_set: ClipSet) -> None:
    (clip,) = clip_set.read([0])
    copy = augment_clip(clip, recipe, seed=SEED, video_sha256=HASHES[0], copy=3)
    assert epoch(recipe, clip_set, 3).startswith(copy.tobytes())


def test_a_clip_that_is_drawn_again_in_an_epoch_gets_another_copy(
    recipe: AugmentationRecipe, clip_set: ClipSet
) -> None:
    augment = online_augmentation(recipe, clip_set.table["sha256"], seed=SEED, epoch=3)
    batches = clip_set.batches([0] * 20, 4, augment)
    shown = [clip.tobytes() for batch in batches for clip in batch.clips]

    assert len(set(shown)) == 20
    assert epoch(recipe, clip_set, 3).startswith(shown[0])
    assert epoch(recipe, clip_set, 4)[: len(shown[0])] not in shown
