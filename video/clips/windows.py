"""Windows of a long video: parts of its time that are predicted one by one."""

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from video.clips.frames import ClipRecipe, clip_frames, indices_by_time


@dataclass(frozen=True, kw_only=True)
class Window:
    """A part of a video's time, and the frames of its clips, as `clip_frames` gives them."""

    start_sec: float
    end_sec: float
    frames: Sequence[Sequence[int]]


def windows(video: Mapping[str, Any], recipe: ClipRecipe, every_sec: float) -> list[Window]:
    """Return the windows that begin every `every_sec` in a row of the videos; at least one.

    Of a recipe of dense clips, a window is one clip. Those that end within the video are taken; if
    not even the first does, it repeats the last frame.

    Otherwise a window is `every_sec` long, and its clips are uniform over it. The last one ends
    with the video: what remains is a window of its own from half of `every_sec` on, and else part
    of the one before. A single window has the clips of the whole video.
    """
    duration_sec = _duration_sec(video)
    every = Fraction(str(every_sec))  # what was meant by 0.1, not the nearest binary number
    if recipe.sampling == "dense":
        length_sec = recipe.frames / Fraction(recipe.fps)
        count = max(0, math.floor((duration_sec - length_sec) / every)) + 1
        spans = [(i * every, i * every + length_sec) for i in range(count)]
        num_frames, clips = recipe.frames, 1
    else:
        count = max(1, math.floor(duration_sec / every + Fraction(1, 2)))
        spans = [(i * every, (i + 1) * every) for i in range(count - 1)]
        spans.append(((count - 1) * every, duration_sec))
        num_frames, clips = recipe.frames * recipe.per_video, recipe.per_video
        if count == 1:
            return [_window(spans[0], duration_sec, clip_frames(video, recipe))]
    centers = [
        start + (2 * i + 1) * (end - start) / (2 * num_frames)
        for start, end in spans
        for i in range(num_frames)
    ]
    shown = _frames_shown(video, duration_sec, centers)
    parts = [shown[i * num_frames : (i + 1) * num_frames] for i in range(count)]
    return [
        _window(span, duration_sec, [part[number::clips] for number in range(clips)])
        for span, part in zip(spans, parts, strict=True)
    ]


def _window(
    span: tuple[Fraction, Fraction], duration_sec: Fraction, frames: Sequence[Sequence[int]]
) -> Window:
    start, end = span
    return Window(start_sec=float(start), end_sec=float(min(end, duration_sec)), frames=frames)


def _duration_sec(video: Mapping[str, Any]) -> Fraction:
    if video["end_pts"] is None:
        # Without a rate nothing is known of the time: the video is one window.
        rate = Fraction(video["fps"])
        return Fraction(video["num_frames"]) / rate if rate else rate
    units: int = video["end_pts"] - video["frame_pts"][0]
    return units * Fraction(video["time_base"])


def _frames_shown(
    video: Mapping[str, Any], duration_sec: Fraction, times_sec: Sequence[Fraction]
) -> list[int]:
    """Return the frame shown at each time, the last one after the end.

    If each frame is shown at the center of its equal part of the time, the frames are evenly
    spaced, and the rounding of their times decides nothing.
    """
    num_frames, pts, end_pts = video["num_frames"], video["frame_pts"], video["end_pts"]
    if end_pts is None or indices_by_time(pts, end_pts, num_frames) == list(range(num_frames)):
        rate = num_frames / duration_sec if duration_sec else Fraction(0)
        found = [math.floor(time * rate) for time in times_sec]
    else:
        time_base = Fraction(video["time_base"])
        found = [bisect_right(pts, pts[0] + time / time_base) - 1 for time in times_sec]
    return [min(frame, num_frames - 1) for frame in found]
