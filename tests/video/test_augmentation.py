"""The bytes of an augmented clip are a function of its arguments; every operation does its work."""

import dataclasses
import hashlib
import math
import multiprocessing
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy._core import _multiarray_umath as numpy_core

from video.augmentation import pixels as pixels_module
from video.augmentation import random_streams as draws_module
from video.augmentation.clip import augment_clip
from video.augmentation.config import AugmentationRecipe
from video.augmentation.parameters import (
    Affine,
    AugmentationParameters,
    Cutout,
    Jitter,
    sample_parameters,
)
from video.augmentation.pixels import CUTOUT_GRAY, Clip, apply_parameters
from video.augmentation.random_streams import TRANSFORM_VERSION, RandomStreams

OPERATIONS = [
    "rotation",
    "affine",
    "flip",
    "jitter",
    "noise",
    "blur",
    "cutout",
    "elastic",
    "frame_drop",
    "frame_duplication",
    "reversal",
]

NOTHING = AugmentationRecipe(
    **{f"{operation}_probability": 0.0 for operation in OPERATIONS},
    rotation_max_deg=30.0,
    scale_min=0.8,
    scale_max=1.25,
    translate_max_share=0.1,
    shear_max_deg=10.0,
    brightness_max=0.2,
    contrast_max=0.3,
    saturation_max=0.5,
    hue_max_turn=0.1,
    noise_max_sigma=12.0,
    blur_max_sigma_px=2.0,
    cutout_max_share=0.5,
    elastic_max_px=4.0,
    elastic_grid=4,
    frame_drop_max_share=0.3,
    frame_duplication_max_share=0.3,
)
EVERYTHING = dataclasses.replace(
    NOTHING, **{f"{operation}_probability": 1.0 for operation in OPERATIONS}
)
VIDEO = hashlib.sha256(b"a video").hexdigest()
OTHER_VIDEO = hashlib.sha256(b"another video").hexdigest()
DRAWS = RandomStreams.of(seed=0, video_sha256=VIDEO, copy=0)


def only(operation: str, **limits: float) -> AugmentationRecipe:
    return dataclasses.replace(NOTHING, **{f"{operation}_probability": 1.0}, **limits)


