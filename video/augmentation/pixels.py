"""Pixel operations of augmentation, in integer arithmetic: the same bytes on every CPU."""

import math
from collections.abc import Iterator
from functools import cache
from statistics import NormalDist

import cv2
import numpy as np
from numpy.typing import NDArray

from video.augmentation.parameters import (
    NO_AFFINE,
    NO_JITTER,
    AugmentationParameters,
    Cutout,
    Jitter,
)
from video.augmentation.random_streams import RandomStreams

Clip = NDArray[np.uint8]  # of shape (frames, height, width, 3), RGB

CUTOUT_GRAY = 128  # fills the hole: the middle of the range, so that no class owns "black"
MAX_SIDE_PX = 4096  # with the ranges of the recipe, every map coordinate then fits 16 bits

_SUBPIXEL_BITS = 5  # the fractional bits of cv2.remap's fixed-point maps
_SUBPIXELS = 1 << _SUBPIXEL_BITS
_MAX_FRAMES_AS_CHANNELS = 32  # OpenCV 5 has pictures of up to 128 channels
_COEFFICIENT_STEPS = 512  # see _chroma_matrix
_QUANTILE_STEPS = 4096  # see _normal_quantiles


def apply_parameters(
    clip: Clip, parameters: AugmentationParameters, streams: RandomStreams
) -> Clip:
    """Return a new clip; noise and displacements are drawn from `streams`."""
    # In place from here on, with little scratch: arrays of a clip's size are returned to the system
    # and faulted in again for every clip, which took a third of the whole time.
    augmented = np.take(clip, parameters.source_frames, axis=0)  # a C-contiguous copy
    _change_alike(augmented, parameters, streams)
    if parameters.noise_sigma > 0:
        _add_noise(augmented, parameters.noise_sigma, streams)
    _cut_out(augmented, parameters.cutout)
    return augmented


def _change_alike(clip: Clip, parameters: AugmentationParameters, streams: RandomStreams) -> None:
    """Apply geometry, blur and color, the same for all frames, to all frames at once.

    Meanwhile the frames are the channels of one picture. At 16 frames that saves a third of these
    steps; the two transpositions (by OpenCV: numpy's cost 10 times as much) take a tenth. Each step
    reads `picture` and writes `spare`; the clip itself is one of the two.
    """
    moves, blurs = _moves_pixels(parameters), parameters.blur_sigma_px > 0
    recolors = parameters.jitter != NO_JITTER
    if not (moves or blurs or recolors):
        return
    height, width = clip.shape[1:3]
    source_map = _source_map(parameters, streams, height, width) if moves else None
    for start in range(0, len(clip), _MAX_FRAMES_AS_CHANNELS):
        frames = clip[start : start + _MAX_FRAMES_AS_CHANNELS]
        rows = frames.reshape(len(frames), height * width, 3)
        columns = np.empty((height * width, len(frames), 3), np.uint8)
        cv2.transpose(rows, dst=columns)
        picture = columns.reshape(height, width, -1)
        spare = rows.reshape(picture.shape)
        if source_map is not None:
            _remap(picture, spare, source_map)
            picture, spare = spare, picture
        if blurs:
            _blur(picture, spare, parameters.blur_sigma_px)
            picture, spare = spare, picture
        if recolors:
            _recolor(picture, spare, parameters.jitter)
        if np.may_share_memory(picture, rows):
            columns[:] = picture.reshape(columns.shape)
        cv2.transpose(columns, dst=rows)


def _moves_pixels(parameters: AugmentationParameters) -> bool:
    return (
        parameters.rotation_deg != 0
        or parameters.affine != NO_AFFINE
        or parameters.flipped
        or parameters.elastic_px > 0
    )


