"""Augmentation as a function: what determines the bytes of a clip stands in its arguments.

The bytes of an augmented clip follow from (`TRANSFORM_VERSION`, seed, content hash of the video,
copy number, recipe) and the clip itself. No generator is carried from one clip to the next, so
neither the order of the clips nor the number of workers can change a byte. No step depends on the
CPU: random numbers are raw Philox integers, parameters are float64 scalars built with + - * /
alone, and pixels are computed with integers (fixed-point maps, tables, rounded coefficients).

The order of operations, each with a stream of random numbers of its own:

    reversal, frame duplication, frame drop   one gathering of frames
    flip, scale, shear, rotation, elastic     one map for the whole clip, one `cv2.remap` a frame
    blur
    brightness, contrast, saturation, hue     one table, one 3x3 transform
    noise                                     fresh in every frame
    cutout

Geometry, blur, colour and cutout are the same in all frames of a clip: a change from frame to
frame would be motion that the video does not have.
"""

import math
import operator
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from statistics import NormalDist
from typing import Annotated, NamedTuple, get_type_hints

import cv2
import numpy as np
from numpy.random.bit_generator import ISeedSequence
from numpy.typing import NDArray

Clip = NDArray[np.uint8]  # of shape (frames, height, width, 3), RGB

# Raise it with any change of code that changes a byte of any augmented clip: the version enters
# every random stream and the key of every stored clip.
TRANSFORM_VERSION = 1

CUTOUT_GREY = 128  # fills the hole: the middle of the range, so that no class owns "black"
MAX_SIDE_PX = 4096  # with the ranges of the recipe, every map coordinate then fits 16 bits

_SUBPIXEL_BITS = 5  # the fractional bits of cv2.remap's fixed-point maps
_SUBPIXELS = 1 << _SUBPIXEL_BITS
_MOST_FRAMES_AS_CHANNELS = 32  # OpenCV 5 has pictures of up to 128 channels
_COEFFICIENT_STEPS = 512  # see _chroma_matrix
_QUANTILE_STEPS = 4096  # see _normal_quantiles


@dataclass(frozen=True)
class Range:
    """The values that a field of the recipe may take, both ends included."""

    low: float
    high: float
    unit: str


Probability = Annotated[float, Range(0, 1, "probability, per clip")]
Share = Annotated[float, Range(0, 1, "share")]


@dataclass(frozen=True, kw_only=True)
class AugmentationRecipe:
    """How often and how far each operation goes; amounts are drawn uniformly within the limits.

    A probability of 0 switches an operation off and changes no other one.
    Raises ValueError that names every value out of its range.
    """

    rotation_probability: Probability
    rotation_max_deg: Annotated[float, Range(0, 180, "degrees, either way")]

    affine_probability: Probability
    scale_min: Annotated[float, Range(0.5, 2, "size of the picture's content, 1 = unchanged")]
    scale_max: Annotated[float, Range(0.5, 2, "size of the picture's content, 1 = unchanged")]
    translate_max_share: Annotated[float, Range(0, 0.5, "share of width and height, either way")]
    shear_max_deg: Annotated[float, Range(0, 45, "degrees, along x, either way")]

    flip_probability: Probability
    """Mirrors left and right. Keep 0 where left and right are classes."""

    jitter_probability: Probability
    brightness_max: Annotated[float, Range(0, 1, "share of 255 added, either way")]
    contrast_max: Annotated[float, Range(0, 1, "factor 1 ± contrast about 127.5")]
    saturation_max: Annotated[float, Range(0, 1, "factor 1 ± saturation about the luma")]
    hue_max_turn: Annotated[float, Range(0, 0.5, "turns of the colour wheel, either way")]

    noise_probability: Probability
    noise_max_sigma: Annotated[float, Range(0, 64, "grey levels of 0 to 255")]
    """Gaussian noise, fresh in every frame: to a model that sees differences it is motion."""

    blur_probability: Probability
    blur_max_sigma_px: Annotated[float, Range(0, 16, "pixels of the clip")]

    cutout_probability: Probability
    cutout_max_share: Annotated[float, Range(0, 1, "share of height and of width")]
    """One rectangle of `CUTOUT_GREY`, at the same place in all frames, wholly inside the frame."""

    elastic_probability: Probability
    elastic_max_px: Annotated[float, Range(0, 64, "pixels of the clip, along x and along y")]
    """Above about a third of a cell the picture folds onto itself."""
    elastic_grid: Annotated[int, Range(1, 32, "cells a side, between nodes that move freely")]

    frame_drop_probability: Probability
    frame_drop_max_share: Share
    """Share of the clip's frames, rounded down. A dropped frame is replaced by the last frame
    before it that was kept, as a player does: the clip keeps its length and its timing, motion
    stops and then jumps. The first frame is never dropped."""

    frame_duplication_probability: Probability
    frame_duplication_max_share: Share
    """Share of the clip's frames, rounded down. A duplicated frame is shown twice and delays all
    that follow; what no longer fits the clip's length falls off its end."""

    reversal_probability: Probability
    """Plays the clip backwards. Keep 0 where the direction of time tells classes apart."""

    def __post_init__(self) -> None:
        faults = _out_of_range(self)
        if not faults and self.scale_min > self.scale_max:
            faults = [
                f"scale_min: expected at most scale_max = {self.scale_max}, got {self.scale_min}"
            ]
        if faults:
            raise ValueError(
                "augmentation recipe: " + "; ".join(faults) + "; correct these parameters"
            )