def video_clip(frames: int = 8, height: int = 48, width: int = 64) -> Clip:
    """Draw smooth colors that drift, with a square of hard edges: exact integers everywhere."""
    t, y, x, c = np.ogrid[:frames, :height, :width, :3]
    waves = 40 + abs((3 * x + 5 * t + 40 * c) % 256 - 128) + abs((2 * y + 30 * c) % 128 - 64)
    square = (abs(x - 10 - 2 * t) < 6) & (abs(y - height // 2) < 6)
    return np.where(square, 250 - 60 * c, waves).astype(np.uint8)


def augment(
    clip: Clip,
    recipe: AugmentationRecipe,
    *,
    seed: int = 0,
    video_sha256: str = VIDEO,
    copy: int = 0,
) -> Clip:
    return augment_clip(clip, recipe, seed=seed, video_sha256=video_sha256, copy=copy)


def applied(clip: Clip, **parameters: Any) -> Clip:
    frames = tuple(range(len(clip)))
    return apply_parameters(clip, AugmentationParameters(source_frames=frames, **parameters), DRAWS)


def sampled(recipe: AugmentationRecipe, *, copies: int, num_frames: int = 16) -> Any:
    for copy in range(copies):
        draws = RandomStreams.of(seed=0, video_sha256=VIDEO, copy=copy)
        yield sample_parameters(recipe, draws, num_frames)


def digest_of(job: tuple[int, int]) -> str:
    """Hash one copy, with everything on; at module level, for spawned processes."""
    width, copy = job
    return hashlib.sha256(augment(video_clip(width=width), EVERYTHING, copy=copy)).hexdigest()


JOBS = [(width, copy) for width in (64, 112, 37) for copy in range(4)]


# --- What determines the bytes ----------------------------------------------------------------


def test_the_same_arguments_give_the_same_bytes() -> None:
    assert digest_of((64, 0)) == digest_of((64, 0))


@pytest.mark.parametrize("change", [{"seed": 1}, {"video_sha256": OTHER_VIDEO}, {"copy": 1}])
@pytest.mark.parametrize("recipe", [EVERYTHING, only("noise"), only("elastic")])
def test_seed_video_and_copy_each_change_the_bytes(
    recipe: AugmentationRecipe, change: dict[str, Any]
) -> None:
    clip = video_clip()
    assert not np.array_equal(augment(clip, recipe), augment(clip, recipe, **change))


def test_the_transform_version_changes_the_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    before = digest_of((64, 0))
    monkeypatch.setattr(draws_module, "TRANSFORM_VERSION", TRANSFORM_VERSION + 1)
    assert digest_of((64, 0)) != before


def test_neighboring_seeds_and_copies_are_no_shifts_of_each_other() -> None:
    identities = [
        RandomStreams.of(seed=seed, video_sha256=VIDEO, copy=copy)
        for seed in range(12)
        for copy in range(12)
    ]
    assert len({draws.stream("noise").random_raw() for draws in identities}) == 144


def test_the_order_of_the_clips_changes_no_byte() -> None:
    forwards = {job: digest_of(job) for job in JOBS}
    backwards = {job: digest_of(job) for job in reversed(JOBS)}
    assert forwards == backwards


def test_spawned_processes_give_the_same_bytes() -> None:
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=2, mp_context=spawn) as pool:
        shuffled = JOBS[::2] + JOBS[1::2]
        assert list(pool.map(digest_of, shuffled)) == [digest_of(job) for job in shuffled]


REPORT = """
import cv2, numpy
from numpy._core import _multiarray_umath as core
from test_augmentation import JOBS, digest_of
print(sum(core.__cpu_features__[name] for name in core.__cpu_dispatch__))
print(len([name for name in cv2.getCPUFeaturesLine().split() if name[0] == "*" != name[-1] != "?"]))
print(*[digest_of(job) for job in JOBS])
"""


def test_a_processor_without_vector_extensions_gives_the_same_bytes() -> None:
    opencv_extensions = re.findall(r"\*([\w.-]+)", cv2.getCPUFeaturesLine())
    numpy_extensions = [
        name for name in numpy_core.__cpu_dispatch__ if numpy_core.__cpu_features__[name]
    ]
    here = Path(__file__).resolve().parent
    without = os.environ | {
        "OPENCV_CPU_DISABLE": ",".join(opencv_extensions),
        "OPENCV_IPP": "disabled",
        "NPY_DISABLE_CPU_FEATURES": " ".join(numpy_extensions),
        "PYTHONPATH": os.pathsep.join([str(here), str(here.parents[1])]),
    }
    child = subprocess.run(
        [sys.executable, "-c", REPORT], env=without, capture_output=True, text=True, check=False
    )
    assert child.returncode == 0, child.stderr
    numpy_left, opencv_left, *digests = child.stdout.split()
    assert (numpy_left, opencv_left) == ("0", "0"), "the extensions were not switched off"
    assert digests == [digest_of(job) for job in JOBS]


@pytest.fixture
def opencv_settings() -> Iterator[None]:
    num_threads, optimized = cv2.getNumThreads(), cv2.useOptimized()
    yield
    cv2.setNumThreads(num_threads)
    cv2.setUseOptimized(optimized)


@pytest.mark.usefixtures("opencv_settings")
def test_opencv_without_its_optimized_code_gives_the_same_bytes() -> None:
    before = [digest_of(job) for job in JOBS]
    cv2.setUseOptimized(False)
    assert [digest_of(job) for job in JOBS] == before


@pytest.mark.usefixtures("opencv_settings")
@pytest.mark.parametrize("num_threads", [0, 1, 2])
def test_opencv_threads_change_no_byte(num_threads: int) -> None:
    before = [digest_of(job) for job in JOBS]
    cv2.setNumThreads(num_threads)
    assert [digest_of(job) for job in JOBS] == before


GOLDEN = {1: "faafcadcdab27674c1e471c1d5279e60a5aa210348596ed1c2b2e1f2d06c9c91"}


def test_the_bytes_of_this_transform_version_are_the_published_ones() -> None:
    digests = "".join(digest_of(job) for job in JOBS)
    found = {TRANSFORM_VERSION: hashlib.sha256(digests.encode()).hexdigest()}
    assert found == GOLDEN, (
        "augmented clips have other bytes than those stored under this version: raise "
        "TRANSFORM_VERSION, put the new digest here and add a line to the changelog"
    )


def test_sine_and_cosine_are_right_to_the_last_digits() -> None:
    for angle_deg in np.linspace(-180, 180, 721).tolist():
        sine, cosine = pixels_module._sine_cosine(angle_deg)
        assert sine == pytest.approx(math.sin(math.radians(angle_deg)), abs=1e-13)
        assert cosine == pytest.approx(math.cos(math.radians(angle_deg)), abs=1e-13)


# --- Input and output -------------------------------------------------------------------------


def test_with_all_probabilities_zero_a_clip_keeps_its_bytes_in_new_memory() -> None:
    clip = video_clip()
    copy = augment(clip, NOTHING)
    assert np.array_equal(copy, clip)
    assert not np.shares_memory(copy, clip)


def test_with_all_limits_zero_a_clip_keeps_its_bytes() -> None:
    recipe = dataclasses.replace(
        EVERYTHING,
        flip_probability=0.0,
        reversal_probability=0.0,
        rotation_max_deg=0.0,
        scale_min=1.0,
        scale_max=1.0,
        translate_max_share=0.0,
        shear_max_deg=0.0,
        brightness_max=0.0,
        contrast_max=0.0,
        saturation_max=0.0,
        hue_max_turn=0.0,
        noise_max_sigma=0.0,
        blur_max_sigma_px=0.0,
        cutout_max_share=0.0,
        elastic_max_px=0.0,
        frame_drop_max_share=0.0,
        frame_duplication_max_share=0.0,
    )
    assert np.array_equal(augment(video_clip(), recipe), video_clip())


def test_the_given_clip_is_left_as_it_is() -> None:
    clip = video_clip()
    clip.flags.writeable = False
    augment(clip, EVERYTHING)
    assert np.array_equal(clip, video_clip())


@pytest.mark.parametrize("recipe", [EVERYTHING, NOTHING])
def test_the_memory_layout_of_the_given_clip_changes_no_byte(recipe: AugmentationRecipe) -> None:
    clip = video_clip()
    channels_first = np.ascontiguousarray(clip.transpose(3, 0, 1, 2)).transpose(1, 2, 3, 0)
    for same in (np.asfortranarray(clip), channels_first, np.repeat(clip, 2, axis=2)[:, :, ::2]):
        augmented = augment(same, recipe)
        assert augmented.flags.c_contiguous
        assert np.array_equal(augmented, augment(clip, recipe))


@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (1, 2, 2), (2, 1, 9), (3, 9, 1), (5, 7, 3), (64, 5, 6), (2, 3, 700)]
)
def test_every_shape_of_clip_keeps_its_shape(shape: tuple[int, int, int]) -> None:
    clip = video_clip(*shape)
    for copy in range(5):
        augmented = augment(clip, EVERYTHING, copy=copy)
        assert (augmented.shape, augmented.dtype) == (clip.shape, np.uint8)
        assert augmented.flags.c_contiguous