def _source_map(
    parameters: AugmentationParameters, streams: RandomStreams, height: int, width: int
) -> tuple[NDArray[np.int16], NDArray[np.uint16]]:
    """Return the source of each output pixel, as the fixed-point maps of cv2.remap.

    All geometry is composed in float64 and rounded here, once. `*`, `+` and rint of arrays give
    the same bits with every instruction set; a matrix product (BLAS) or cv2.warpAffine does not.
    """
    scale, shear_deg, translate_x_share, translate_y_share = parameters.affine
    center_x, center_y = (width - 1) / 2, (height - 1) / 2
    x = np.arange(width) - (center_x + translate_x_share * width)
    y = (np.arange(height) - (center_y + translate_y_share * height))[:, np.newaxis]

    # The inverse of "scale, shear along x, rotate", about the center, with y pointing down.
    sine, cosine = _sine_cosine(parameters.rotation_deg)
    shear_sine, shear_cosine = _sine_cosine(shear_deg)
    shear = shear_sine / shear_cosine
    source_x = ((cosine - shear * sine) * x + (-sine - shear * cosine) * y) / scale + center_x
    source_y = (sine * x + cosine * y) / scale + center_y

    if parameters.elastic_px > 0:
        field = _smooth_field(parameters.elastic_grid, streams, height, width)
        source_x += parameters.elastic_px * field[0]
        source_y += parameters.elastic_px * field[1]
    if parameters.flipped:
        source_x = (width - 1) - source_x

    fixed_x = np.rint(source_x * _SUBPIXELS).astype(np.int32)
    fixed_y = np.rint(source_y * _SUBPIXELS).astype(np.int32)
    whole = np.empty((height, width, 2), np.int16)
    whole[..., 0] = fixed_x >> _SUBPIXEL_BITS
    whole[..., 1] = fixed_y >> _SUBPIXEL_BITS
    parts = (fixed_y & (_SUBPIXELS - 1)) << _SUBPIXEL_BITS | fixed_x & (_SUBPIXELS - 1)
    return whole, parts.astype(np.uint16)


def _sine_cosine(angle_deg: float) -> tuple[float, float]:
    """Return sine and cosine within 1e-13 for angles up to 180 degrees, by the Taylor series.

    The last bit of the C library's sine may depend on the library and the CPU; + * / do not.
    """
    angle = angle_deg * (math.pi / 180)
    sine, cosine, term = 0.0, 0.0, 1.0
    for n in range(0, 32, 2):
        cosine += term
        term *= angle / (n + 1)
        sine += term
        term *= -angle / (n + 2)
    return sine, cosine


def _smooth_field(
    cells: int, streams: RandomStreams, height: int, width: int
) -> NDArray[np.float64]:
    """Return displacements along x and y, float64 of shape (2, height, width) in [-1, 1).

    Random at the nodes of a grid of `cells` x `cells`, interpolated by 3t^2 - 2t^3, whose slope is
    0 at the nodes, so that there is no crease.
    """
    uniforms = streams.uniforms("elastic nodes", 2 * (cells + 1) ** 2)
    nodes = (2 * uniforms - 1).reshape(2, cells + 1, cells + 1)
    row, down = _eased_positions(cells, height)
    rows = nodes[:, row] * (1 - down)[:, np.newaxis] + nodes[:, row + 1] * down[:, np.newaxis]
    column, right = _eased_positions(cells, width)
    return rows[:, :, column] * (1 - right) + rows[:, :, column + 1] * right