def _out_of_range(recipe: AugmentationRecipe) -> list[str]:
    faults = []
    for name, hint in get_type_hints(AugmentationRecipe, include_extras=True).items():
        (limits,) = hint.__metadata__
        value = getattr(recipe, name)
        kinds = int if hint.__origin__ is int else (int, float)
        # `low <= nan` is false: a NaN is out of every range.
        if not isinstance(value, kinds) or not limits.low <= value <= limits.high:
            noun = "a whole number" if kinds is int else "a number"
            faults.append(
                f"{name}: expected {noun} from {limits.low} to {limits.high} ({limits.unit}), "
                f"got {value!r}"
            )
    return faults


def augment_clip(
    clip: Clip, recipe: AugmentationRecipe, *, seed: int, video_sha256: str, copy: int
) -> Clip:
    """One augmented copy of a clip.

    Args:
        clip: uint8 of shape (frames, height, width, 3), RGB; left as it is.
        recipe: what may be done to it.
        seed: any integer, the same for a whole data set.
        video_sha256: SHA-256 of the video file, 64 lower-case hexadecimal digits.
        copy: which of the video's augmented copies, from 0.

    Returns:
        A new C-contiguous array of the same shape and type.

    Raises:
        ValueError: the clip is no such array, or the hash or the copy number is not as above.
    """
    _check_clip(clip)
    draws = Draws.of(seed=seed, video_sha256=video_sha256, copy=copy)
    return apply_parameters(clip, sample_parameters(recipe, draws, len(clip)), draws)


def _check_clip(clip: object) -> None:
    if (
        not isinstance(clip, np.ndarray)
        or clip.dtype != np.uint8
        or clip.ndim != 4
        or clip.shape[3] != 3
    ):
        raise ValueError(
            "augment_clip: clip: expected a uint8 array of shape (frames, height, width, 3), "
            f"got {_described(clip)}; pass one clip, not a batch, as bytes with channels last"
        )
    if min(clip.shape) < 1 or max(clip.shape[1:3]) > MAX_SIDE_PX:
        raise ValueError(
            "augment_clip: clip: expected at least one frame and sides of "
            f"1 to {MAX_SIDE_PX} px, got {_described(clip)}; decode the video to another size"
        )


def _described(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype} of shape {value.shape}"
    return type(value).__name__


# --- Random numbers ---------------------------------------------------------------------------


class _Key(ISeedSequence):
    """A Philox key as a seed: `Philox(key=…)` gives the same stream, but takes 3 times as long,
    for it asks the system for a seed first."""

    def __init__(self, digest: bytes) -> None:
        self._words = np.frombuffer(digest, "<u8").astype(np.uint64)

    def generate_state(self, n_words: int, dtype: object = np.uint32) -> NDArray[np.uint64]:
        assert (n_words, dtype) == (2, np.uint64)  # what Philox asks for
        return self._words


