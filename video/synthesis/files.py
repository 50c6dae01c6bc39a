"""The files of the sample: encoded videos, and the faults that real collections have."""

from pathlib import Path

from video.synthesis.encoding import encode_video
from video.synthesis.frames import render_frames
from video.synthesis.plan import PlannedVideo

_NOT_A_VIDEO = b"<!DOCTYPE html><html><body><h1>404 Not Found</h1></body></html>\n"
_TRUNCATED_SHARE = 0.6


def write_video(planned: PlannedVideo, root: Path) -> None:
    """Write the file of one row below `root`; nothing if the plan has it missing.

    Safe to call for many rows at once, in any order and from any process. A crash leaves a partial
    file at the final name: write to a directory that is renamed when it is complete.
    """
    if planned.fault == "missing":
        return
    path = root / planned.video_path
    path.parent.mkdir(parents=True, exist_ok=True)
    # A file of an earlier run may be a link into a cache: replace it, never write to it.
    path.unlink(missing_ok=True)
    if planned.fault == "not_a_video":
        path.write_bytes(_NOT_A_VIDEO)
        return
    encode_video(
        path,
        render_frames(planned),
        codec=planned.codec,
        fps=planned.fps,
        quality=planned.quality,
    )
    if planned.fault == "truncated":
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * _TRUNCATED_SHARE)])
