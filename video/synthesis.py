"""A sample of small encoded videos whose classes only motion, seen in order, can tell apart.

Every scene is a smooth texture under a slowly moving camera. Through a window with feathered
edges, about a third of the frame, a second texture is seen that moves along a closed path of its
own. In an `authentic` video the clock of that path is the clock of the video. In a `tampered` one
it stutters, replays its moments out of order or runs backwards for most of the time.

Both classes therefore show the same pictures: a window, and in it a texture at some point of its
path. The path closes on itself within a clip, so that pairs of frames in random order look alike
as well. What differs is the step from one moment to the next: steady in `authentic`, none or large
in `tampered`.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from itertools import pairwise
from pathlib import Path
from statistics import NormalDist
from typing import Literal, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from video.encoding import FORMATS, CodecName, encode_video

VERSION = 1  # part of every key: raise it when the same seed shall give other videos

Label = Literal["authentic", "tampered"]
Tampering = Literal["none", "frozen", "repeated", "against"]
Fault = Literal["none", "missing", "truncated", "not_a_video", "copy"]

TAMPERINGS: tuple[Tampering, ...] = ("frozen", "repeated", "against")
CODECS: tuple[CodecName, ...] = ("h264", "mpeg4", "vp9", "mjpeg")
FRAMES_PER_SEC = (12, 15, 20, 24, 25, 30)
SIZES_PX = ((160, 120), (176, 144), (144, 112), (128, 96), (192, 144))  # width, height
SUBSETS = ("spring", "autumn")
PLATFORMS = ("phone", "webcam", "archive")

# Lengths below are in pixels of the reference picture; a version maps its own pixels onto it.
REFERENCE_WIDTH_PX, REFERENCE_HEIGHT_PX = 160, 120
MARGIN_PX = 48  # texture around the reference picture: camera, drift and the tallest version
FEATHER_PX = 3.0
BACKGROUND_GRAIN_PX = 14
CONTENT_GRAIN_PX = 12
CAMERA_RADIUS_PX = (8.0, 11.0)
CAMERA_PERIOD_SEC = (3.5, 4.5)
DRIFT_PX_PER_SEC = 2.0
# A step of about 0.3 s moves the content by about one grain, a jump across the path by two: as far
# apart as pictures of this grain can be told.
MOTION_RADIUS_PX = (10.0, 12.0)
MOTION_PERIOD_SEC = (2.0, 2.5)
# At a constant pace the moments of a clip would lie evenly on the path, in any order they come in,
# and tampered ones would not. An uneven pace makes the two sets of moments look alike.
MOTION_PACE_SWING = 0.35
MOTION_PACE_PERIOD_SEC = (0.8, 1.6)

# Holds and blocks are about as long as the time between two of eight frames of a clip.
HOLD_SEC = 0.5
BLOCK_SEC = 0.25
BACKWARD_SPEED = 3.0

_NOT_A_VIDEO = b"<!DOCTYPE html><html><body><h1>404 Not Found</h1></body></html>\n"
_TRUNCATED_SHARE = 0.6

Picture = NDArray[np.uint8]  # (height, width, 3), RGB, or (height, width)

_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class SampleRecipe:
    """What the sample is made of; `plan_sample` refuses values outside of the ranges."""

    num_scenes: int
    """Scenes, at least 2; the videos of one scene are one `dup_group`."""
    versions_per_scene: int
    """Videos made of one scene, at least 2; faulty rows come on top."""
    tampered_share: float
    """Share of `tampered` videos, above 0 and below 1."""
    mixed_scene_share: float
    """Share of scenes with videos of both labels, 0 to 1; all others have one label only."""
    min_duration_sec: float
    """Duration of the shortest video, at least 1 s."""
    max_duration_sec: float
    """Duration of the longest video, at most 10 s."""
    tampered_time_share: float
    """Share of its duration for which a `tampered` video is tampered with, above 0, at most 1."""
    region_area_share: float
    """Area of the window over that of the frame, 0.05 to 0.6."""
    noise_sigma: float
    """Standard deviation of the sensor noise in 8-bit levels, 0 to 30."""


@dataclass(frozen=True, kw_only=True)
class PlannedVideo:
    """One row of the index and everything that `write_video` needs for its file.

    A file's bytes follow from seed, recipe, scene and version alone, whatever is written before
    or beside it.
    """

    video_id: str
    video_path: str  # relative to the root of the sample, with forward slashes
    label: Label
    dup_group: str
    subset: str
    platform: str
    codec: CodecName
    fps: int
    width: int
    height: int
    num_frames: int
    quality: int  # 0 (coarsest) to 100 (finest)
    tampering: Tampering
    fault: Fault
    seed: int
    recipe: SampleRecipe
    scene: int
    version: int

    @property
    def duration_sec(self) -> float:
        return self.num_frames / self.fps


class Draws:
    """Reproducible draws named by a key.

    Built on the raw words of Philox alone: numpy keeps those from release to release, but not the
    methods of its generators.
    """

    def __init__(self, *key: object) -> None:
        text = "|".join(map(str, ("sample", VERSION, *key)))
        digest = blake2b(text.encode(), digest_size=16).digest()
        self._source = np.random.Philox(key=int.from_bytes(digest, "little"))

    def between(self, low: float, high: float) -> float:
        """Uniform in [low, high)."""
        return low + (high - low) * ((int(self._source.random_raw()) >> 11) * 2.0**-53)

    def pick(self, options: Sequence[_T]) -> _T:
        return options[int(self.between(0, len(options)))]

    def shuffled(self, options: Sequence[_T]) -> list[_T]:
        rest = list(options)
        return [rest.pop(int(self.between(0, len(rest)))) for _ in options]

    def uniform_bytes(self, *shape: int) -> NDArray[np.uint8]:
        """Uniform bytes, uint8 of the shape asked for."""
        count = math.prod(shape)
        words = self._source.random_raw((count + 7) // 8)
        return words.astype("<u8").view(np.uint8)[:count].reshape(shape)


# ---------------------------------------------------------------- plan


def plan_sample(seed: int, recipe: SampleRecipe) -> list[PlannedVideo]:
    """Every row of the index, ordered by `video_id`, the four faulty ones included.

    One file will be missing, one cut off, one no video, and one the exact copy of another under a
    name of its own (same group, same label). Codec, size, rate, duration and quality are drawn
    without regard to the label.
    """
    _check_recipe(recipe)
    planned = [
        _plan_video(seed, recipe, scene, version, label, "none")
        for scene, labels in enumerate(_draw_labels(seed, recipe))
        for version, label in enumerate(labels)
    ]
    return sorted(planned + _plan_faults(seed, recipe, planned), key=lambda video: video.video_id)


def index_row(planned: PlannedVideo) -> dict[str, str]:
    """The columns of the index CSV: nothing in it, but `label`, tells the label."""
    return {
        "subset": planned.subset,
        "platform": planned.platform,
        "video_id": planned.video_id,
        "video_path": planned.video_path,
        "label": planned.label,
        "dup_group": planned.dup_group,
        "codec": planned.codec,
    }


def _check_recipe(recipe: SampleRecipe) -> None:
    expected = {
        "num_scenes: at least 2": recipe.num_scenes >= 2,
        "versions_per_scene: at least 2": recipe.versions_per_scene >= 2,
        "tampered_share: above 0, below 1": 0 < recipe.tampered_share < 1,
        "mixed_scene_share: 0 to 1": 0 <= recipe.mixed_scene_share <= 1,
        "min_duration_sec: 1 to max_duration_sec": 1
        <= recipe.min_duration_sec
        <= recipe.max_duration_sec,
        "max_duration_sec: at most 10": recipe.max_duration_sec <= 10,
        "tampered_time_share: above 0, at most 1": 0 < recipe.tampered_time_share <= 1,
        "region_area_share: 0.05 to 0.6": 0.05 <= recipe.region_area_share <= 0.6,
        "noise_sigma: 0 to 30": 0 <= recipe.noise_sigma <= 30,
    }
    faults = [
        f"{rule}, got {getattr(recipe, rule.split(':')[0])}"
        for rule, kept in expected.items()
        if not kept
    ]
    if faults:
        raise ValueError("recipe of the sample: " + "; ".join(faults))


def _draw_labels(seed: int, recipe: SampleRecipe) -> list[list[Label]]:
    """The label of each version of each scene, num_scenes lists of versions_per_scene."""
    draws = Draws(seed, "labels")
    num_mixed = round(recipe.num_scenes * recipe.mixed_scene_share)
    num_single = recipe.num_scenes - num_mixed
    num_tampered = round(num_single * recipe.tampered_share)
    counts = [recipe.versions_per_scene] * num_tampered + [0] * (num_single - num_tampered)
    wanted = recipe.versions_per_scene * recipe.tampered_share
    for index in range(num_mixed):
        # Differences of a rounded running sum: 2.4 of 6 becomes 2, 3, 2, 3, 2.
        count = round(wanted * (index + 1)) - round(wanted * index)
        counts.append(min(max(count, 1), recipe.versions_per_scene - 1))
    return [
        draws.shuffled(_labels_of(count, recipe.versions_per_scene))
        for count in draws.shuffled(counts)
    ]


def _labels_of(num_tampered: int, num_versions: int) -> list[Label]:
    tampered: list[Label] = ["tampered"] * num_tampered
    authentic: list[Label] = ["authentic"] * (num_versions - num_tampered)
    return tampered + authentic


def _plan_video(
    seed: int, recipe: SampleRecipe, scene: int, version: int, label: Label, fault: Fault
) -> PlannedVideo:
    draws = Draws(seed, "plan", scene, version)
    codec = draws.pick(CODECS)
    fps = draws.pick(FRAMES_PER_SEC)
    width, height = draws.pick(SIZES_PX)
    duration_sec = draws.between(recipe.min_duration_sec, recipe.max_duration_sec)
    quality = int(draws.between(0, 101))
    tampering = draws.pick(TAMPERINGS)
    subset = Draws(seed, "subset", scene).pick(SUBSETS)
    platform = draws.pick(PLATFORMS)
    video = PlannedVideo(
        video_id="",
        video_path="",
        label=label,
        dup_group=f"scene_{scene:03d}",
        subset=subset,
        platform=platform,
        codec=codec,
        fps=fps,
        width=width,
        height=height,
        num_frames=round(duration_sec * fps),
        quality=quality,
        tampering=tampering if label == "tampered" else "none",
        fault=fault,
        seed=seed,
        recipe=recipe,
        scene=scene,
        version=version,
    )
    return _named(video, f"{scene}|{version}")


def _named(video: PlannedVideo, name: str) -> PlannedVideo:
    # A digest for a name: neither the name nor the order of the rows follows the labels.
    video_id = blake2b(f"{video.seed}|{name}".encode(), digest_size=5).hexdigest()
    suffix = FORMATS[video.codec].suffix
    path = f"{video.subset}/{video.platform}/{video_id}{suffix}"
    return replace(video, video_id=video_id, video_path=path)


def _plan_faults(
    seed: int, recipe: SampleRecipe, planned: list[PlannedVideo]
) -> list[PlannedVideo]:
    draws = Draws(seed, "faults")
    copied, *hosts = draws.shuffled(planned)[:4]
    faults: list[Fault] = ["missing", "truncated", "not_a_video"]
    rows = [_named(replace(copied, fault="copy"), "copy")]
    for fault, host in zip(faults, hosts, strict=True):
        version = recipe.versions_per_scene + len(rows)
        video = _plan_video(seed, recipe, host.scene, version, host.label, fault)
        if fault != "missing":
            # An .mp4 that is cut off has lost its table of contents: no reader can open it.
            video = _named(replace(video, codec="h264"), fault)
        rows.append(video)
    return rows


# ---------------------------------------------------------------- write


def write_video(planned: PlannedVideo, root: Path) -> None:
    """Write the file of one row below `root`; nothing where the plan wants it missing.

    Safe to call for many rows at once, in any order and from any process. A crash leaves a partial
    file at the final name: write to a directory that is renamed when it is complete.
    """
    if planned.fault == "missing":
        return
    path = root / planned.video_path
    path.parent.mkdir(parents=True, exist_ok=True)
    # A file of an earlier run may be a link to one that others hold too: replaced, not written to.
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


def render_frames(planned: PlannedVideo) -> Iterator[Picture]:
    """The frames of a video before it is encoded: uint8 of shape (height, width, 3), RGB."""
    scene = _draw_scene(planned.seed, planned.recipe, planned.scene)
    draws = Draws(planned.seed, "version", planned.scene, planned.version)
    columns, rows = _draw_crop(draws, planned)
    window = _Window.seen_through(scene.window, columns, rows)
    exposure = _exposure_table(draws.between(0.9, 1.1), draws.between(-12, 12))
    noise = _noise_table(planned.recipe.noise_sigma)
    times_sec = [index / planned.fps for index in range(planned.num_frames)]
    clock_sec = window_clock(planned, draws)
    for time_sec, window_time_sec in zip(times_sec, clock_sec, strict=True):
        frame = _look(scene.background, columns, rows, scene.camera.at(time_sec))
        window.paint(frame, scene.content, scene.motion.at(window_time_sec))
        frame = exposure[frame]
        grain = noise[draws.uniform_bytes(planned.height, planned.width)]
        yield np.clip(frame + grain[:, :, None], 0, 255).astype(np.uint8)


# ---------------------------------------------------------------- clocks


def window_clock(planned: PlannedVideo, draws: Draws) -> list[float]:
    """What the clock of the window shows at each frame, in seconds of the video.

    The tampered stretch is one interval of the duration, taken as a circle. Within it the clock
    runs over the moments of that same interval, so that no moment is shown much more often than
    in an untouched video.
    """
    times_sec = [index / planned.fps for index in range(planned.num_frames)]
    if planned.tampering == "none":
        return times_sec
    duration_sec = planned.duration_sec
    length_sec = planned.recipe.tampered_time_share * duration_sec
    start_sec = draws.between(0, duration_sec)
    blocks = _draw_blocks(draws, planned.tampering, length_sec)
    clock: list[float] = []
    for time_sec in times_sec:
        elapsed_sec = (time_sec - start_sec) % duration_sec
        if elapsed_sec < length_sec:
            elapsed_sec = _tampered(planned.tampering, elapsed_sec, length_sec, blocks)
        clock.append((start_sec + elapsed_sec) % duration_sec)
    return clock


def _draw_blocks(draws: Draws, tampering: Tampering, length_sec: float) -> list[int]:
    """The order in which blocks of equal length are shown."""
    block_sec = HOLD_SEC if tampering == "frozen" else BLOCK_SEC
    order = list(range(max(2, round(length_sec / block_sec))))
    if tampering != "repeated":
        return order
    # The order with the largest smallest jump out of some: neighbours shall not stay neighbours.
    orders = [draws.shuffled(order) for _ in range(32)]
    return max(orders, key=_smallest_jump)


def _smallest_jump(order: Sequence[int]) -> int:
    return min(abs(after - before) for before, after in pairwise(order))


def _tampered(
    tampering: Tampering, elapsed_sec: float, length_sec: float, blocks: list[int]
) -> float:
    """The moment of the tampered stretch, in [0, length_sec), shown `elapsed_sec` into it."""
    if tampering == "against":
        return (-BACKWARD_SPEED * elapsed_sec) % length_sec
    block_sec = length_sec / len(blocks)
    block = min(int(elapsed_sec / block_sec), len(blocks) - 1)
    if tampering == "frozen":
        return (block + 0.5) * block_sec
    return elapsed_sec + (blocks[block] - block) * block_sec


# ---------------------------------------------------------------- scenes


@dataclass(frozen=True, kw_only=True)
class Path2D:
    """A smooth path, in reference pixels: an ellipse, its pace swinging about 1, plus a drift."""

    radius_x_px: float
    radius_y_px: float
    period_sec: float
    phase: float
    pace_swing: float  # 0 is a constant pace; below 1 the path never turns back
    pace_period_sec: float
    pace_phase: float
    drift_x_px_per_sec: float
    drift_y_px_per_sec: float

    def at(self, time_sec: float) -> tuple[float, float]:
        swing = self.pace_swing * self.pace_period_sec / (2 * math.pi)
        pace_angle = self.pace_phase + 2 * math.pi * time_sec / self.pace_period_sec
        travelled_sec = time_sec + swing * math.sin(pace_angle)
        angle = self.phase + 2 * math.pi * travelled_sec / self.period_sec
        x_px = self.radius_x_px * math.cos(angle) + self.drift_x_px_per_sec * time_sec
        y_px = self.radius_y_px * math.sin(angle) + self.drift_y_px_per_sec * time_sec
        # cv2.remap works in steps of 1/32 px: rounding here keeps the last bits of sin out of it.
        return round(x_px * 32) / 32, round(y_px * 32) / 32


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What the versions of a scene have in common; pictures cover the reference and its margin."""

    background: Picture
    content: Picture
    window: Picture  # opacity, of shape (height, width)
    camera: Path2D
    motion: Path2D


