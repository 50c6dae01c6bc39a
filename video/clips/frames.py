"""Frames of clips: which ones of a video, by time, for clips over the whole of it or dense ones."""

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any, Literal

# Of the pixels of a sampled frame: part of the keys of packs, and of the files of models.
DECODING_VERSION = 3


@dataclass(frozen=True, kw_only=True)
class ClipRecipe:
    """The section `clips` of params.yaml: how clips are made of a video.

    frames: of each clip.
    height, width: px.
    fit: "letterbox" (the whole picture, black bars) or "crop" (fills the frame).
    sampling: "uniform" (frames over the whole video) or "dense" (frames at a rate of `fps`).
    fps: frames per second of dense clips.
    per_video: clips of each video.
    """

    frames: int
    height: int
    width: int
    fit: Literal["letterbox", "crop"]
    sampling: Literal["uniform", "dense"] = "uniform"
    fps: float = 15.0
    per_video: int = 1

    @property
    def shape(self) -> tuple[int, int, int]:
        """Frames, height and width of a clip."""
        return self.frames, self.height, self.width

    def in_effect(self) -> dict[str, Any]:
        """Return the values that change a clip, by name: a rate only of dense clips."""
        values = asdict(self)
        if self.sampling == "uniform":
            del values["sampling"], values["fps"]
        if self.per_video == 1:
            del values["per_video"]
        return values


def clip_frames(video: Mapping[str, Any], recipe: ClipRecipe) -> list[list[int]]:
    """Return the frames of each clip of a row of the videos, ascending, in [0, num_frames).

    Of a segment (`first_frame`, `end_frame`), these are frames of its file that lie in it.
    Clips over the whole video take turns: with two, the frames of the first lie between those of
    the second. Dense clips begin at the centers of as many equal parts of the time in which one
    can begin; a video that is shorter than a clip repeats its last frame.
    """
    first = video.get("first_frame")
    if first is not None:
        of_segment = clip_frames(_cut(video, first, video["end_frame"]), recipe)
        return [[first + frame for frame in clip] for clip in of_segment]
    count = recipe.per_video
    if recipe.sampling == "dense":
        return [_dense_frames(video, recipe, number) for number in range(count)]
    every = sampled_frames(video, recipe.frames * count)
    return [every[number::count] for number in range(count)]


def _cut(video: Mapping[str, Any], first: int, end: int) -> dict[str, Any]:
    """Return what clips are chosen by, as if the video held these frames alone."""
    pts, end_pts = video["frame_pts"], video["end_pts"]
    return {
        "num_frames": end - first,
        "frame_pts": pts[first:end],
        "end_pts": end_pts if end_pts is None or end == len(pts) else pts[end],
        "fps": video["fps"],
        "time_base": video["time_base"],
    }


def sampled_frames(video: Mapping[str, Any], count: int) -> list[int]:
    """Return the frames to sample from a row of the videos: uniformly by time, if it is known."""
    if video["end_pts"] is None:
        return uniform_indices(video["num_frames"], count)
    return indices_by_time(video["frame_pts"], video["end_pts"], count)


def uniform_indices(num_frames: int, count: int) -> list[int]:
    """Return the frames at the centers of `count` equal segments of `num_frames` frames.

    Ascending, in [0, num_frames); a video shorter than `count` repeats frames.
    """
    return [(2 * i + 1) * num_frames // (2 * count) for i in range(count)]


def indices_by_time(pts: Sequence[int], end_pts: int, count: int) -> list[int]:
    """Return the frames shown at the centers of `count` equal segments of a video's time.

    `pts` are the times at which the frames begin, ascending, and the last one ends at `end_pts`.
    Ascending, in [0, len(pts)). If the frames are evenly spaced, to less than one, these are the
    `uniform_indices`, whatever rounding their times have suffered.
    """
    if _evenly_spaced(pts, end_pts):
        return uniform_indices(len(pts), count)
    span = end_pts - pts[0]
    times = [pts[0] + (2 * i + 1) * span // (2 * count) for i in range(count)]
    return [bisect_right(pts, time) - 1 for time in times]


def _evenly_spaced(pts: Sequence[int], end_pts: int) -> bool:
    span, num_frames = end_pts - pts[0], len(pts)
    return max(abs((time - pts[0]) * num_frames - i * span) for i, time in enumerate(pts)) < span


def _dense_frames(video: Mapping[str, Any], recipe: ClipRecipe, number: int) -> list[int]:
    """Return the frames of a dense clip, exact to the last one: times are fractions."""
    num_frames, pts, end_pts = video["num_frames"], video["frame_pts"], video["end_pts"]
    step_sec = 1 / Fraction(recipe.fps)
    rate = Fraction(video["fps"])
    if end_pts is None:
        duration_sec = num_frames / rate
    else:
        duration_sec = (end_pts - pts[0]) * Fraction(video["time_base"])
        if _evenly_spaced(pts, end_pts):
            rate, end_pts = num_frames / duration_sec, None
    room_sec = max(duration_sec - recipe.frames * step_sec, Fraction(0))
    start_sec = room_sec * (2 * number + 1) / (2 * recipe.per_video)
    times_sec = [start_sec + (2 * i + 1) * step_sec / 2 for i in range(recipe.frames)]
    if end_pts is None:
        found = [math.floor(time * rate) for time in times_sec]
    else:
        time_base = Fraction(video["time_base"])
        found = [bisect_right(pts, pts[0] + time / time_base) - 1 for time in times_sec]
    return [min(frame, num_frames - 1) for frame in found]