@dataclass(frozen=True)
class Draws:
    """The random numbers of one augmented clip, by purpose.

    Every purpose has its own Philox key. What one operation draws therefore depends neither on
    how much another one draws nor on whether another one is applied.
    """

    identity: str

    @classmethod
    def of(cls, *, seed: int, video_sha256: str, copy: int) -> "Draws":
        """Raises ValueError for a hash or a copy number that could not be a clip's identity."""
        # The same hash in capitals would be other bytes for the same video.
        if not re.fullmatch("[0-9a-f]{64}", video_sha256):
            raise ValueError(
                "augment_clip: video_sha256: expected 64 lower-case hexadecimal digits, "
                f"got {video_sha256!r}; pass the SHA-256 of the video file's bytes"
            )
        if copy < 0:
            raise ValueError(f"augment_clip: copy: expected 0 or more, got {copy}; count from 0")
        # index(): 1 and np.int64(1) are one identity, 1.0 is refused.
        return cls(
            f"{TRANSFORM_VERSION}|{operator.index(seed)}|{video_sha256}|{operator.index(copy)}"
        )

    def stream(self, purpose: str) -> np.random.Philox:
        """A new stream from its beginning, for `random_raw`: integers of 64 bits.

        Raw integers, since numpy may change what its Generator makes of them between versions.
        """
        digest = blake2b(f"{self.identity}|{purpose}".encode(), digest_size=16).digest()
        # The stubs know one kind of ISeedSequence, which is taken in general.
        return np.random.Philox(_Key(digest))  # type: ignore[arg-type]

    def raw(self, purpose: str, count: int) -> NDArray[np.uint64]:
        """The first `count` integers of the stream, of 64 bits each."""
        return self.stream(purpose).random_raw(count)

    def uniforms(self, purpose: str, count: int) -> NDArray[np.float64]:
        """`count` numbers in [0, 1), multiples of 2**-53 and thus exact."""
        return (self.raw(purpose, count) >> np.uint64(11)).astype(np.float64) * 2.0**-53


# --- Sampling: from the recipe to the parameters of one clip ----------------------------------


class Affine(NamedTuple):
    scale: float = 1.0
    shear_deg: float = 0.0
    translate_x_share: float = 0.0  # positive: to the right
    translate_y_share: float = 0.0  # positive: down


class Jitter(NamedTuple):
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue_turn: float = 0.0


class Cutout(NamedTuple):
    height_share: float = 0.0  # of the frame's height
    width_share: float = 0.0
    top_share: float = 0.0  # in [0, 1): of the room that the rectangle leaves
    left_share: float = 0.0


NO_AFFINE, NO_JITTER, NO_CUTOUT = Affine(), Jitter(), Cutout()


@dataclass(frozen=True, kw_only=True)
class AugmentationParameters:
    """What is done to one clip. Every default leaves the pixels as they are."""

    source_frames: tuple[int, ...]  # the frame of the clip that stands at each position
    rotation_deg: float = 0.0  # positive: counter-clockwise
    affine: Affine = NO_AFFINE
    flipped: bool = False
    elastic_grid: int = 1
    elastic_px: float = 0.0
    blur_sigma_px: float = 0.0
    jitter: Jitter = NO_JITTER
    noise_sigma: float = 0.0
    cutout: Cutout = NO_CUTOUT


def sample_parameters(
    recipe: AugmentationRecipe, draws: Draws, num_frames: int
) -> AugmentationParameters:
    return AugmentationParameters(
        source_frames=_sample_source_frames(recipe, draws, num_frames),
        rotation_deg=_sample_rotation(recipe, draws),
        affine=_sample_affine(recipe, draws),
        flipped=_is_applied(recipe.flip_probability, "flip", draws),
        elastic_grid=recipe.elastic_grid,
        elastic_px=_sample_amount(
            recipe.elastic_probability, recipe.elastic_max_px, "elastic", draws
        ),
        blur_sigma_px=_sample_amount(
            recipe.blur_probability, recipe.blur_max_sigma_px, "blur", draws
        ),
        jitter=_sample_jitter(recipe, draws),
        noise_sigma=_sample_amount(
            recipe.noise_probability, recipe.noise_max_sigma, "noise", draws
        ),
        cutout=_sample_cutout(recipe, draws),
    )


