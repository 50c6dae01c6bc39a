"""The typed sections of params.yaml, and nothing else.

No field has a default: every value that can change a result stands in params.yaml, where DVC
sees it. What each means stands there too, beside its value and with its unit.
"""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, Self

from annotated_types import Ge, Gt, Interval, Len
from pydantic import model_validator
from pydantic.dataclasses import dataclass

from mlops.parameters import STRICT, read_parameters
from mlops.runs import check_experiment_name

PARAMS_FILE = Path("params.yaml")

Count = Annotated[int, Ge(1)]
Number = Annotated[int, Ge(0)]
Share = Annotated[float, Interval(ge=0, le=1)]
OpenShare = Annotated[float, Interval(gt=0, lt=1)]
Probability = Annotated[float, Interval(ge=0, le=1)]
NonNegative = Annotated[float, Ge(0)]
Positive = Annotated[float, Gt(0)]
Text = Annotated[str, Len(1)]

ModelName = Literal["small3d", "r3d_18", "mc3_18", "r2plus1d_18", "s3d", "mvit_v2_s", "swin3d_t"]
Verdict = Literal["ok", "truncated", "damaged"]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Experiment:
    name: Text
    description: str
    tags: list[str]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        check_experiment_name(self.name)
        return self


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Data:
    index: Text
    root: Text
    path_column: Text
    label_column: Text
    group_column: Text
    labels: Annotated[list[Text], Len(2)]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        _unique("data.labels", self.labels)
        if Path(self.root).resolve() in (Path.cwd(), Path("data").resolve()):
            raise ValueError(
                f"data.root: expected a directory of its own, got '{self.root}', where the "
                "pipeline writes; put the videos in a directory below data/"
            )
        return self


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Sample:
    num_scenes: Annotated[int, Ge(2)]
    versions_per_scene: Annotated[int, Ge(2)]
    tampered_share: OpenShare
    mixed_scene_share: Share
    min_duration_sec: Annotated[float, Interval(ge=1, le=10)]
    max_duration_sec: Annotated[float, Interval(ge=1, le=10)]
    tampered_time_share: Annotated[float, Interval(gt=0, le=1)]
    region_area_share: Annotated[float, Interval(ge=0.05, le=0.6)]
    noise_sigma: Annotated[float, Interval(ge=0, le=30)]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        _ordered(
            "sample", min_duration_sec=self.min_duration_sec, max_duration_sec=self.max_duration_sec
        )
        return self


@dataclass(frozen=True, kw_only=True, config=STRICT)
class LoadData:
    accept: Annotated[list[Verdict], Len(1)]
    max_quarantined: Share
    time_limit_sec: Positive
    memory_limit_mb: Annotated[int, Ge(64)]
    max_duration_sec: Positive


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Split:
    test_share: OpenShare
    num_folds: Annotated[int, Ge(2)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Clips:
    frames: Annotated[int, Ge(2)]
    height: Annotated[int, Ge(16)]
    width: Annotated[int, Ge(16)]
    fit: Literal["letterbox", "crop"]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Augment:
    copies: Number
    rotation_probability: Probability
    rotation_max_deg: Annotated[float, Interval(ge=0, le=180)]
    affine_probability: Probability
    scale_min: Annotated[float, Interval(ge=0.5, le=2)]
    scale_max: Annotated[float, Interval(ge=0.5, le=2)]
    translate_max_share: Annotated[float, Interval(ge=0, le=0.5)]
    shear_max_deg: Annotated[float, Interval(ge=0, le=45)]
    flip_probability: Probability
    jitter_probability: Probability
    brightness_max: Share
    contrast_max: Share
    saturation_max: Share
    hue_max_turn: Annotated[float, Interval(ge=0, le=0.5)]
    noise_probability: Probability
    noise_max_sigma: Annotated[float, Interval(ge=0, le=64)]
    blur_probability: Probability
    blur_max_sigma_px: Annotated[float, Interval(ge=0, le=16)]
    cutout_probability: Probability
    cutout_max_share: Share
    elastic_probability: Probability
    elastic_max_px: Annotated[float, Interval(ge=0, le=64)]
    elastic_grid: Annotated[int, Interval(ge=1, le=32)]
    frame_drop_probability: Probability
    frame_drop_max_share: Share
    frame_duplication_probability: Probability
    frame_duplication_max_share: Share
    reversal_probability: Probability

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        _ordered("augment", scale_min=self.scale_min, scale_max=self.scale_max)
        return self


@dataclass(frozen=True, kw_only=True, config=STRICT)
class InitModel:
    weights: Text
    dropout: Annotated[float, Interval(ge=0, lt=1)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Train:
    epochs: Count
    batch_size: Annotated[int, Ge(2)]
    learning_rate: Positive
    schedule: Literal["constant", "cosine"]
    weight_decay: NonNegative
    class_balance: Literal["none", "weights", "sampler"]
    monitor: Literal["accuracy", "balanced_accuracy", "f1_macro", "loss"]
    patience_epochs: Count
    num_threads: Count


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Evaluate:
    batch_size: Count
    num_threads: Count


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Report:
    examples_per_class: Count
    augmented_examples: Count


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Runtime:
    device: Text
    workers: Count
    log_every_steps: Count

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", self.device):
            raise ValueError(
                "runtime.device: expected auto, cpu, cuda or cuda and a number as in cuda:1, got "
                f"{self.device!r}; write auto"
            )
        return self


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Params:
    seed: Number
    models: Annotated[list[ModelName], Len(1)]
    folds: Annotated[list[Number], Len(1)]
    experiment: Experiment
    data: Data
    sample: Sample
    load_data: LoadData
    split: Split
    clips: Clips
    augment: Augment
    init_model: InitModel
    train: Train
    evaluate: Evaluate
    report: Report
    runtime: Runtime

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        _unique("models", self.models)
        _unique("folds", self.folds)
        beyond = [fold for fold in self.folds if fold >= self.split.num_folds]
        if beyond:
            raise ValueError(
                f"folds: expected numbers below split.num_folds = {self.split.num_folds}, got "
                f"{beyond}; remove them or raise split.num_folds"
            )
        return self


def read_params() -> Params:
    """params.yaml of the current directory; every fault of it in one `PipelineError`."""
    return read_parameters(PARAMS_FILE, Params)


def _unique(key: str, values: Sequence[int | str]) -> None:
    repeated = [value for value, count in Counter(values).items() if count > 1]
    if repeated:
        raise ValueError(
            f"{key}: expected every item once, got {repeated} again; remove the repetition"
        )


def _ordered(section: str, **bounds: float) -> None:
    (low_name, low), (high_name, high) = bounds.items()
    if low > high:
        raise ValueError(
            f"{section}.{low_name}: expected at most {section}.{high_name} = {high}, got {low}; "
            "exchange them"
        )
