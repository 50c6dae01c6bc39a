"""Windows of a long video: equal parts of its time, or dense clips, with exact frames."""

import pytest

from tests.video.test_clip_frames import DENSE, constant_rate, timed
from video.clips.frames import ClipRecipe, clip_frames, uniform_indices
from video.clips.windows import Window, windows

UNIFORM = ClipRecipe(frames=4, height=16, width=16, fit="crop")


def spans(found: list[Window]) -> list[tuple[float, float]]:
    return [(window.start_sec, window.end_sec) for window in found]


def test_uniform_windows_are_the_parts_of_the_video_and_each_is_sampled_as_a_video() -> None:
    found = windows(constant_rate(300, 30.0), UNIFORM, 2.5)

    assert spans(found) == [(0.0, 2.5), (2.5, 5.0), (5.0, 7.5), (7.5, 10.0)]
    part = uniform_indices(75, 4)
    assert [window.frames for window in found] == [
        [[start + frame for frame in part]] for start in (0, 75, 150, 225)
    ]


@pytest.mark.parametrize(
    ("every_sec", "expected"),
    [
        (4.0, [(0.0, 4.0), (4.0, 8.0), (8.0, 10.0)]),
        (4.5, [(0.0, 4.5), (4.5, 10.0)]),
        (6.0, [(0.0, 6.0), (6.0, 10.0)]),
        (7.0, [(0.0, 10.0)]),
        (60.0, [(0.0, 10.0)]),
    ],
)
def test_what_remains_is_a_window_from_half_of_one_on(
    every_sec: float, expected: list[tuple[float, float]]
) -> None:
    found = windows(constant_rate(100, 10.0), UNIFORM, every_sec)

    assert spans(found) == expected
    assert all(0 <= frame < 100 for window in found for clip in window.frames for frame in clip)
    assert found[-1].frames[0][-1] >= 85


def test_a_single_uniform_window_is_the_whole_video() -> None:
    pts = [0, 40, 90, 100, 700, 800]
    video = timed(pts, 1000)
    recipe = ClipRecipe(frames=4, height=16, width=16, fit="crop", per_video=3)

    (window,) = windows(video, recipe, 1.0)

    assert window.frames == clip_frames(video, recipe)


def test_several_clips_share_a_uniform_window_in_turns() -> None:
    recipe = ClipRecipe(frames=2, height=16, width=16, fit="crop", per_video=2)

    found = windows(constant_rate(80, 10.0), recipe, 4.0)

    assert [window.frames for window in found] == [[[5, 25], [15, 35]], [[45, 65], [55, 75]]]


def test_a_dense_window_is_one_clip_from_its_start_on() -> None:
    # Clips of 0.4 s; the last that ends within 3 s begins at 2 s.
    found = windows(constant_rate(90, 30.0), DENSE, 1.0)

    assert spans(found) == [(0.0, 0.4), (1.0, 1.4), (2.0, 2.4)]
    assert [window.frames for window in found] == [
        [[1, 4, 7, 10]],
        [[31, 34, 37, 40]],
        [[61, 64, 67, 70]],
    ]


def test_dense_windows_may_overlap_and_the_last_may_end_with_the_video() -> None:
    # 0.1 is no binary number: the eleventh begins at 1.0 s nevertheless, and ends at 1.4 s.
    found = windows(constant_rate(14, 10.0), DENSE, 0.1)

    assert len(found) == 11
    assert found[-1] == Window(start_sec=1.0, end_sec=1.4, frames=[[10, 11, 12, 13]])


def test_a_video_that_is_shorter_than_a_dense_window_repeats_its_last_frame() -> None:
    assert windows(constant_rate(2, 10.0), DENSE, 5.0) == [
        Window(start_sec=0.0, end_sec=0.2, frames=[[0, 1, 1, 1]])
    ]


def test_windows_of_a_variable_rate_show_what_was_shown_at_these_times() -> None:
    # One picture for 2 s, then 20 in the third.
    video = timed([0, *range(2000, 3000, 50)], 3000)

    first, second, third = windows(video, UNIFORM, 1.0)

    assert first.frames == second.frames == [[0, 0, 0, 0]]
    assert third.frames == [[3, 8, 13, 18]]  # 2125, 2375, 2625 and 2875 ms
    assert windows(video, DENSE, 2.0)[1].frames == [[2, 4, 6, 8]]


@pytest.mark.parametrize(("recipe", "every_sec"), [(UNIFORM, 0.2656), (DENSE, 0.0832)])
def test_rounded_times_of_a_constant_rate_change_no_window(
    recipe: ClipRecipe, every_sec: float
) -> None:
    # A picture is taken 0.2 ms after the rounded time of a frame, and 0.1 ms before the exact one.
    pts = [round(1000 * number / 30) for number in range(90)]

    rounded = windows(timed(pts, 3000), recipe, every_sec)

    assert rounded == windows(constant_rate(90, 30.0), recipe, every_sec)


def test_without_times_a_video_is_one_window() -> None:
    (window,) = windows(constant_rate(40, 0.0), UNIFORM, 1.0)

    assert window.frames == [uniform_indices(40, 4)]