@pytest.mark.parametrize("frames", [1, 2, 16, 31, 32, 33, 70])
@pytest.mark.parametrize("operation", ["rotation", "elastic", "blur", "jitter"])
def test_a_frame_comes_out_the_same_in_a_clip_of_any_length(operation: str, frames: int) -> None:
    recipe = only(operation)
    clip = video_clip(frames, 12, 9)
    alone = [augment(frame[np.newaxis], recipe)[0] for frame in clip]
    assert np.array_equal(augment(clip, recipe), alone)
    assert not np.array_equal(alone, clip)


@pytest.mark.parametrize("angle_deg", range(-180, 181, 15))
def test_the_widest_limits_on_the_largest_frame_fit_the_map(angle_deg: int) -> None:
    farthest = AugmentationParameters(
        source_frames=(0,), rotation_deg=angle_deg, affine=Affine(0.5, 45.0, 0.5, 0.5)
    )
    side = pixels_module.MAX_SIDE_PX
    # The map is linear: a row and a column of pixels reach together as far as the whole frame.
    row, _ = pixels_module._source_map(farthest, DRAWS, 1, side)
    column, _ = pixels_module._source_map(farthest, DRAWS, side, 1)
    reach = abs(row.astype(int)).max() + abs(column.astype(int)).max()
    assert side < reach < np.iinfo(np.int16).max - 64  # the most that elastic adds


BAD_CLIPS = {
    "floats": (np.zeros((4, 8, 8, 3), np.float32), "uint8.*got float32 of shape (4, 8, 8, 3)"),
    "a batch": (np.zeros((2, 4, 8, 8, 3), np.uint8), "got uint8 of shape (2, 4, 8, 8, 3)"),
    "a batch of 3 columns": (np.zeros((2, 4, 8, 3, 3), np.uint8), "of shape (2, 4, 8, 3, 3)"),
    "a frame": (np.zeros((8, 8, 3), np.uint8), "got uint8 of shape (8, 8, 3)"),
    "channels first": (np.zeros((4, 3, 8, 8), np.uint8), "got uint8 of shape (4, 3, 8, 8)"),
    "gray": (np.zeros((4, 8, 8, 1), np.uint8), "got uint8 of shape (4, 8, 8, 1)"),
    "a list": ([[[[0, 0, 0]]]], "got list"),
    "no frames": (np.zeros((0, 8, 8, 3), np.uint8), "at least one frame.*(0, 8, 8, 3)"),
    "no pixels": (np.zeros((4, 8, 0, 3), np.uint8), "sides of 1 to 4096 px.*(4, 8, 0, 3)"),
    "too wide": (np.zeros((1, 1, 4097, 3), np.uint8), "sides of 1 to 4096 px.*(1, 1, 4097, 3)"),
}