def _is_applied(probability: float, purpose: str, draws: Draws) -> bool:
    (gate,) = draws.uniforms(purpose, 1).tolist()
    return bool(gate < probability)


def _sample_amount(probability: float, limit: float, purpose: str, draws: Draws) -> float:
    gate, amount = draws.uniforms(purpose, 2).tolist()
    return float(limit * amount) if gate < probability else 0.0


def _either_way(limit: float, uniform: float) -> float:
    return limit * (2.0 * uniform - 1.0)


def _sample_rotation(recipe: AugmentationRecipe, draws: Draws) -> float:
    gate, turn = draws.uniforms("rotation", 2).tolist()
    if gate >= recipe.rotation_probability:
        return 0.0
    return _either_way(recipe.rotation_max_deg, turn)


def _sample_affine(recipe: AugmentationRecipe, draws: Draws) -> Affine:
    gate, zoom, shear, right, down = draws.uniforms("affine", 5).tolist()
    if gate >= recipe.affine_probability:
        return NO_AFFINE
    return Affine(
        scale=recipe.scale_min + (recipe.scale_max - recipe.scale_min) * zoom,
        shear_deg=_either_way(recipe.shear_max_deg, shear),
        translate_x_share=_either_way(recipe.translate_max_share, right),
        translate_y_share=_either_way(recipe.translate_max_share, down),
    )


def _sample_jitter(recipe: AugmentationRecipe, draws: Draws) -> Jitter:
    gate, brightness, contrast, saturation, hue = draws.uniforms("jitter", 5).tolist()
    if gate >= recipe.jitter_probability:
        return NO_JITTER
    return Jitter(
        brightness=_either_way(recipe.brightness_max, brightness),
        contrast=_either_way(recipe.contrast_max, contrast),
        saturation=_either_way(recipe.saturation_max, saturation),
        hue_turn=_either_way(recipe.hue_max_turn, hue),
    )


def _sample_cutout(recipe: AugmentationRecipe, draws: Draws) -> Cutout:
    gate, height, width, top, left = draws.uniforms("cutout", 5).tolist()
    if gate >= recipe.cutout_probability:
        return NO_CUTOUT
    limit = recipe.cutout_max_share
    return Cutout(limit * height, limit * width, top, left)


def _sample_source_frames(
    recipe: AugmentationRecipe, draws: Draws, num_frames: int
) -> tuple[int, ...]:
    frames = list(range(num_frames))
    if _is_applied(recipe.reversal_probability, "reversal", draws):
        frames.reverse()
    # The faults of a player come last: they act on the clip as it is shown.
    doubled = _sample_positions(
        recipe.frame_duplication_probability,
        recipe.frame_duplication_max_share,
        "frame duplication",
        draws,
        num_frames,
    )
    for position in sorted(doubled, reverse=True):
        frames.insert(position, frames[position])
    del frames[num_frames:]
    dropped = _sample_positions(
        recipe.frame_drop_probability,
        recipe.frame_drop_max_share,
        "frame drop",
        draws,
        num_frames,
    )
    for position in sorted(dropped):
        frames[position + 1] = frames[position]  # + 1: the first frame is never dropped
    return tuple(frames)


def _sample_positions(
    probability: float, max_share: float, purpose: str, draws: Draws, num_frames: int
) -> list[int]:
    """At least one position among the first `num_frames - 1`, where `max_share` allows one."""
    gate, amount, *ranks = draws.uniforms(purpose, 1 + num_frames).tolist()
    most = min(int(max_share * num_frames), num_frames - 1)
    if gate >= probability or most == 0:
        return []
    return sorted(range(num_frames - 1), key=ranks.__getitem__)[: 1 + int(amount * most)]


# --- Pixels -----------------------------------------------------------------------------------


