"""Probability and limits of each operation of augmentation."""

from dataclasses import asdict, dataclass
from typing import Annotated, get_type_hints


@dataclass(frozen=True)
class Range:
    """The range of a field of the recipe, both ends included."""

    low: float
    high: float
    unit: str


Probability = Annotated[float, Range(0, 1, "probability, per clip")]
Share = Annotated[float, Range(0, 1, "share")]


@dataclass(frozen=True, kw_only=True)
class AugmentationRecipe:
    """Probability and limits of each operation; amounts are drawn uniformly within the limits.

    A probability of 0 switches an operation off and changes no other one.
    Raises a `ValueError` that names every value out of its range.
    """

    rotation_probability: Probability
    rotation_max_deg: Annotated[float, Range(0, 180, "degrees, either way")]

    affine_probability: Probability
    scale_min: Annotated[float, Range(0.5, 2, "size of the picture's content, 1 = unchanged")]
    scale_max: Annotated[float, Range(0.5, 2, "size of the picture's content, 1 = unchanged")]
    translate_max_share: Annotated[float, Range(0, 0.5, "share of width and height, either way")]
    shear_max_deg: Annotated[float, Range(0, 45, "degrees, along x, either way")]

    flip_probability: Probability
    """Mirrors left and right. Keep 0 if left and right are classes."""

    jitter_probability: Probability
    brightness_max: Annotated[float, Range(0, 1, "share of 255 added, either way")]
    contrast_max: Annotated[float, Range(0, 1, "factor 1 ± contrast about 127.5")]
    saturation_max: Annotated[float, Range(0, 1, "factor 1 ± saturation about the luma")]
    hue_max_turn: Annotated[float, Range(0, 0.5, "turns of the color wheel, either way")]

    noise_probability: Probability
    noise_max_sigma: Annotated[float, Range(0, 64, "gray levels of 0 to 255")]
    """Gaussian noise, independent in every frame: motion, to a model of frame differences."""

    blur_probability: Probability
    blur_max_sigma_px: Annotated[float, Range(0, 16, "pixels of the clip")]

    cutout_probability: Probability
    cutout_max_share: Annotated[float, Range(0, 1, "share of height and of width")]
    """One rectangle of `CUTOUT_GRAY`, at the same place in all frames, wholly inside the frame."""

    elastic_probability: Probability
    elastic_max_px: Annotated[float, Range(0, 64, "pixels of the clip, along x and along y")]
    """Above about a third of a cell the picture folds onto itself."""
    elastic_grid: Annotated[int, Range(1, 32, "cells per side, between nodes that move freely")]

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
    """Plays the clip backwards. Keep 0 if the direction of time distinguishes classes."""

    def in_effect(self) -> dict[str, float]:
        """Return the values of the operations that are switched on, by name.

        The fields of an operation begin with its probability. The limits of one that is switched
        off cannot change a clip, so a new operation, switched off, changes no key.
        """
        values, is_on = {}, True
        for name, value in asdict(self).items():
            if name.endswith("_probability"):
                is_on = value > 0
            if is_on:
                values[name] = value
        return values

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