@pytest.mark.parametrize("name", BAD_CLIPS)
def test_what_is_no_clip_is_refused(name: str) -> None:
    clip, message = BAD_CLIPS[name]
    message = "augment_clip: clip: expected.*" + message.replace("(", r"\(").replace(")", r"\)")
    with pytest.raises(ValueError, match=message):
        augment(clip, EVERYTHING)  # type: ignore[arg-type]


@pytest.mark.parametrize("video_sha256", ["", "video.mp4", VIDEO.upper(), VIDEO + "\n", VIDEO[:-1]])
def test_what_is_no_sha256_is_refused(video_sha256: str) -> None:
    with pytest.raises(ValueError, match="video_sha256: expected 64 lower-case hexadecimal digits"):
        augment(video_clip(), NOTHING, video_sha256=video_sha256)


def test_a_negative_copy_number_is_refused() -> None:
    with pytest.raises(ValueError, match="copy: expected 0 or more, got -1"):
        augment(video_clip(), NOTHING, copy=-1)


def test_integers_of_numpy_and_of_python_are_one_identity() -> None:
    of_numpy = RandomStreams.of(seed=np.int64(3), video_sha256=VIDEO, copy=np.int32(1))
    assert of_numpy == RandomStreams.of(seed=3, video_sha256=VIDEO, copy=1)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("rotation_probability", 1.5, "expected a number from 0 to 1 .probability.*, got 1.5"),
        ("rotation_max_deg", -1.0, "expected a number from 0 to 180 .degrees.*, got -1.0"),
        ("noise_max_sigma", math.nan, "expected a number from 0 to 64 .gray levels.*, got nan"),
        ("blur_max_sigma_px", "1", "expected a number from 0 to 16 .pixels.*, got '1'"),
        ("elastic_grid", 2.5, "expected a whole number from 1 to 32 .cells.*, got 2.5"),
        ("elastic_grid", 0, "expected a whole number from 1 to 32 .cells.*, got 0"),
        ("scale_min", 1.5, "expected at most scale_max = 1.25, got 1.5"),
    ],
)
def test_a_value_out_of_its_range_is_refused(field: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"augmentation recipe: {field}: {message}"):
        dataclasses.replace(NOTHING, **{field: value})


def test_all_faults_of_a_recipe_are_named_at_once() -> None:
    with pytest.raises(ValueError, match=r"flip_probability.*hue_max_turn.*correct these"):
        dataclasses.replace(NOTHING, flip_probability=2, hue_max_turn=1)


def test_the_values_of_what_is_switched_on_are_in_effect() -> None:
    values = dataclasses.asdict(EVERYTHING)
    noise = {name for name in values if name.startswith("noise_")}
    assert noise == {"noise_probability", "noise_max_sigma"}
    assert EVERYTHING.in_effect() == values
    assert dataclasses.replace(EVERYTHING, noise_probability=0.0).in_effect() == {
        name: value for name, value in values.items() if name not in noise
    }


def test_no_value_of_a_recipe_has_a_default() -> None:
    with pytest.raises(TypeError, match="missing 27 required"):
        AugmentationRecipe()  # type: ignore[call-arg]


# --- Sampling ---------------------------------------------------------------------------------

FIELD_OF = {
    "rotation": "rotation_deg",
    "affine": "affine",
    "flip": "flipped",
    "jitter": "jitter",
    "noise": "noise_sigma",
    "blur": "blur_sigma_px",
    "cutout": "cutout",
    "elastic": "elastic_px",
    "frame_drop": "source_frames",
    "frame_duplication": "source_frames",
    "reversal": "source_frames",
}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_the_probability_of_one_operation_changes_no_draw_of_another(operation: str) -> None:
    without = dataclasses.replace(EVERYTHING, **{f"{operation}_probability": 0.0})
    own = FIELD_OF[operation]
    pairs = zip(sampled(EVERYTHING, copies=20), sampled(without, copies=20), strict=True)
    for all_of_them, all_but_one in pairs:
        assert getattr(all_but_one, own) != getattr(all_of_them, own)
        restored = dataclasses.replace(all_but_one, **{own: getattr(all_of_them, own)})
        assert restored == all_of_them


def test_reversal_changes_no_draw_of_the_other_operations_in_time() -> None:
    backwards = sampled(EVERYTHING, copies=20)
    forwards = sampled(dataclasses.replace(EVERYTHING, reversal_probability=0), copies=20)
    for there, back in zip(forwards, backwards, strict=True):
        assert back.source_frames == tuple(15 - frame for frame in there.source_frames)


