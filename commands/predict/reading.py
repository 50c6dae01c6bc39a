"""Videos to predict: which ones are named, and their clips, read by worker processes.

Imports no torch, which costs each of these processes a second.
"""

import mimetypes
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray

from mlops.errors import PipelineError
from mlops.workers.pool import Fault, WorkerPool
from video.clips.frames import ClipRecipe, clip_frames
from video.clips.windows import windows
from video.source.container import frame_timing
from video.source.decoding import read_clips
from video.source.facts import VideoFacts, too_short
from video.source.inspection import inspect_video

USABLE = "ok"
MIN_FRAMES = 2  # a picture is no video

Span = tuple[float | None, float | None]  # start and end, in seconds


@dataclass(frozen=True, kw_only=True)
class Task:
    """A video to read the clips of, as the models take them; with `every_sec`, of its windows."""

    path: Path
    recipe: ClipRecipe
    max_duration_sec: float
    every_sec: float | None = None


@dataclass(frozen=True, kw_only=True)
class Reading:
    """The clips of a video, or the reason that there are none.

    clips: uint8 of shape (clips, frames, height, width, 3), equally many for each of the spans.
    spans: of the windows; a single one without times if the whole video is predicted at once.
    facts: without the frames.
    """

    path: Path
    verdict: str
    reason: str
    clips: NDArray[np.uint8] | None = None
    spans: Sequence[Span] = ((None, None),)
    facts: VideoFacts | None = None


def videos_in(paths: Sequence[Path]) -> list[Path]:
    """Return the files named, and those in the folders named whose suffix is that of a video."""
    found = []
    for path in paths:
        if not path.is_dir():
            found.append(path)
            continue
        inside = [each for each in sorted(path.rglob("*")) if each.is_file() and is_video(each)]
        if not inside:
            raise PipelineError(
                f"{path}: expected videos in this folder, found none by their suffixes; name the "
                "files"
            )
        found += inside
    if not found:
        raise click.UsageError("expected videos or folders beside the models, got none")
    return found


def is_video(path: Path) -> bool:
    kind, _ = mimetypes.guess_type(path.name)
    return (kind or "").startswith("video/") or path.suffix.lower() in (".mkv", ".flv", ".m2ts")


def read(tasks: Sequence[Task], pool: WorkerPool) -> Iterator[Reading]:
    for task, found in zip(tasks, pool.map(read_video, tasks), strict=True):
        if isinstance(found, Fault):
            found = Reading(path=task.path, verdict=found.kind, reason=f"reading {found.reason}")
        yield found


def read_video(task: Task) -> Reading:
    """Decode a video in full, as load_data does, and take the clips that create_dataset takes."""
    if not task.path.is_file():
        return Reading(path=task.path, verdict="missing", reason="there is no such file")
    facts = inspect_video(task.path, max_duration_sec=task.max_duration_sec)
    found = Reading(path=task.path, verdict=facts.verdict, reason=facts.reason)
    if facts.verdict != USABLE:
        return found
    if few := too_short(facts, facts.num_frames, MIN_FRAMES):
        return replace(found, verdict=few[0], reason=few[1])
    video = asdict(facts)
    spans: list[Span] = [(None, None)]
    if task.every_sec is None:
        frames = clip_frames(video, task.recipe)
    else:
        parts = windows(video, task.recipe, task.every_sec)
        spans = [(part.start_sec, part.end_sec) for part in parts]
        frames = [list(clip) for part in parts for clip in part.frames]
    return replace(
        found,
        clips=read_clips(task.path, frames, task.recipe, frame_timing(video)),
        spans=spans,
        facts=replace(facts, packet_pts=(), frame_pts=(), key_frame_pts=(), frame_crc32=()),
    )
