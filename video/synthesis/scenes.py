"""Scenes: the textures, window and motion that the videos of one scene share."""

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from video.synthesis.random_streams import RandomStream

# Lengths below are in pixels of the reference picture; a version maps its own pixels onto it.
REFERENCE_WIDTH_PX, REFERENCE_HEIGHT_PX = 160, 120
MARGIN_PX = 48  # texture around the reference picture: camera, drift and the tallest version
FEATHER_PX = 3.0
BACKGROUND_GRAIN_PX = 14
CONTENT_GRAIN_PX = 12
CAMERA_RADIUS_PX = (8.0, 11.0)
CAMERA_PERIOD_SEC = (3.5, 4.5)
DRIFT_PX_PER_SEC = 2.0
# A step of about 0.3 s moves the content by about one grain, a jump across the path by two: the
# largest differences that pictures of this grain can show.
MOTION_RADIUS_PX = (10.0, 12.0)
MOTION_PERIOD_SEC = (2.0, 2.5)
# At a constant pace the moments of a clip would lie evenly on the path, in any order, but tampered
# ones would not. An uneven pace makes the two sets of moments look alike.
MOTION_PACE_SWING = 0.35
MOTION_PACE_PERIOD_SEC = (0.8, 1.6)

Picture = NDArray[np.uint8]  # (height, width, 3), RGB, or (height, width)


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
    """The shared part of a scene's versions; pictures cover the reference and its margin."""

    background: Picture
    content: Picture
    window: Picture  # opacity, of shape (height, width)
    camera: Path2D
    motion: Path2D


def draw_scene(seed: int, scene: int, *, region_area_share: float) -> Scene:
    """Draw a scene by number; `region_area_share` is the window's area over the reference's."""
    stream = RandomStream(seed, "scene", scene)
    motion_radius_px = stream.between(*MOTION_RADIUS_PX)
    direction = stream.choice((-1.0, 1.0))
    camera_radius_px = stream.between(*CAMERA_RADIUS_PX)
    return Scene(
        background=_draw_texture(stream, BACKGROUND_GRAIN_PX),
        content=_draw_texture(stream, CONTENT_GRAIN_PX),
        window=_draw_window(stream, region_area_share),
        camera=Path2D(
            radius_x_px=camera_radius_px,
            radius_y_px=camera_radius_px * stream.between(0.8, 1.0),
            period_sec=stream.between(*CAMERA_PERIOD_SEC) * stream.choice((-1.0, 1.0)),
            phase=stream.between(0, 2 * math.pi),
            pace_swing=0.0,
            pace_period_sec=1.0,
            pace_phase=0.0,
            drift_x_px_per_sec=stream.between(-DRIFT_PX_PER_SEC, DRIFT_PX_PER_SEC),
            drift_y_px_per_sec=stream.between(-DRIFT_PX_PER_SEC, DRIFT_PX_PER_SEC),
        ),
        motion=Path2D(
            radius_x_px=motion_radius_px,
            radius_y_px=motion_radius_px * stream.between(0.9, 1.0),
            period_sec=stream.between(*MOTION_PERIOD_SEC) * direction,
            phase=stream.between(0, 2 * math.pi),
            pace_swing=MOTION_PACE_SWING,
            pace_period_sec=stream.between(*MOTION_PACE_PERIOD_SEC),
            pace_phase=stream.between(0, 2 * math.pi),
            drift_x_px_per_sec=0.0,
            drift_y_px_per_sec=0.0,
        ),
    )


def _draw_texture(stream: RandomStream, grain_px: int) -> Picture:
    """Draw smooth colored noise with blobs, RGB, over the reference picture and its margin."""
    width = REFERENCE_WIDTH_PX + 2 * MARGIN_PX
    height = REFERENCE_HEIGHT_PX + 2 * MARGIN_PX
    shape = (height // grain_px + 2, width // grain_px + 2)
    # Mostly brightness, some color: encoders keep color at a quarter of the resolution.
    cells = (
        2 * stream.uniform_bytes(*shape, 1).astype(np.uint16) + stream.uniform_bytes(*shape, 3)
    ) // 3
    picture = np.asarray(cv2.resize(cells.astype(np.uint8), (width, height)), np.uint8)
    for _ in range(6):
        center = (int(stream.between(0, width)), int(stream.between(0, height)))
        color = [int(stream.between(20, 235)) for _ in range(3)]
        cv2.circle(picture, center, int(stream.between(4, grain_px)), color, thickness=-1)
    return _with_contrast(_blurred(picture, grain_px / 3), mean=128, deviation=42)


def _with_contrast(picture: Picture, mean: int, deviation: int) -> Picture:
    """Scale all values to the given mean and standard deviation, in 8-bit levels."""
    values = picture.astype(np.int64)  # sums of integers are exact in any order
    now_mean = int(values.sum()) / values.size
    now_deviation = math.sqrt(int((values * values).sum()) / values.size - now_mean**2)
    levels = [(level - now_mean) * deviation / now_deviation + mean for level in range(256)]
    table = np.clip(np.rint(levels), 0, 255).astype(np.uint8)
    return table[picture]


def _blurred(picture: Picture, sigma_px: float) -> Picture:
    return np.asarray(cv2.GaussianBlur(picture, (0, 0), sigma_px), np.uint8)


def _draw_window(stream: RandomStream, area_share: float) -> Picture:
    """Draw the window's opacity over the reference picture and its margin, with feathered edges."""
    area_px = area_share * REFERENCE_WIDTH_PX * REFERENCE_HEIGHT_PX
    aspect = stream.between(0.85, 1.3)
    width = min(round(math.sqrt(area_px * aspect)), REFERENCE_WIDTH_PX - 16)
    height = min(round(math.sqrt(area_px / aspect)), REFERENCE_HEIGHT_PX - 16)
    left = MARGIN_PX + int(stream.between(8, REFERENCE_WIDTH_PX - 7 - width))
    top = MARGIN_PX + int(stream.between(8, REFERENCE_HEIGHT_PX - 7 - height))
    opacity = np.zeros(
        (REFERENCE_HEIGHT_PX + 2 * MARGIN_PX, REFERENCE_WIDTH_PX + 2 * MARGIN_PX), np.uint8
    )
    opacity[top : top + height, left : left + width] = 255
    return _blurred(opacity, FEATHER_PX)