def test_no_two_operations_share_their_random_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    purposes = []
    stream = RandomStreams.stream

    def recorded_stream(draws: RandomStreams, purpose: str) -> Any:
        purposes.append(purpose)
        return stream(draws, purpose)

    monkeypatch.setattr(RandomStreams, "stream", recorded_stream)
    augment(video_clip(), EVERYTHING)
    assert len(set(purposes)) == len(purposes) == len(OPERATIONS) + 2  # noise, elastic: fields


def test_the_noise_is_the_same_whatever_else_is_applied() -> None:
    gray = np.full((4, 16, 16, 3), 100, np.uint8)
    assert np.array_equal(
        applied(gray, noise_sigma=9.0),
        applied(gray, noise_sigma=9.0, flipped=True, elastic_px=2.0, rotation_deg=20.0),
    )


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_probability_of_a_quarter_applies_to_a_quarter_of_the_copies(operation: str) -> None:
    quarter = dataclasses.replace(NOTHING, **{f"{operation}_probability": 0.25})
    untouched = next(sampled(NOTHING, copies=1))
    num_applied = sum(parameters != untouched for parameters in sampled(quarter, copies=800))
    assert 200 - 4 * 12.3 < num_applied < 200 + 4 * 12.3  # 4 standard deviations


def test_amounts_fill_their_limits_and_stay_within() -> None:
    parameters = list(sampled(EVERYTHING, copies=400))
    for limits, amounts in (
        ((-30, 30), [p.rotation_deg for p in parameters]),
        ((0.8, 1.25), [p.affine.scale for p in parameters]),
        ((-10, 10), [p.affine.shear_deg for p in parameters]),
        ((-0.1, 0.1), [p.affine.translate_x_share for p in parameters]),
        ((-0.1, 0.1), [p.affine.translate_y_share for p in parameters]),
        ((-0.2, 0.2), [p.jitter.brightness for p in parameters]),
        ((-0.3, 0.3), [p.jitter.contrast for p in parameters]),
        ((-0.5, 0.5), [p.jitter.saturation for p in parameters]),
        ((-0.1, 0.1), [p.jitter.hue_turn for p in parameters]),
        ((0, 12), [p.noise_sigma for p in parameters]),
        ((0, 2), [p.blur_sigma_px for p in parameters]),
        ((0, 4), [p.elastic_px for p in parameters]),
        ((0, 0.5), [p.cutout.height_share for p in parameters]),
        ((0, 0.5), [p.cutout.width_share for p in parameters]),
        ((0, 1), [p.cutout.top_share for p in parameters]),
        ((0, 1), [p.cutout.left_share for p in parameters]),
    ):
        low, high = limits
        margin = 0.02 * (high - low)
        assert low <= min(amounts) < low + margin
        assert high - margin < max(amounts) <= high


# --- Time -------------------------------------------------------------------------------------


def test_reversal_plays_the_clip_backwards() -> None:
    assert np.array_equal(augment(video_clip(), only("reversal")), video_clip()[::-1])


def test_a_dropped_frame_is_replaced_by_the_last_one_kept() -> None:
    for parameters in sampled(only("frame_drop"), copies=200):
        frames = parameters.source_frames
        dropped = [position for position in range(16) if frames[position] != position]
        assert 1 <= len(dropped) <= 4  # 0.3 of 16 frames, rounded down
        assert 0 not in dropped
        assert all(frames[position] == frames[position - 1] for position in dropped)


def test_a_duplicated_frame_is_shown_twice_and_delays_the_rest() -> None:
    for parameters in sampled(only("frame_duplication"), copies=200):
        steps = np.diff(parameters.source_frames)
        assert parameters.source_frames[0] == 0
        assert set(steps.tolist()) <= {0, 1}
        assert 1 <= (steps == 0).sum() <= 4
        assert not ((steps[1:] == 0) & (steps[:-1] == 0)).any()  # twice, not three times


@pytest.mark.parametrize("operation", ["frame_drop", "frame_duplication"])
def test_every_allowed_number_of_frames_is_drawn(operation: str) -> None:
    num_held = {
        16 - len(set(parameters.source_frames))
        for parameters in sampled(only(operation), copies=200)
    }
    assert num_held == {1, 2, 3, 4}


@pytest.mark.parametrize("operation", ["frame_drop", "frame_duplication"])
def test_a_share_of_less_than_one_frame_holds_none(operation: str) -> None:
    recipe = only(operation, **{f"{operation}_max_share": 0.06})
    for parameters in sampled(recipe, copies=20):
        assert parameters.source_frames == tuple(range(16))


