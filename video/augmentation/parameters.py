"""The parameters of one augmented clip, sampled from a recipe."""

from dataclasses import dataclass
from typing import NamedTuple

from video.augmentation.config import AugmentationRecipe
from video.augmentation.random_streams import RandomStreams


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
    """The operations on one clip. Every default leaves the pixels unchanged."""

    source_frames: tuple[int, ...]  # the frame of the clip at each position
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
    recipe: AugmentationRecipe, streams: RandomStreams, num_frames: int
) -> AugmentationParameters:
    return AugmentationParameters(
        source_frames=_sample_source_frames(recipe, streams, num_frames),
        rotation_deg=_sample_rotation(recipe, streams),
        affine=_sample_affine(recipe, streams),
        flipped=_is_applied(recipe.flip_probability, "flip", streams),
        elastic_grid=recipe.elastic_grid,
        elastic_px=_sample_amount(
            recipe.elastic_probability, recipe.elastic_max_px, "elastic", streams
        ),
        blur_sigma_px=_sample_amount(
            recipe.blur_probability, recipe.blur_max_sigma_px, "blur", streams
        ),
        jitter=_sample_jitter(recipe, streams),
        noise_sigma=_sample_amount(
            recipe.noise_probability, recipe.noise_max_sigma, "noise", streams
        ),
        cutout=_sample_cutout(recipe, streams),
    )


def _is_applied(probability: float, purpose: str, streams: RandomStreams) -> bool:
    (gate,) = streams.uniforms(purpose, 1).tolist()
    return bool(gate < probability)


def _sample_amount(probability: float, limit: float, purpose: str, streams: RandomStreams) -> float:
    gate, amount = streams.uniforms(purpose, 2).tolist()
    return float(limit * amount) if gate < probability else 0.0


def _either_way(limit: float, uniform: float) -> float:
    return limit * (2.0 * uniform - 1.0)


def _sample_rotation(recipe: AugmentationRecipe, streams: RandomStreams) -> float:
    gate, turn = streams.uniforms("rotation", 2).tolist()
    if gate >= recipe.rotation_probability:
        return 0.0
    return _either_way(recipe.rotation_max_deg, turn)


def _sample_affine(recipe: AugmentationRecipe, streams: RandomStreams) -> Affine:
    gate, zoom, shear, right, down = streams.uniforms("affine", 5).tolist()
    if gate >= recipe.affine_probability:
        return NO_AFFINE
    return Affine(
        scale=recipe.scale_min + (recipe.scale_max - recipe.scale_min) * zoom,
        shear_deg=_either_way(recipe.shear_max_deg, shear),
        translate_x_share=_either_way(recipe.translate_max_share, right),
        translate_y_share=_either_way(recipe.translate_max_share, down),
    )


def _sample_jitter(recipe: AugmentationRecipe, streams: RandomStreams) -> Jitter:
    gate, brightness, contrast, saturation, hue = streams.uniforms("jitter", 5).tolist()
    if gate >= recipe.jitter_probability:
        return NO_JITTER
    return Jitter(
        brightness=_either_way(recipe.brightness_max, brightness),
        contrast=_either_way(recipe.contrast_max, contrast),
        saturation=_either_way(recipe.saturation_max, saturation),
        hue_turn=_either_way(recipe.hue_max_turn, hue),
    )


def _sample_cutout(recipe: AugmentationRecipe, streams: RandomStreams) -> Cutout:
    gate, height, width, top, left = streams.uniforms("cutout", 5).tolist()
    if gate >= recipe.cutout_probability:
        return NO_CUTOUT
    limit = recipe.cutout_max_share
    return Cutout(limit * height, limit * width, top, left)


def _sample_source_frames(
    recipe: AugmentationRecipe, streams: RandomStreams, num_frames: int
) -> tuple[int, ...]:
    frames = list(range(num_frames))
    if _is_applied(recipe.reversal_probability, "reversal", streams):
        frames.reverse()
    # Playback faults come last: they act on the clip as it is shown.
    doubled = _sample_positions(
        recipe.frame_duplication_probability,
        recipe.frame_duplication_max_share,
        "frame duplication",
        streams,
        num_frames,
    )
    for position in sorted(doubled, reverse=True):
        frames.insert(position, frames[position])
    del frames[num_frames:]
    dropped = _sample_positions(
        recipe.frame_drop_probability,
        recipe.frame_drop_max_share,
        "frame drop",
        streams,
        num_frames,
    )
    for position in sorted(dropped):
        frames[position + 1] = frames[position]  # + 1: the first frame is never dropped
    return tuple(frames)


def _sample_positions(
    probability: float, max_share: float, purpose: str, streams: RandomStreams, num_frames: int
) -> list[int]:
    """Sample at least one of the first `num_frames - 1` positions, if `max_share` allows one."""
    gate, amount, *ranks = streams.uniforms(purpose, 1 + num_frames).tolist()
    max_count = min(int(max_share * num_frames), num_frames - 1)
    if gate >= probability or max_count == 0:
        return []
    return sorted(range(num_frames - 1), key=ranks.__getitem__)[: 1 + int(amount * max_count)]
