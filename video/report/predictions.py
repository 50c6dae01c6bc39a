"""The page of predictions: rendering of plain data as one HTML file, like that of the report.

The page is bounded, however many videos there are: see MAX_VIDEOS and MAX_STRIP_BYTES.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from video.report import figures
from video.report.page import embedded, page_environment

MAX_VIDEOS = 200  # shown with their pictures; and as many of those that could not be predicted
MAX_STRIP_BYTES = 5_000_000  # of all pictures of the page, which are a third larger in it

MAX_CLIPS = 4  # of a video, one line of pictures each
NUM_WINDOWS_SHOWN = 8  # of a video, one picture each
MAX_BARS = 5
MAX_LINES = 3
MAX_STEPS = 300  # of a line

COLORS = ("var(--val)", "var(--train)", "var(--muted)")  # of the lines


@dataclass(frozen=True, kw_only=True)
class Strip:
    """Pictures of a video, as the model saw them; size in px."""

    jpeg: bytes
    height: int
    width: int


@dataclass(frozen=True, kw_only=True)
class PredictedVideo:
    """A video and its probabilities, of shape (windows, classes).

    spans: start and end of the windows, in seconds; empty if the video was predicted as a whole.
    warnings: each once, of any of its windows.
    """

    path: str
    probabilities: NDArray[np.float64]
    spans: Sequence[tuple[float, float]] = ()
    warnings: Sequence[str] = ()
    strip: Strip | None = None

    @property
    def mean(self) -> NDArray[np.float64]:
        mean: NDArray[np.float64] = self.probabilities.mean(axis=0)
        return mean


@dataclass(frozen=True, kw_only=True)
class RejectedVideo:
    """A video that could not be predicted."""

    path: str
    verdict: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class PredictionsPage:
    """All that the page shows; `note` says what the videos were compared with."""

    labels: Sequence[str]
    videos: Sequence[PredictedVideo]
    rejected: Sequence[RejectedVideo]
    facts: Mapping[str, str]
    note: str


class Strips:
    """Pictures for the page, as many as it takes."""

    def __init__(self) -> None:
        self._num, self._num_bytes = 0, 0

    def draw(self, clips: NDArray[np.uint8], num_windows: int = 1) -> Strip | None:
        """Return the pictures of a video; None if the page is full.

        clips: of shape (clips, frames, height, width, 3), equally many for each window. Of one
        window each clip is a line, of several windows the middle of some is shown.
        """
        if self._num == MAX_VIDEOS or self._num_bytes >= MAX_STRIP_BYTES:
            return None
        if num_windows > 1:
            first_clips = clips[:: len(clips) // num_windows]
            some = np.linspace(0, num_windows - 1, min(num_windows, NUM_WINDOWS_SHOWN)).round()
            lines = [first_clips[some.astype(int), clips.shape[1] // 2]]
        else:
            lines = [*clips[:MAX_CLIPS]]
        image = figures.contact_sheet(lines)
        strip = Strip(jpeg=figures.jpeg_bytes(image), height=image.shape[0], width=image.shape[1])
        self._num += 1
        self._num_bytes += len(strip.jpeg)
        return strip


def render_predictions(page: PredictionsPage) -> str:
    environment = page_environment()
    environment.globals.update(bars=_bars, film=_film, timeline=_timeline, likeliest=_likeliest)
    return environment.get_template("predictions.html.j2").render(
        page=page,
        shown=page.videos[:MAX_VIDEOS],
        rejected=page.rejected[:MAX_VIDEOS],
        counts=_counts(page),
        num_warned=sum(bool(video.warnings) for video in page.videos),
        max_bars=MAX_BARS,
    )


def _counts(page: PredictionsPage) -> list[tuple[str, int]]:
    """Return how many videos or windows each class was predicted for, the most first."""
    counts = Counter(
        page.labels[int(index)]
        for video in page.videos
        for index in video.probabilities.argmax(axis=1)
    )
    return counts.most_common()


def _likeliest(video: PredictedVideo, labels: Sequence[str]) -> list[tuple[str, int]]:
    """Return the classes predicted for the windows of a video, and for how many each."""
    counts = Counter(labels[int(index)] for index in video.probabilities.argmax(axis=1))
    return counts.most_common()


def _order(video: PredictedVideo, count: int) -> list[int]:
    return [int(index) for index in np.argsort(-video.mean, kind="stable")[:count]]


def _bars(video: PredictedVideo, labels: Sequence[str]) -> list[tuple[str, float]]:
    return [(labels[index], float(video.mean[index])) for index in _order(video, MAX_BARS)]


def _film(video: PredictedVideo) -> Markup:
    assert video.strip is not None
    size = (video.strip.height, video.strip.width)
    return embedded(video.strip.jpeg, size, f"Pictures of {video.path}, as the model saw them")


@dataclass(frozen=True, kw_only=True)
class _Timeline:
    """The drawing of probabilities over time, the classes of its lines, and where it ends."""

    svg: Markup
    lines: Sequence[tuple[str, str]]  # class and color
    end_sec: float
    windows_per_step: int


def _timeline(video: PredictedVideo, labels: Sequence[str]) -> _Timeline:
    """Draw one line of steps for each of the likeliest classes, over the time of the windows."""
    per_step = -(-len(video.spans) // MAX_STEPS)
    cuts = range(0, len(video.spans), per_step)
    steps = np.stack([video.probabilities[i : i + per_step].mean(axis=0) for i in cuts])
    end_sec = video.spans[-1][1]
    starts = [video.spans[i][0] for i in cuts]
    chosen = _order(video, MAX_LINES)
    # Of few classes each has its own color, the same for all videos.
    few = len(labels) <= len(COLORS)
    colors = [COLORS[index if few else place] for place, index in enumerate(chosen)]
    paths = [
        f'<path d="{_steps(starts, end_sec, steps[:, index])}" stroke="{color}"/>'
        for index, color in zip(chosen, colors, strict=True)
    ]
    about = escape(
        f"Probabilities over {end_sec:.1f} s of {video.path}: "
        f"{', '.join(labels[index] for index in chosen)}"
    )
    svg = (
        '<svg class="timeline" viewBox="0 0 1000 100" preserveAspectRatio="none" role="img" '
        f'aria-label="{about}"><path d="M0 0H1000M0 50H1000M0 100H1000" stroke="var(--line)"/>'
        # The likeliest class lies on top.
        f"{''.join(reversed(paths))}</svg>"
    )
    return _Timeline(
        svg=Markup(svg),
        lines=[(labels[i], color) for i, color in zip(chosen, colors, strict=True)],
        end_sec=end_sec,
        windows_per_step=per_step,
    )


def _steps(starts: Sequence[float], end_sec: float, values: NDArray[np.float64]) -> str:
    """Return the path of values that each last until the next one begins."""
    scale = 1000 / end_sec if end_sec else 0.0
    ends = [*starts[1:], end_sec]
    points = [
        f"{start * scale:.0f} {100 * (1 - value):.0f}H{end * scale:.0f}"
        for start, end, value in zip(starts, ends, values, strict=True)
    ]
    return "M" + "L".join(points)