@pytest.mark.parametrize("operation", ["frame_drop", "frame_duplication"])
def test_a_share_of_all_frames_leaves_the_first_one(operation: str) -> None:
    recipe = only(operation, **{f"{operation}_max_share": 1.0})
    for num_frames in (1, 2, 3, 16):
        for parameters in sampled(recipe, copies=20, num_frames=num_frames):
            assert len(parameters.source_frames) == num_frames
            assert parameters.source_frames[0] == 0


def test_operations_in_time_only_show_frames_of_the_clip() -> None:
    clip = video_clip()
    in_time = dataclasses.replace(
        only("frame_drop"), frame_duplication_probability=1.0, reversal_probability=1.0
    )
    known = {frame.tobytes() for frame in clip}
    for copy in range(20):
        assert {frame.tobytes() for frame in augment(clip, in_time, copy=copy)} <= known


# --- Geometry ---------------------------------------------------------------------------------


def test_flip_mirrors_left_and_right() -> None:
    assert np.array_equal(augment(video_clip(), only("flip")), video_clip()[:, :, ::-1])


def test_a_positive_rotation_is_counter_clockwise() -> None:
    clip = video_clip(height=48, width=48)
    assert np.array_equal(applied(clip, rotation_deg=90.0), np.rot90(clip, axes=(1, 2)))


def test_a_positive_translation_is_to_the_right_and_down() -> None:
    clip = video_clip(height=48, width=64)
    moved = applied(clip, affine=Affine(translate_x_share=8 / 64, translate_y_share=6 / 48))
    assert np.array_equal(moved[:, 6:, 8:], clip[:, :-6, :-8])


def test_beyond_its_edges_the_picture_goes_on_as_its_mirror_image() -> None:
    clip = video_clip(height=48, width=64)
    moved = applied(clip, affine=Affine(translate_x_share=8 / 64))
    assert np.array_equal(moved[:, :, :8], clip[:, :, 8:0:-1])