def apply_parameters(clip: Clip, parameters: AugmentationParameters, draws: Draws) -> Clip:
    """A new clip; `draws` gives the noise and the displacements, which are too many to list."""
    # In place from here on, with little scratch: arrays of a clip's size go back to the system and
    # are faulted in again for every clip, which took a third of the whole time.
    augmented = np.take(clip, parameters.source_frames, axis=0)  # a C-contiguous copy
    _change_alike(augmented, parameters, draws)
    if parameters.noise_sigma > 0:
        _add_noise(augmented, parameters.noise_sigma, draws)
    _cut_out(augmented, parameters.cutout)
    return augmented


def _change_alike(clip: Clip, parameters: AugmentationParameters, draws: Draws) -> None:
    """Geometry, blur and colour, which are the same in all frames: so all are done at once.

    The frames lie beside each other as channels of one picture meanwhile. At 16 frames that saves
    a third of these steps; the two transpositions (by OpenCV: numpy's cost 10 times as much) take
    a tenth. Each step reads `picture` and writes `spare`; the clip itself is one of the two.
    """
    moves, blurs = _moves_pixels(parameters), parameters.blur_sigma_px > 0
    recolours = parameters.jitter != NO_JITTER
    if not (moves or blurs or recolours):
        return
    height, width = clip.shape[1:3]
    source_map = _source_map(parameters, draws, height, width) if moves else None
    for start in range(0, len(clip), _MOST_FRAMES_AS_CHANNELS):
        frames = clip[start : start + _MOST_FRAMES_AS_CHANNELS]
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
        if recolours:
            _recolour(picture, spare, parameters.jitter)
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
    parameters: AugmentationParameters, draws: Draws, height: int, width: int
) -> tuple[NDArray[np.int16], NDArray[np.uint16]]:
    """Where each output pixel comes from, as cv2.remap's fixed-point maps.

    All geometry is composed in float64 and rounded here, once. `*`, `+` and rint of arrays give
    the same bits with every instruction set; a matrix product (BLAS) or cv2.warpAffine do not.
    """
    scale, shear_deg, translate_x_share, translate_y_share = parameters.affine
    centre_x, centre_y = (width - 1) / 2, (height - 1) / 2
    x = np.arange(width) - (centre_x + translate_x_share * width)
    y = (np.arange(height) - (centre_y + translate_y_share * height))[:, np.newaxis]

    # The inverse of "scale, shear along x, rotate", about the centre, with y pointing down.
    sine, cosine = _sine_cosine(parameters.rotation_deg)
    shear = _tangent(shear_deg)
    source_x = ((cosine - shear * sine) * x + (-sine - shear * cosine) * y) / scale + centre_x
    source_y = (sine * x + cosine * y) / scale + centre_y

    if parameters.elastic_px > 0:
        shift = parameters.elastic_px * _smooth_field(parameters.elastic_grid, draws, height, width)
        source_x += shift[0]
        source_y += shift[1]
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
    """Within 1e-13 for angles up to 180 degrees, by the Taylor series.

    The C library's sine may differ in its last bit with the library and the CPU; + * / may not.
    """
    angle = angle_deg * (math.pi / 180)
    sine, cosine, term = 0.0, 0.0, 1.0
    for n in range(0, 32, 2):
        cosine += term
        term *= angle / (n + 1)
        sine += term
        term *= -angle / (n + 2)
    return sine, cosine


def _tangent(angle_deg: float) -> float:
    sine, cosine = _sine_cosine(angle_deg)
    return sine / cosine


def _smooth_field(cells: int, draws: Draws, height: int, width: int) -> NDArray[np.float64]:
    """Displacements along x and y, float64 of shape (2, height, width) in [-1, 1).

    Random at the nodes of a grid of `cells` x `cells`, between them eased by 3t^2 - 2t^3: its
    slope is 0 at the nodes, so that no crease shows there.
    """
    uniforms = draws.uniforms("elastic nodes", 2 * (cells + 1) ** 2)
    nodes = (2 * uniforms - 1).reshape(2, cells + 1, cells + 1)
    row, down = _eased_positions(cells, height)
    rows = nodes[:, row] * (1 - down)[:, np.newaxis] + nodes[:, row + 1] * down[:, np.newaxis]
    column, right = _eased_positions(cells, width)
    return rows[:, :, column] * (1 - right) + rows[:, :, column + 1] * right


