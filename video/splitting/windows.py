"""Parts of pictures in which a copy that was cropped, framed or turned shows the same."""

from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Pictures = NDArray[np.uint8]  # gray, of shape (pictures, rows, columns)


class Window(NamedTuple):
    """A part of a picture, in shares of its height and width, of the picture turned by an angle."""

    top: float
    bottom: float
    left: float
    right: float
    turn_deg: int = 0


def _centered(rows: float, columns: float, turn_deg: int = 0) -> Window:
    return Window((1 - rows) / 2, (1 + rows) / 2, (1 - columns) / 2, (1 + columns) / 2, turn_deg)


# Which windows: of some 40 tried on 54 kinds of copies of 20 surveillance clips, those that find
# most that the others miss, and their mirror images.
WINDOWS = {
    "picture inside of its border": Window(0, 1, 0, 1),
    "middle 80 %": _centered(0.8, 0.8),
    "middle 70 %": _centered(0.7, 0.7),
    "middle 60 %": _centered(0.6, 0.6),
    "top left 80 %": Window(0, 0.8, 0, 0.8),
    "top right 80 %": Window(0, 0.8, 0.2, 1),
    "bottom left 80 %": Window(0.2, 1, 0, 0.8),
    "bottom right 80 %": Window(0.2, 1, 0.2, 1),
    "top middle 80 %": Window(0, 0.8, 0.1, 0.9),
    "bottom middle 80 %": Window(0.2, 1, 0.1, 0.9),
    "left middle 80 %": Window(0.1, 0.9, 0, 0.8),
    "right middle 80 %": Window(0.1, 0.9, 0.2, 1),
    "top left 90 %": Window(0, 0.9, 0, 0.9),
    "top right 90 %": Window(0, 0.9, 0.1, 1),
    "bottom left 90 %": Window(0.1, 1, 0, 0.9),
    "bottom right 90 %": Window(0.1, 1, 0.1, 1),
    "left nine tenths": Window(0, 1, 0, 0.9),
    "right nine tenths": Window(0, 1, 0.1, 1),
    "top nine tenths": Window(0, 0.9, 0, 1),
    "bottom nine tenths": Window(0.1, 1, 0, 1),
    "left half": Window(0, 1, 0, 0.5),
    "right half": Window(0, 1, 0.5, 1),
    "top half": Window(0, 0.5, 0, 1),
    "bottom half": Window(0.5, 1, 0, 1),
    "top left quarter": Window(0, 0.5, 0, 0.5),
    "top right quarter": Window(0, 0.5, 0.5, 1),
    "bottom left quarter": Window(0.5, 1, 0, 0.5),
    "bottom right quarter": Window(0.5, 1, 0.5, 1),
    # Pictures in frames of another aspect ratio: 16:9 in 21:9, in 9:16, and 4:3 in 9:16.
    "middle columns of 16:9 in 21:9": _centered(1, 0.76),
    "middle rows of 21:9 in 16:9": _centered(0.76, 1),
    "middle rows of 16:9 in 9:16": _centered(0.316, 1),
    "middle columns of 9:16 in 16:9": _centered(1, 0.316),
    "middle rows of 4:3 in 9:16": _centered(0.42, 1),
    "middle columns of 9:16 in 4:3": _centered(1, 0.42),
    "picture turned by 8 degrees": _centered(1, 1, 8),
    "picture turned by -8 degrees": _centered(1, 1, -8),
    "middle 80 % turned by 8 degrees": _centered(0.8, 0.8, 8),
    "middle 80 % turned by -8 degrees": _centered(0.8, 0.8, -8),
}

_SIN_8, _COS_8 = 0.139173, 0.990268  # literal, for libraries of other machines may round them
_FLAT_LEVELS = 24  # between the quantiles of a row or column of a border
_QUANTILE = 0.12  # of the pixels of a row that a logo or the picture's own edge may cover
_MIN_SHARE_LEFT = 4  # a quarter of either side; less is no picture with bars but a dark one
_MIN_SIDE_PX = 9  # as many cells as a hash has


def window(pictures: Pictures, place: Window) -> Pictures:
    """Cut a window out of pictures; what a turn brings in from outside is black."""
    top, bottom = _pixels(pictures.shape[1], place.top, place.bottom)
    left, right = _pixels(pictures.shape[2], place.left, place.right)
    return _turned(pictures, place.turn_deg)[:, top:bottom, left:right]


def without_borders(pictures: Pictures) -> Pictures:
    """Cut off the rows and columns at the edges that are of one color in all pictures."""
    columns = np.ascontiguousarray(pictures.swapaxes(1, 2))
    top, bottom = content_span(_largest_range(pictures) > _FLAT_LEVELS)
    left, right = content_span(_largest_range(columns) > _FLAT_LEVELS)
    return pictures[:, top:bottom, left:right]


def content_span(content: NDArray[np.bool_]) -> tuple[int, int]:
    """Return first and last + 1 of the rows or columns with content, or all if those are few."""
    found = np.flatnonzero(content)
    if len(found) == 0 or (found[-1] + 1 - found[0]) * _MIN_SHARE_LEFT < len(content):
        return 0, len(content)
    return int(found[0]), int(found[-1]) + 1


def _largest_range(lines: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return the distance of the quantiles of each line, the largest over the pictures.

    `lines` are rows or columns, of shape (pictures, lines, pixels).
    """
    levels = np.sort(lines).astype(np.int64)
    low = int(_QUANTILE * (levels.shape[-1] - 1))
    return np.asarray((levels[..., -1 - low] - levels[..., low]).max(axis=0), np.int64)


def _pixels(size: int, first: float, last: float) -> tuple[int, int]:
    start, end = round(first * size), round(last * size)
    return (start, end) if end - start >= _MIN_SIDE_PX else (0, size)


def _turned(pictures: Pictures, turn_deg: int) -> Pictures:
    """Turn about the middle, counterclockwise; each pixel takes the nearest one's value."""
    if turn_deg == 0:
        return pictures
    places, inside = _places(pictures.shape[1], pictures.shape[2], turn_deg)
    flat = pictures.reshape(len(pictures), -1)
    return np.where(inside, flat.take(places, axis=1), 0).astype(np.uint8)


@cache
def _places(height: int, width: int, turn_deg: int) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """Return the place of the pixel that each one takes its value of, and whether there is one."""
    sine = _SIN_8 if turn_deg > 0 else -_SIN_8
    y = np.arange(height)[:, None] - (height - 1) / 2
    x = np.arange(width)[None, :] - (width - 1) / 2
    rows = np.floor(_COS_8 * y + sine * x + height / 2).astype(np.intp)
    columns = np.floor(_COS_8 * x - sine * y + width / 2).astype(np.intp)
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    return rows.clip(0, height - 1) * width + columns.clip(0, width - 1), inside