def smooth_picture(height: int, width: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    y, x = np.mgrid[:height, :width].astype(float)
    return np.stack(
        [128 + 100 * np.sin(x / a) * np.cos(y / b) for a, b in ((9, 7), (5, 8), (7, 11))], -1
    )


def sampled_at(picture: Any, x: Any, y: Any) -> Any:
    """Sample bilinearly, in floats; return shape (height, width, 3)."""
    x0, y0 = np.floor(x).astype(int), np.floor(y).astype(int)
    fx, fy = (x - x0)[..., None], (y - y0)[..., None]
    top = picture[y0, x0] * (1 - fx) + picture[y0, x0 + 1] * fx
    bottom = picture[y0 + 1, x0] * (1 - fx) + picture[y0 + 1, x0 + 1] * fx
    return top * (1 - fy) + bottom * fy


@pytest.mark.parametrize("flipped", [False, True])
def test_flip_scale_shear_rotation_and_translation_follow_their_matrices(flipped: bool) -> None:
    height, width = 60, 80
    picture = np.rint(smooth_picture(height, width))
    clip = np.stack([picture, picture]).astype(np.uint8)
    angle, shear = math.radians(17.0), math.tan(math.radians(8.0))
    rotation = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    mirror = np.diag([-1.0 if flipped else 1.0, 1.0])
    forwards = rotation @ np.array([[1, shear], [0, 1]]) @ (0.9 * np.eye(2)) @ mirror

    rows, columns = np.mgrid[20:40, 25:55]  # their sources all lie inside the picture
    center = np.array([(width - 1) / 2, (height - 1) / 2])
    moved = np.array([0.05 * width, -0.1 * height])
    outputs = np.stack([columns, rows], axis=-1)
    sources = (outputs - center - moved) @ np.linalg.inv(forwards).T + center
    expected = sampled_at(picture, sources[..., 0], sources[..., 1])

    augmented = applied(
        clip, rotation_deg=17.0, affine=Affine(0.9, 8.0, 0.05, -0.1), flipped=flipped
    )
    error = augmented[:, 20:40, 25:55] - expected
    assert abs(error).max() < 1.5  # 1/64 px of up to 28 levels a pixel and axis, and the rounding
    assert abs(error.mean()) < 0.1


def test_elastic_moves_pixels_by_at_most_its_limit_and_smoothly() -> None:
    ramp = np.broadcast_to(np.arange(120, dtype=np.uint8)[:, None], (1, 60, 120, 3)) * 2
    moved_px = (augment(ramp, only("elastic", elastic_max_px=6.0)).astype(float) - ramp)[
        0, ..., 0
    ] / 2
    inside = moved_px[:, 8:-8]
    assert abs(inside).max() <= 6.0 + 0.5
    assert inside.std() > 0.5
    assert abs(np.diff(inside, axis=0)).max() < 3 * 6 / (60 / 4) + 0.5
    assert inside.max() > 0 > inside.min()


def test_elastic_moves_pixels_along_both_axes_independently() -> None:
    y, x = np.mgrid[:100, :100] * 2
    ramps = np.stack([x, y, y], axis=-1)[np.newaxis].astype(np.uint8)
    moved = (applied(ramps, elastic_grid=6, elastic_px=5.0).astype(float) - ramps)[0, 8:-8, 8:-8]
    assert moved[..., 0].std() > 2
    assert moved[..., 1].std() > 2
    assert abs(np.corrcoef(moved[..., 0].ravel(), moved[..., 1].ravel())[0, 1]) < 0.5


def test_elastic_displacements_lie_between_their_four_nodes_without_a_crease() -> None:
    cell_px, cells = 21, 4  # an odd number: pixel 10 of a cell is its middle
    field = pixels_module._smooth_field(cells, DRAWS, cells * cell_px, cells * cell_px)
    nodes = (2 * DRAWS.uniforms("elastic nodes", 2 * (cells + 1) ** 2) - 1).reshape(2, 5, 5)
    means = (nodes[:, 1:, 1:] + nodes[:, 1:, :-1] + nodes[:, :-1, 1:] + nodes[:, :-1, :-1]) / 4
    assert np.allclose(field[:, 10::cell_px, 10::cell_px], means)
    # The second derivative of 3t^2 - 2t^3 is at most 6, and two nodes differ by at most 2.
    for axis in (1, 2):
        assert abs(np.diff(field, n=2, axis=axis)).max() <= 2 * 6 / cell_px**2


def test_geometry_blur_color_and_cutout_are_the_same_in_all_frames() -> None:
    still = np.repeat(video_clip(frames=1), 6, axis=0)
    recipe = dataclasses.replace(EVERYTHING, noise_probability=0.0)
    augmented = augment(still, recipe)
    assert np.array_equal(augmented, np.repeat(augmented[:1], 6, axis=0))
    assert not np.array_equal(augmented, still)


# --- Color, noise, blur, cutout --------------------------------------------------------------


def test_brightness_adds_a_share_of_the_full_scale() -> None:
    clip = np.full((2, 4, 4, 3), 100, np.uint8)
    assert (applied(clip, jitter=Jitter(brightness=0.2)) == 151).all()
    assert (applied(clip, jitter=Jitter(brightness=-0.2)) == 49).all()
    assert (applied(clip, jitter=Jitter(brightness=1.0)) == 255).all()


def test_contrast_spreads_levels_about_the_middle() -> None:
    clip = np.array([0, 100, 127, 128, 155, 255], np.uint8).reshape(1, 1, 6, 1).repeat(3, axis=3)
    spread = applied(clip, jitter=Jitter(contrast=0.5))[0, 0, :, 0]
    assert spread.tolist() == [0, 86, 127, 128, 169, 255]
    assert np.ptp(applied(clip, jitter=Jitter(contrast=-1.0))) == 0


def luma(clip: Clip) -> Any:
    return 0.213 * clip[..., 0] + 0.715 * clip[..., 1] + 0.072 * clip[..., 2]


def test_without_saturation_only_the_luma_remains() -> None:
    gray = applied(video_clip(), jitter=Jitter(saturation=-1.0))
    assert abs(gray - luma(video_clip())[..., None]).max() < 1.5
    assert (np.ptp(gray, axis=3) <= 1).all()


def test_hue_keeps_the_luma_and_comes_round_after_a_full_turn() -> None:
    clip = 96 + video_clip() // 4  # far from black and white, where colors are clipped
    third = Jitter(hue_turn=1 / 3)
    turned = applied(clip, jitter=third)
    assert abs(luma(turned) - luma(clip)).max() < 1.5
    assert abs(turned.astype(int) - clip).mean() > 5
    three_times = applied(applied(turned, jitter=third), jitter=third)
    assert abs(three_times.astype(int) - clip).max() <= 4


def test_hue_and_saturation_leave_gray_pixels_alone() -> None:
    grays = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=3)
    recipe = only(
        "jitter", brightness_max=0.0, contrast_max=0.0, saturation_max=1.0, hue_max_turn=0.5
    )
    for copy in range(50):
        assert np.array_equal(augment(grays, recipe, copy=copy), grays)