def _draw_scene(seed: int, recipe: SampleRecipe, scene: int) -> Scene:
    draws = Draws(seed, "scene", scene)
    motion_radius_px = draws.between(*MOTION_RADIUS_PX)
    direction = draws.pick((-1.0, 1.0))
    camera_radius_px = draws.between(*CAMERA_RADIUS_PX)
    return Scene(
        background=_draw_texture(draws, BACKGROUND_GRAIN_PX),
        content=_draw_texture(draws, CONTENT_GRAIN_PX),
        window=_draw_window(draws, recipe.region_area_share),
        camera=Path2D(
            radius_x_px=camera_radius_px,
            radius_y_px=camera_radius_px * draws.between(0.8, 1.0),
            period_sec=draws.between(*CAMERA_PERIOD_SEC) * draws.pick((-1.0, 1.0)),
            phase=draws.between(0, 2 * math.pi),
            pace_swing=0.0,
            pace_period_sec=1.0,
            pace_phase=0.0,
            drift_x_px_per_sec=draws.between(-DRIFT_PX_PER_SEC, DRIFT_PX_PER_SEC),
            drift_y_px_per_sec=draws.between(-DRIFT_PX_PER_SEC, DRIFT_PX_PER_SEC),
        ),
        motion=Path2D(
            radius_x_px=motion_radius_px,
            radius_y_px=motion_radius_px * draws.between(0.9, 1.0),
            period_sec=draws.between(*MOTION_PERIOD_SEC) * direction,
            phase=draws.between(0, 2 * math.pi),
            pace_swing=MOTION_PACE_SWING,
            pace_period_sec=draws.between(*MOTION_PACE_PERIOD_SEC),
            pace_phase=draws.between(0, 2 * math.pi),
            drift_x_px_per_sec=0.0,
            drift_y_px_per_sec=0.0,
        ),
    )