def _eased_positions(cells: int, length: int) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """For every pixel along a side: its cell, and the eased way through that cell in [0, 1)."""
    position = (np.arange(length) + 0.5) * cells / length
    cell = position.astype(np.intp)
    t = position - cell
    return cell, t * t * (3 - 2 * t)


def _remap(
    picture: Clip, target: Clip, source_map: tuple[NDArray[np.int16], NDArray[np.uint16]]
) -> None:
    """Draw the target from `source_map`, bilinear in fixed point.

    Outside the frame the picture goes on as its mirror image (reflect-101): black corners would
    tell augmented clips from real ones.
    """
    cv2.remap(picture, *source_map, cv2.INTER_LINEAR, dst=target, borderMode=cv2.BORDER_REFLECT_101)


def _blur(picture: Clip, target: Clip, sigma_px: float) -> None:
    # On uint8, OpenCV computes the kernel in software floats and the sums in fixed point.
    cv2.GaussianBlur(picture, (0, 0), sigma_px, dst=target, borderType=cv2.BORDER_REFLECT_101)


def _recolour(picture: Clip, scratch: Clip, jitter: Jitter) -> None:
    levels = (np.arange(256) - 127.5) * (1 + jitter.contrast) + 127.5 + 255 * jitter.brightness
    pixels, toned = (array.reshape(len(array), -1, 3) for array in (picture, scratch))
    cv2.LUT(pixels, np.rint(levels).clip(0, 255).astype(np.uint8), dst=toned)
    cv2.transform(toned, _chroma_matrix(jitter), dst=pixels)


_LUMA = np.array([0.213, 0.715, 0.072])
_QUARTER_TURN = np.array([[-0.213, -0.715, 0.928], [0.143, 0.140, -0.283], [-0.787, 0.715, 0.072]])


def _chroma_matrix(jitter: Jitter) -> NDArray[np.float64]:
    """Saturation and hue as RGB -> RGB, float64 of shape (3, 4) with the offset last.

    The matrices of SVG 1.1, feColorMatrix, saturate and hueRotate: both keep the luma.
    Coefficients are multiples of 1/512 and the offset is 1/1024. Every sum is then exact in
    cv2.transform's fixed point as in its floats, and none lies half-way between two grey levels,
    where the two would round apart.
    """
    sine, cosine = _sine_cosine(360 * jitter.hue_turn)
    chroma = cosine * (np.eye(3) - _LUMA) + sine * _QUARTER_TURN
    steps = np.rint((_LUMA + (1 + jitter.saturation) * chroma) * _COEFFICIENT_STEPS)
    # Rows that sum to exactly 1 leave grey pixels alone, whatever was rounded.
    steps[np.diag_indices(3)] += _COEFFICIENT_STEPS - steps.sum(axis=1)
    offset = np.full((3, 1), 0.5)
    return np.hstack((steps, offset)) / _COEFFICIENT_STEPS


def _add_noise(clip: Clip, sigma: float, draws: Draws) -> None:
    """Every random byte picks one of 256 equally likely noise values, at most 2.9 sigma."""
    values = np.rint(sigma * _normal_quantiles()).astype(np.int16)
    stream = draws.stream("noise values")
    # With its highest bit turned over, a byte is its value - 128 as int8, and saturates where the
    # byte would: OpenCV adds two arrays of int8 8 times as fast as uint8 and int16.
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
    """int8 arrays that sum to `values`, each value's parts of one sign: as one, they saturate."""
    while values.any():
        part = values.clip(-128, 127)
        yield part.astype(np.int8)
        values = values - part


@cache
def _normal_quantiles() -> NDArray[np.float64]:
    """The quantiles of the standard normal distribution at the middles of 256 equal shares.

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
    clip[:, top : top + height, left : left + width] = CUTOUT_GREY
