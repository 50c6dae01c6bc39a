"""The frames of a video of the sample: its scene as seen by one camera."""

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import NormalDist

import cv2
import numpy as np
from numpy.typing import NDArray

from video.synthesis.clocks import window_clock
from video.synthesis.plan import PlannedVideo
from video.synthesis.random_streams import RandomStream
from video.synthesis.scenes import (
    MARGIN_PX,
    REFERENCE_HEIGHT_PX,
    REFERENCE_WIDTH_PX,
    Picture,
    draw_scene,
)


def render_frames(planned: PlannedVideo) -> Iterator[Picture]:
    """Yield the frames of a video before encoding: uint8 of shape (height, width, 3), RGB."""
    share = planned.recipe.region_area_share
    scene = draw_scene(planned.seed, planned.scene, region_area_share=share)
    stream = RandomStream(planned.seed, "version", planned.scene, planned.version)
    columns, rows = _draw_crop(stream, planned)
    window = _Window.seen_through(scene.window, columns, rows)
    exposure = _exposure_table(stream.between(0.9, 1.1), stream.between(-12, 12))
    noise = _noise_table(planned.recipe.noise_sigma)
    times_sec = [index / planned.fps for index in range(planned.num_frames)]
    clock_sec = window_clock(planned, stream)
    for time_sec, window_time_sec in zip(times_sec, clock_sec, strict=True):
        frame = _look(scene.background, columns, rows, scene.camera.at(time_sec))
        window.paint(frame, scene.content, scene.motion.at(window_time_sec))
        frame = exposure[frame]
        grain = noise[stream.uniform_bytes(planned.height, planned.width)]
        yield np.clip(frame + grain[:, :, None], 0, 255).astype(np.uint8)


def _draw_crop(
    stream: RandomStream, planned: PlannedVideo
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Draw the positions of columns and rows on the textures: float32 of (width,), (height,).

    A version shows 92 to 100 % of the width of the reference, a little off its center.
    """
    step_px = stream.between(0.92, 1.0) * REFERENCE_WIDTH_PX / planned.width
    center_x_px = MARGIN_PX + REFERENCE_WIDTH_PX / 2 + stream.between(-3, 3)
    center_y_px = MARGIN_PX + REFERENCE_HEIGHT_PX / 2 + stream.between(-3, 3)
    columns = center_x_px + (np.arange(planned.width) - (planned.width - 1) / 2) * step_px
    rows = center_y_px + (np.arange(planned.height) - (planned.height - 1) / 2) * step_px
    return columns.astype(np.float32), rows.astype(np.float32)


def _look(
    picture: Picture,
    columns: NDArray[np.float32],
    rows: NDArray[np.float32],
    offset_px: tuple[float, float],
) -> Picture:
    """Sample the picture at columns and rows, moved by an offset: uint8 of (rows, columns, ...)."""
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
    """Return the Gaussian noise of each uniform byte: the middles of 256 equal shares."""
    if sigma == 0:
        return np.zeros(256, np.int16)
    normal = NormalDist(0, sigma)
    quantiles = np.array([normal.inv_cdf((byte + 0.5) / 256) for byte in range(256)])
    table: NDArray[np.int16] = np.rint(quantiles).astype(np.int16)
    return table