def _draw_texture(draws: Draws, grain_px: int) -> Picture:
    """Smooth coloured noise with some blobs, RGB, over the reference picture and its margin."""
    width = REFERENCE_WIDTH_PX + 2 * MARGIN_PX
    height = REFERENCE_HEIGHT_PX + 2 * MARGIN_PX
    shape = (height // grain_px + 2, width // grain_px + 2)
    # Mostly brightness, some colour: encoders keep colour at a quarter of the resolution.
    cells = (
        2 * draws.uniform_bytes(*shape, 1).astype(np.uint16) + draws.uniform_bytes(*shape, 3)
    ) // 3
    picture = np.asarray(cv2.resize(cells.astype(np.uint8), (width, height)), np.uint8)
    for _ in range(6):
        centre = (int(draws.between(0, width)), int(draws.between(0, height)))
        colour = [int(draws.between(20, 235)) for _ in range(3)]
        cv2.circle(picture, centre, int(draws.between(4, grain_px)), colour, thickness=-1)
    return _with_contrast(_blurred(picture, grain_px / 3), mean=128, deviation=42)


def _with_contrast(picture: Picture, mean: int, deviation: int) -> Picture:
    """Bring mean and standard deviation of all values to those given, in 8-bit levels."""
    values = picture.astype(np.int64)  # sums of integers are exact in any order
    now_mean = int(values.sum()) / values.size
    now_deviation = math.sqrt(int((values * values).sum()) / values.size - now_mean**2)
    levels = [(level - now_mean) * deviation / now_deviation + mean for level in range(256)]
    table = np.clip(np.rint(levels), 0, 255).astype(np.uint8)
    return table[picture]


def _blurred(picture: Picture, sigma_px: float) -> Picture:
    return np.asarray(cv2.GaussianBlur(picture, (0, 0), sigma_px), np.uint8)


def _draw_window(draws: Draws, area_share: float) -> Picture:
    """Opacity of the window over the reference picture and its margin, feathered at its edges."""
    area_px = area_share * REFERENCE_WIDTH_PX * REFERENCE_HEIGHT_PX
    aspect = draws.between(0.85, 1.3)
    width = min(round(math.sqrt(area_px * aspect)), REFERENCE_WIDTH_PX - 16)
    height = min(round(math.sqrt(area_px / aspect)), REFERENCE_HEIGHT_PX - 16)
    left = MARGIN_PX + int(draws.between(8, REFERENCE_WIDTH_PX - 7 - width))
    top = MARGIN_PX + int(draws.between(8, REFERENCE_HEIGHT_PX - 7 - height))
    opacity = np.zeros(
        (REFERENCE_HEIGHT_PX + 2 * MARGIN_PX, REFERENCE_WIDTH_PX + 2 * MARGIN_PX), np.uint8
    )
    opacity[top : top + height, left : left + width] = 255
    return _blurred(opacity, FEATHER_PX)


# ---------------------------------------------------------------- pictures


def _draw_crop(
    draws: Draws, planned: PlannedVideo
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Where the columns and rows of a version lie on the textures: float32 of (width,), (height,).

    A version shows 92 to 100 % of the width of the reference, a little off its centre.
    """
    step_px = draws.between(0.92, 1.0) * REFERENCE_WIDTH_PX / planned.width
    centre_x_px = MARGIN_PX + REFERENCE_WIDTH_PX / 2 + draws.between(-3, 3)
    centre_y_px = MARGIN_PX + REFERENCE_HEIGHT_PX / 2 + draws.between(-3, 3)
    columns = centre_x_px + (np.arange(planned.width) - (planned.width - 1) / 2) * step_px
    rows = centre_y_px + (np.arange(planned.height) - (planned.height - 1) / 2) * step_px
    return columns.astype(np.float32), rows.astype(np.float32)


def _look(
    picture: Picture,
    columns: NDArray[np.float32],
    rows: NDArray[np.float32],
    offset_px: tuple[float, float],
) -> Picture:
    """The picture at columns and rows, both moved by an offset: uint8 of (rows, columns, ...)."""
    map_x = np.broadcast_to(columns + np.float32(offset_px[0]), (len(rows), len(columns)))
    map_y = np.broadcast_to((rows + np.float32(offset_px[1]))[:, None], map_x.shape)
    seen = cv2.remap(
        picture,
        np.ascontiguousarray(map_x),
        np.ascontiguousarray(map_y),
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REFLECT,
    )
    return np.asarray(seen, np.uint8)


@dataclass(frozen=True, kw_only=True)
class _Window:
    """The part of a version in which the content of the window is seen."""

    top: int
    left: int
    columns: NDArray[np.float32]
    rows: NDArray[np.float32]
    opacity: NDArray[np.uint16]  # 0 to 256, of shape (rows, columns, 1)

    @classmethod
    def seen_through(
        cls,
        window: Picture,
        columns: NDArray[np.float32],
        rows: NDArray[np.float32],
    ) -> "_Window":
        opacity = _look(window, columns, rows, (0.0, 0.0))
        ys, xs = np.nonzero(opacity.any(axis=1))[0], np.nonzero(opacity.any(axis=0))[0]
        part = np.s_[ys[0] : ys[-1] + 1, xs[0] : xs[-1] + 1]
        weight = opacity[part].astype(np.uint16)
        return cls(
            top=int(ys[0]),
            left=int(xs[0]),
            columns=columns[part[1]],
            rows=rows[part[0]],
            opacity=(weight + (weight >> 7))[:, :, None],
        )

    def paint(self, frame: Picture, content: Picture, offset_px: tuple[float, float]) -> None:
        """Blend the content, moved by an offset, into the frame in place; integers only."""
        part = frame[
            self.top : self.top + len(self.rows), self.left : self.left + len(self.columns)
        ]
        inside = _look(content, self.columns, self.rows, offset_px).astype(np.uint16)
        part[:] = (inside * self.opacity + part * (256 - self.opacity) + 128) >> 8


def _exposure_table(gain: float, offset: float) -> NDArray[np.uint8]:
    levels = (np.arange(256) - 128) * gain + 128 + offset
    table: NDArray[np.uint8] = np.clip(np.rint(levels), 0, 255).astype(np.uint8)
    return table


def _noise_table(sigma: float) -> NDArray[np.int16]:
    """Gaussian noise of a uniform byte: the middle quantiles of 256 equal shares."""
    if sigma == 0:
        return np.zeros(256, np.int16)
    normal = NormalDist(0, sigma)
    quantiles = np.array([normal.inv_cdf((byte + 0.5) / 256) for byte in range(256)])
    table: NDArray[np.int16] = np.rint(quantiles).astype(np.int16)
    return table
