"""Perceptual hashes of a video that survive re-encoding: the input of duplicates.py.

A hash has 128 bits: whether each cell of a coarse grey picture is darker than its neighbour to
the right, and darker than the one below. Brightness, contrast, scale, aspect ratio, codec and
rate change few of them. Black bars are cut off first, because they would make all pictures with
bars alike, and pictures without contrast have no hash, because it would be noise.
"""

from typing import cast

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter
from numpy.typing import NDArray

FINGERPRINT_VERSION = 1

WORDS_PER_HASH = 2  # of 64 bits
MAX_HASHES = 32
MIN_STEP = 4  # frames; a short video has fewer hashes instead of dearer ones

# Area averaging of the luma alone; the flags make swscale give the same bytes on every CPU.
_SCALING = Interpolation.AREA | Interpolation.ACCURATE_RND | Interpolation.BITEXACT
_SIDE_PX = 64  # of the pictures kept, whatever the aspect ratio
_CELLS = 8
_BLACK_LEVEL = 24  # of 255; bars are darker, the noise of their encoding included
_MIN_SHARE_LEFT = 4  # a quarter of either side; less is no picture with bars but a dark one
_MIN_CONTRAST = 4  # grey levels, standard deviation over the cells


class Fingerprint:
    """The hashes of evenly spaced pictures of a video, which is fed in frame by frame.

    Kept are the frames 0, s, 2s, … with s the smallest power of two from `MIN_STEP` on that
    leaves at most `MAX_HASHES`, so at least half as many for a video of 64 frames or more. The
    number of frames need not be known: `expected_frames`, from the header, only saves scaling
    pictures that would be dropped again. (Too large a number costs hashes; such a file is
    `truncated`.)

    Cost: 0.05 to 0.6 ms per picture; 4 % of the inspection of 60 frames, 1 to 4 % of that of 300.
    """

    def __init__(self, expected_frames: int = 0) -> None:
        self._step = MIN_STEP
        while -(-expected_frames // self._step) > MAX_HASHES:
            self._step *= 2
        self._pictures: list[NDArray[np.uint8]] = []
        self._num_frames = 0
        self._scaler = VideoReformatter()  # setting one up costs as much as its use

    def add(self, frame: av.VideoFrame) -> None:
        if self._num_frames % self._step == 0:
            if len(self._pictures) == MAX_HASHES:
                self._pictures = self._pictures[::2]
                self._step *= 2
            if self._num_frames % self._step == 0:
                self._pictures.append(self._small(frame))
        self._num_frames += 1

    def hashes(self) -> tuple[int, ...]:
        """Return two unsigned 64-bit words per kept picture that has contrast, in order of time."""
        if not self._pictures:
            return ()
        words = picture_hashes(np.stack(self._pictures))
        return tuple(int(word) for word in words.ravel())

    def _small(self, frame: av.VideoFrame) -> NDArray[np.uint8]:
        gray = self._scaler.reformat(
            frame,
            width=_SIDE_PX,
            height=_SIDE_PX,
            format="gray",
            interpolation=_SCALING,
            threads=1,
        )
        return cast(NDArray[np.uint8], gray.to_ndarray())


def picture_hashes(pictures: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Hash the grey pictures of one video, uint8 of shape (pictures, side, side).

    Returns uint64 of shape (pictures with contrast, 2). All arithmetic is on integers (the floats
    hold whole numbers below 2**53), so the result is the same on every machine.
    """
    content = _without_bars(pictures).astype(np.float64)
    rows, columns = content.shape[1:]
    cells = _averaged(content, _CELLS, _CELLS)
    # In sums over rows * columns pixels: compared with squares, so that nothing is rounded.
    spread = (cells**2).mean((1, 2)) - cells.mean((1, 2)) ** 2
    content = content[spread >= (_MIN_CONTRAST * rows * columns) ** 2]
    wide = _averaged(content, _CELLS, _CELLS + 1)
    tall = _averaged(content, _CELLS + 1, _CELLS)
    brighter_right = wide[:, :, 1:] > wide[:, :, :-1]
    brighter_below = tall[:, 1:] > tall[:, :-1]
    bits = np.stack([brighter_right, brighter_below], axis=1).reshape(len(content), 2, 64)
    return cast(NDArray[np.uint64], np.packbits(bits, axis=2).view(">u8")[..., 0].astype(np.uint64))


def _without_bars(pictures: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Cut off the rows and columns at the edges that are black in all pictures."""
    brightest = pictures.max(axis=0)
    (top, bottom), (left, right) = (_bright_span(brightest.max(axis=axis)) for axis in (1, 0))
    return pictures[:, top:bottom, left:right]


def _bright_span(levels: NDArray[np.uint8]) -> tuple[int, int]:
    bright = np.flatnonzero(levels > _BLACK_LEVEL)
    if len(bright) == 0 or (bright[-1] + 1 - bright[0]) * _MIN_SHARE_LEFT < len(levels):
        return 0, len(levels)
    return int(bright[0]), int(bright[-1]) + 1


def _averaged(pictures: NDArray[np.float64], rows: int, columns: int) -> NDArray[np.float64]:
    """Sum over `rows` x `columns` cells of equal area, each of as many pixels as the picture has.

    Pixels on the border of two cells count in parts; all are counted `rows * columns` times, so
    that the parts are whole numbers.
    """
    height, width = pictures.shape[1:]
    return _overlaps(rows, height) @ pictures @ _overlaps(columns, width).T


def _overlaps(cells: int, pixels: int) -> NDArray[np.float64]:
    """Return the overlap of each cell with each pixel on one axis, in 1 / `cells` pixel."""
    cell = np.arange(cells)[:, None] * pixels
    pixel = np.arange(pixels)[None, :] * cells
    overlap = np.minimum(cell + pixels, pixel + cells) - np.maximum(cell, pixel)
    return cast(NDArray[np.float64], np.maximum(overlap, 0).astype(np.float64))