def test_the_color_transform_is_the_one_of_exact_integers() -> None:
    pixels = (
        DRAWS.stream("pixels").random_raw(30_000).astype("<u8").view(np.uint8).reshape(-1, 100, 3)
    )
    recipe = only("jitter", saturation_max=1.0, hue_max_turn=0.5)
    for parameters in sampled(recipe, copies=50):
        matrix = pixels_module._chroma_matrix(parameters.jitter)
        coefficients = np.rint(matrix[:, :3] * 512).astype(np.int64)
        assert np.array_equal(coefficients, matrix[:, :3] * 512)
        exact = (2 * (pixels.astype(np.int64) @ coefficients.T) + 1 + 512) // 1024
        assert np.array_equal(cv2.transform(pixels, matrix), exact.clip(0, 255))


def test_no_sum_of_the_color_transform_lies_half_way_between_two_levels() -> None:
    for parameters in sampled(only("jitter"), copies=20):
        matrix = pixels_module._chroma_matrix(parameters.jitter)
        assert (matrix[:, 3] == 1 / 1024).all()  # and the rest is a multiple of 1/512


def test_the_color_transform_keeps_grays_and_luma_and_turns_by_what_it_says() -> None:
    luma_weights = np.array([0.213, 0.715, 0.072])
    for parameters in sampled(only("jitter", saturation_max=1.0, hue_max_turn=0.5), copies=50):
        matrix = pixels_module._chroma_matrix(parameters.jitter)[:, :3]
        assert (matrix.sum(axis=1) == 1).all()
        assert np.allclose(luma_weights @ matrix, luma_weights, atol=2 / 512)
    quarter = pixels_module._chroma_matrix(Jitter(hue_turn=0.25))[:, :3]
    half = pixels_module._chroma_matrix(Jitter(hue_turn=0.5))[:, :3]
    assert np.allclose(quarter @ quarter, half, atol=4 / 512)


@pytest.mark.parametrize("sigma", [1.0, 5.0, 20.0])
def test_noise_has_the_stated_sigma_and_no_mean(sigma: float) -> None:
    gray = np.full((8, 64, 64, 3), 128, np.uint8)
    noise = applied(gray, noise_sigma=sigma).astype(float) - 128
    assert noise.std() == pytest.approx(math.hypot(sigma, math.sqrt(1 / 12)), rel=0.03)
    assert abs(noise.mean()) < 5 * sigma / math.sqrt(noise.size)


def test_noise_is_fresh_in_every_frame_pixel_and_channel() -> None:
    noise = applied(np.full((4, 64, 64, 3), 128, np.uint8), noise_sigma=20.0).astype(float) - 128
    for one, other in (
        (noise[:-1], noise[1:]),
        (noise[:, :-1], noise[:, 1:]),
        (noise[:, :, :-1], noise[:, :, 1:]),
        (noise[..., 0], noise[..., 1]),
    ):
        assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 0.03


def test_noise_saturates_at_black_and_white() -> None:
    for level in (0, 255):
        noisy = applied(np.full((2, 32, 32, 3), level, np.uint8), noise_sigma=64.0)
        assert 0.4 < (noisy == level).mean() < 0.6


@pytest.mark.parametrize("sigma_px", [0.8, 2.0])
def test_blur_is_gaussian(sigma_px: float) -> None:
    dot = np.zeros((1, 41, 41, 3), np.uint8)
    dot[:, 20, 20] = 255
    blurred = applied(dot, blur_sigma_px=sigma_px)[0]
    distance = np.arange(41) - 20
    bell = np.exp(-(distance**2) / (2 * sigma_px**2))
    bell /= bell.sum()
    assert abs(blurred - 255 * np.outer(bell, bell)[..., None]).max() <= 1


def test_cutout_is_one_rectangle_of_gray() -> None:
    clip = np.full((2, 50, 80, 3), 7, np.uint8)
    cut = applied(clip, cutout=Cutout(0.3, 0.25, 0.5, 0.999))
    expected = clip.copy()
    expected[:, 18:33, 60:80] = CUTOUT_GRAY  # half-way down the room of 35 rows, at the right
    assert np.array_equal(cut, expected)


def test_cutouts_cover_at_most_their_share_of_each_side_and_reach_the_whole_frame() -> None:
    clip = np.zeros((1, 40, 40, 3), np.uint8)
    covered = [augment(clip, only("cutout"), copy=copy)[0, ..., 0] > 0 for copy in range(200)]
    assert max(mask.any(axis=1).sum() for mask in covered) in (19, 20)
    assert max(mask.any(axis=0).sum() for mask in covered) in (19, 20)
    assert np.mean(covered) == pytest.approx(0.25 * 0.25, rel=0.2)
    assert np.any(covered, axis=0).mean() > 0.95