def _eased_positions(cells: int, length: int) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Return the cell of each pixel on a side, and its eased position in the cell, in [0, 1)."""
    position = (np.arange(length) + 0.5) * cells / length
    cell = position.astype(np.intp)
    t = position - cell
    return cell, t * t * (3 - 2 * t)


def _remap(
    picture: Clip, target: Clip, source_map: tuple[NDArray[np.int16], NDArray[np.uint16]]
) -> None:
    """Remap the picture by `source_map`, bilinear in fixed point.

    Outside the frame the picture is mirrored (reflect-101): black corners would distinguish
    augmented clips from real ones.
    """
    cv2.remap(picture, *source_map, cv2.INTER_LINEAR, dst=target, borderMode=cv2.BORDER_REFLECT_101)


def _blur(picture: Clip, target: Clip, sigma_px: float) -> None:
    # Exact: on uint8, OpenCV computes the kernel in software floats and the sums in fixed point.
    cv2.GaussianBlur(picture, (0, 0), sigma_px, dst=target, borderType=cv2.BORDER_REFLECT_101)


def _recolor(picture: Clip, scratch: Clip, jitter: Jitter) -> None:
    levels = (np.arange(256) - 127.5) * (1 + jitter.contrast) + 127.5 + 255 * jitter.brightness
    pixels, toned = (array.reshape(len(array), -1, 3) for array in (picture, scratch))
    cv2.LUT(pixels, np.rint(levels).clip(0, 255).astype(np.uint8), dst=toned)
    cv2.transform(toned, _chroma_matrix(jitter), dst=pixels)


_LUMA = np.array([0.213, 0.715, 0.072])
_QUARTER_TURN = np.array([[-0.213, -0.715, 0.928], [0.143, 0.140, -0.283], [-0.787, 0.715, 0.072]])


def _chroma_matrix(jitter: Jitter) -> NDArray[np.float64]:
    """Return the RGB -> RGB matrix of saturation and hue, float64 (3, 4) with the offset last.

    The matrices of SVG 1.1, feColorMatrix, saturate and hueRotate: both keep the luma.
    Coefficients are multiples of 1/512 and the offset is 1/1024. Every sum is then exact both in
    cv2.transform's fixed point and in its floats, and none lies half-way between two gray levels,
    where the two would round differently.
    """
    sine, cosine = _sine_cosine(360 * jitter.hue_turn)
    chroma = cosine * (np.eye(3) - _LUMA) + sine * _QUARTER_TURN
    steps = np.rint((_LUMA + (1 + jitter.saturation) * chroma) * _COEFFICIENT_STEPS)
    # Rows that sum to exactly 1 leave gray pixels unchanged, whatever was rounded.
    steps[np.diag_indices(3)] += _COEFFICIENT_STEPS - steps.sum(axis=1)
    offset = np.full((3, 1), 0.5)
    return np.hstack((steps, offset)) / _COEFFICIENT_STEPS


def _add_noise(clip: Clip, sigma: float, streams: RandomStreams) -> None:
    """Add noise in place: each random byte picks one of 256 equal shares, up to 2.9 sigma."""
    values = np.rint(sigma * _normal_quantiles()).astype(np.int16)
    stream = streams.stream("noise values")
    # With its highest bit flipped, a byte is its value - 128 as int8, and saturates where the byte
    # would: OpenCV adds two arrays of int8 8 times as fast as uint8 and int16.
    clip ^= 128
    for start in range(0, len(clip), 8):
        frames = clip[start : start + 8]  # 8 frames use up whole words of 8 bytes
        words = stream.random_raw(-(-frames.size // 8)).astype("<u8", copy=False)
        picks = words.view(np.uint8)[: frames.size].reshape(len(frames), -1)
        pixels = frames.view(np.int8).reshape(picks.shape)
        for part in _within_int8(values):
            cv2.add(pixels, cv2.LUT(picks, part), dst=pixels)
    clip ^= 128


def _within_int8(values: NDArray[np.int16]) -> Iterator[NDArray[np.int8]]:
    """Yield int8 arrays that sum to `values`, with one sign per value: they saturate as the sum."""
    while values.any():
        part = values.clip(-128, 127)
        yield part.astype(np.int8)
        values = values - part


@cache
def _normal_quantiles() -> NDArray[np.float64]:
    """Return the standard normal quantiles at the middles of 256 equal shares.

    Rounded to 1/4096, to be the same with every C library's logarithm.
    """
    normal = NormalDist()
    quantiles = [normal.inv_cdf((share + 0.5) / 256) for share in range(256)]
    return np.rint(np.array(quantiles, np.float64) * _QUANTILE_STEPS) / _QUANTILE_STEPS


def _cut_out(clip: Clip, cutout: Cutout) -> None:
    num_rows, num_columns = clip.shape[1:3]
    height = round(cutout.height_share * num_rows)
    width = round(cutout.width_share * num_columns)
    top = int(cutout.top_share * (num_rows - height + 1))
    left = int(cutout.left_share * (num_columns - width + 1))
    clip[:, top : top + height, left : left + width] = CUTOUT_GRAY
