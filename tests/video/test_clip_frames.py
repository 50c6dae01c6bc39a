"""The frames of clips: by time, over the whole video or dense, several clips to a video."""

from itertools import pairwise
from typing import Any

import pytest

from video.clips.frames import ClipRecipe, clip_frames, indices_by_time, uniform_indices

DENSE = ClipRecipe(frames=4, height=16, width=16, fit="crop", sampling="dense", fps=10.0)


def constant_rate(num_frames: int, fps: float) -> dict[str, Any]:
    """Return what is known of a video whose times are not."""
    return {"num_frames": num_frames, "fps": fps, "frame_pts": None, "end_pts": None}


def timed(pts: list[int], end_pts: int, time_base: str = "1/1000") -> dict[str, Any]:
    return {
        "num_frames": len(pts),
        "fps": 30.0,
        "frame_pts": pts,
        "end_pts": end_pts,
        "time_base": time_base,
    }


def test_of_a_variable_rate_the_frames_shown_at_the_centers_of_equal_times_are_taken() -> None:
    """A screen recording: 30 frames in a second, then one a second, the last shown to 10.03 s."""
    pts = [*(round(1000 * number / 30) for number in range(30)), *range(1000, 10_001, 1000)]

    taken = indices_by_time(pts, 10_033, 8)

    centers = [(2 * number + 1) / 16 * 10_033 for number in range(8)]
    assert [pts[index] for index in taken] == [600, 1000, 3000, 4000, 5000, 6000, 8000, 9000]
    assert all(pts[i] <= time < pts[i + 1] for i, time in zip(taken, centers, strict=True))


@pytest.mark.parametrize("num_frames", [1, 5, 24, 37, 300])
@pytest.mark.parametrize("unit", [1, 512, 1000 / 30, 1001 / 24])
def test_of_a_constant_rate_the_frames_are_those_by_number_however_times_are_rounded(
    num_frames: int, unit: float
) -> None:
    pts = [77 + round(number * unit) for number in range(num_frames)]

    for count in (1, 8, 16):
        by_time = indices_by_time(pts, 77 + round(num_frames * unit), count)
        assert by_time == uniform_indices(num_frames, count)


def test_uniform_indices_are_the_centers_of_equal_segments() -> None:
    assert uniform_indices(16, 4) == [2, 6, 10, 14]


def test_a_short_video_repeats_frames() -> None:
    assert uniform_indices(2, 5) == [0, 0, 1, 1, 1]


@pytest.mark.parametrize("num_frames", [1, 2, 3, 7, 16, 17, 1000])
@pytest.mark.parametrize("count", [1, 2, 8, 16])
def test_uniform_indices_ascend_within_the_video(num_frames: int, count: int) -> None:
    indices = uniform_indices(num_frames, count)

    assert len(indices) == count
    assert indices == sorted(indices)
    assert 0 <= indices[0] <= indices[-1] < num_frames


@pytest.mark.parametrize("num_frames", [8, 16, 31, 100])
def test_uniform_indices_leave_as_much_before_as_after(num_frames: int) -> None:
    indices = uniform_indices(num_frames, 8)

    assert abs(indices[0] - (num_frames - 1 - indices[-1])) <= 1


# --- several clips -----------------------------------------------------------------------------


def test_one_clip_is_that_of_the_centers() -> None:
    recipe = ClipRecipe(frames=4, height=16, width=16, fit="crop")

    assert clip_frames(constant_rate(40, 30.0), recipe) == [uniform_indices(40, 4)]
    assert recipe.in_effect() == {"frames": 4, "height": 16, "width": 16, "fit": "crop"}


def test_several_uniform_clips_share_the_video_in_turns() -> None:
    recipe = ClipRecipe(frames=4, height=16, width=16, fit="crop", per_video=3)

    clips = clip_frames(constant_rate(120, 30.0), recipe)

    assert clips == [[5, 35, 65, 95], [15, 45, 75, 105], [25, 55, 85, 115]]
    assert recipe.in_effect()["per_video"] == 3


def test_a_dense_clip_lies_in_the_middle_at_the_rate_asked_for() -> None:
    # 3 s at 30 frames per second: 0.4 s from 1.3 s on, a picture each 0.1 s, shown at its middle.
    assert clip_frames(constant_rate(90, 30.0), DENSE) == [[40, 43, 46, 49]]
    assert DENSE.in_effect()["fps"] == 10.0


@pytest.mark.parametrize("rate", [12.0, 24.0, 25.0, 29.97002997002997, 30.0, 59.94])
def test_dense_clips_keep_their_rate_whatever_that_of_the_video(rate: float) -> None:
    recipe = ClipRecipe(frames=16, height=16, width=16, fit="crop", sampling="dense", fps=12.0)

    (frames,) = clip_frames(constant_rate(round(10 * rate), rate), recipe)

    times_sec = [frame / rate for frame in frames]
    assert all(abs(b - a - 1 / 12) < 1 / rate for a, b in pairwise(times_sec))
    assert abs(sum(times_sec) / 16 - 5.0) < 1 / rate


def test_several_dense_clips_begin_at_the_centers_of_equal_parts() -> None:
    recipe = ClipRecipe(
        frames=2, height=16, width=16, fit="crop", sampling="dense", fps=10.0, per_video=2
    )

    # 2.2 s: clips of 0.2 s can begin in 2 s, at 0.5 and 1.5 s.
    assert clip_frames(constant_rate(22, 10.0), recipe) == [[5, 6], [15, 16]]


@pytest.mark.parametrize("per_video", [1, 3])
def test_a_video_that_is_shorter_than_a_dense_clip_repeats_its_last_frame(per_video: int) -> None:
    recipe = ClipRecipe(
        frames=5, height=16, width=16, fit="crop", sampling="dense", fps=10.0, per_video=per_video
    )

    assert clip_frames(constant_rate(9, 30.0), recipe) == [[1, 4, 7, 8, 8]] * per_video
    assert clip_frames(constant_rate(1, 30.0), recipe) == [[0] * 5] * per_video


def test_dense_clips_of_a_variable_rate_show_what_was_shown_at_these_times() -> None:
    # One picture for 2 s, then 20 in the third.
    pts = [0, *range(2000, 3000, 50)]

    (frames,) = clip_frames(timed(pts, 3000), DENSE)

    assert frames == [0, 0, 0, 0]
    (late,) = clip_frames(timed([0, *range(500, 3000, 50)], 3000), DENSE)
    assert late == [18, 20, 22, 24]  # 1350, 1450, 1550 and 1650 ms


def test_rounded_times_of_a_constant_rate_change_no_frame() -> None:
    pts = [round(1000 * number / 30) for number in range(90)]

    assert clip_frames(timed(pts, 3000), DENSE) == clip_frames(constant_rate(90, 30.0), DENSE)
