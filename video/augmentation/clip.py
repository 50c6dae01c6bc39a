"""Augmentation as a pure function: its arguments determine the bytes of the clip.

The bytes of an augmented clip follow from (`TRANSFORM_VERSION`, seed, content hash of the video,
copy number, recipe) and the clip itself. No generator is carried from one clip to the next, so
neither the order of the clips nor the number of workers can change a byte. No step depends on the
CPU: random numbers are raw Philox integers, parameters are float64 scalars built with + - * /
alone, and pixels are computed with integers (fixed-point maps, tables, rounded coefficients).

The order of operations, each with a random stream of its own:

    reversal, frame duplication, frame drop   one gathering of frames
    flip, scale, shear, rotation, elastic     one map for the whole clip, one `cv2.remap` per frame
    blur
    brightness, contrast, saturation, hue     one table, one 3x3 transform
    noise                                     independent in every frame
    cutout

Geometry, blur, color and cutout are the same in all frames of a clip: a change from frame to
frame would be motion that the video does not have.
"""

import numpy as np

from video.augmentation.config import AugmentationRecipe
from video.augmentation.parameters import sample_parameters
from video.augmentation.pixels import MAX_SIDE_PX, Clip, apply_parameters
from video.augmentation.random_streams import RandomStreams


def augment_clip(
    clip: Clip, recipe: AugmentationRecipe, *, seed: int, video_sha256: str, copy: int
) -> Clip:
    """Return one augmented copy of a clip.

    Args:
        clip: uint8 of shape (frames, height, width, 3), RGB; not modified.
        recipe: the operations, with their probabilities and limits.
        seed: any integer, the same for a whole data set.
        video_sha256: SHA-256 of the video file, 64 lower-case hexadecimal digits.
        copy: number of the augmented copy, from 0.

    Returns:
        A new C-contiguous array of the same shape and type.

    Raises:
        ValueError: the clip, the hash or the copy number is not as described above.
    """
    _check_clip(clip)
    streams = RandomStreams.of(seed=seed, video_sha256=video_sha256, copy=copy)
    return apply_parameters(clip, sample_parameters(recipe, streams, len(clip)), streams)


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
