"""The packs that stages make: all that decides on their bytes is in their names."""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pytest

from mlops.files.atomic import write_bytes
from stages import create_dataset, generate_augmentations
from stages.create_dataset import pack_name
from video.augmentation.clip import augment_clip
from video.augmentation.config import AugmentationRecipe, Range
from video.clips.frames import ClipRecipe
from video.clips.packs import pack_bytes, pack_key

SHA256 = "ab" * 32
CLIPS = ClipRecipe(
    frames=16, height=64, width=64, fit="letterbox", sampling="dense", fps=15.0, per_video=1
)


# --- create_dataset ----------------------------------------------------------------------------


def test_every_parameter_of_the_clips_gives_other_packs() -> None:
    changes: dict[str, Any] = {
        **{"frames": 8, "height": 32, "width": 32, "fit": "crop"},
        **{"sampling": "uniform", "fps": 12.5, "per_video": 2},
    }
    assert changes.keys() == vars(CLIPS).keys()

    changed = [replace(CLIPS, **{name: value}) for name, value in changes.items()]

    assert len({pack_name(SHA256, clips) for clips in (CLIPS, *changed)}) == 8


def test_a_rate_that_is_not_used_changes_no_pack() -> None:
    uniform = replace(CLIPS, sampling="uniform")

    assert pack_name(SHA256, replace(uniform, fps=12.5)) == pack_name(SHA256, uniform)


def test_another_video_or_decoder_gives_another_pack(monkeypatch: pytest.MonkeyPatch) -> None:
    names = {pack_name(sha256, CLIPS) for sha256 in (SHA256, "cd" * 32)}
    with monkeypatch.context() as patch:
        patch.setattr(create_dataset, "DECODING_VERSION", 0)
        names.add(pack_name(SHA256, CLIPS))
    with monkeypatch.context() as patch:
        patch.setattr(create_dataset, "decoder_versions", lambda: {"av": "0.0"})
        names.add(pack_name(SHA256, CLIPS))

    assert len(names) == 4
    assert pack_name(SHA256, CLIPS) in names


# --- generate_augmentations --------------------------------------------------------------------


def middle(limits: Range, kind: type) -> Any:
    return kind((limits.low + limits.high) / 2)


HINTS = get_type_hints(AugmentationRecipe, include_extras=True)
TASK = generate_augmentations.Task(
    source=f"{pack_key(SHA256, {})}.npy",
    offsets_bytes=(128,),
    clip_sha256s=("12" * 32,),
    shape=(16, 64, 64, 3),
    sha256=SHA256,
    seed=0,
    copies=3,
    recipe=AugmentationRecipe(
        **{name: middle(*hint.__metadata__, hint.__origin__) for name, hint in HINTS.items()}
    ),
)


@pytest.mark.parametrize("name", HINTS)
def test_every_parameter_of_the_recipe_gives_other_copies(name: str) -> None:
    value = getattr(TASK.recipe, name)
    # The upper limit of the scale stays above the lower one.
    changed = value - 1 if isinstance(value, int) else value * (1.01 if "max" in name else 0.99)

    recipes = (TASK.recipe, replace(TASK.recipe, **{name: changed}))
    packs = {replace(TASK, recipe=recipe).pack for recipe in recipes}

    assert len(packs) == 2


@pytest.mark.parametrize(
    "change", [{"source": "other.npy"}, {"sha256": "cd" * 32}, {"seed": 1}, {"copies": 4}]
)
def test_clip_video_seed_and_number_give_other_copies(
    change: dict[str, Any],
) -> None:
    assert replace(TASK, **change).pack != TASK.pack


def test_another_version_of_the_transform_gives_other_copies(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = TASK.pack
    monkeypatch.setattr(generate_augmentations, "TRANSFORM_VERSION", 0)
    assert TASK.pack != name


def test_the_copies_are_numbered_from_nought(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    clip = np.random.default_rng(0).integers(0, 256, TASK.shape, dtype=np.uint8)
    source = pack_bytes(clip[np.newaxis])
    write_bytes(generate_augmentations.PACKS / TASK.source, source)
    task = replace(
        TASK,
        offsets_bytes=(len(source) - clip.nbytes,),
        clip_sha256s=(hashlib.sha256(clip.tobytes()).hexdigest(),),
    )

    rows = generate_augmentations.make_pack(task)

    copies = np.load(generate_augmentations.AUGMENTED_PACKS / task.pack)
    assert rows["clip"].to_list() == [0, 1, 2]
    for number in range(3):
        expected = augment_clip(clip, TASK.recipe, seed=0, video_sha256=SHA256, copy=number)
        np.testing.assert_array_equal(copies[number], expected)
