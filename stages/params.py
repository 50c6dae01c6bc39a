"""The typed sections of params.yaml and the cells that they name.

No field has a default: every value that can change a result stands in params.yaml, where DVC
sees it. What each means stands there too, beside its value and with its unit.
"""

import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, get_type_hints

from annotated_types import Ge, Gt, Interval, Len
from pydantic import (
    AfterValidator,
    BeforeValidator,
    PlainValidator,
    ValidationError,
    ValidationInfo,
    with_config,
)
from pydantic.dataclasses import dataclass
from typing_extensions import TypedDict  # pydantic takes none of typing's before Python 3.12

from mlops.errors import PipelineError
from mlops.params import STRICT, read_parameters
from mlops.run.directory import check_experiment_name
from stages.paths import PARAMS_FILE, SAMPLE, WRITTEN, Cell
from video.models.registry import MODULES

Value = TypeVar("Value")
Count = Annotated[int, Ge(1)]
Number = Annotated[int, Ge(0)]
Share = Annotated[float, Interval(ge=0, le=1)]
OpenShare = Annotated[float, Interval(gt=0, lt=1)]
Probability = Annotated[float, Interval(ge=0, le=1)]
NonNegative = Annotated[float, Ge(0)]
Positive = Annotated[float, Gt(0)]
Text = Annotated[str, Len(1)]
# The index has texts alone; classes are often numbers.
Label = Annotated[Text, BeforeValidator(lambda name: str(name) if type(name) is int else name)]

if TYPE_CHECKING:  # which cannot know what is named elsewhere
    ModelName = str
else:
    ModelName = Literal[tuple(MODULES)]
Verdict = Literal["ok", "truncated", "damaged"]


def _unique(key: str) -> AfterValidator:
    """Check that every item of the list `key` is there once."""

    def check(values: list[Value]) -> list[Value]:
        repeated = [value for value, count in Counter(values).items() if count > 1]
        if repeated:
            raise ValueError(
                f"{key}: expected every item once, got {repeated} again; remove the repetition"
            )
        return values

    return AfterValidator(check)


def _at_least(section: str, low_name: str) -> AfterValidator:
    """Check that an upper bound is not below the field `low_name` before it."""

    def check(high: float, info: ValidationInfo) -> float:
        # A lower bound that is wrong by itself is told already, and is not there to compare with.
        low = info.data.get(low_name)
        if low is not None and low > high:
            raise ValueError(
                f"{section}.{low_name}: expected at most {section}.{info.field_name} = {high}, "
                f"got {low}; exchange them"
            )
        return high

    return AfterValidator(check)


def _names_a_directory(name: str) -> str:
    check_experiment_name(name)
    return name


def _apart_from_what_is_written(root: str) -> str:
    place = Path(root).resolve()
    for written in map(Path.resolve, WRITTEN):
        if place.is_relative_to(written) or written.is_relative_to(place):
            raise ValueError(
                f"data.root: expected a directory of its own, got '{root}', where the pipeline "
                "writes; put the videos in a directory below data/"
            )
    return root


def _auto_or_number(value: object) -> object:
    if value == "auto" or (type(value) is int and 0 <= value < 2**63):
        return value
    raise ValueError(
        f"split.rebalance: expected auto or a whole number >= 0, got {value!r}; write auto"
    )


def _no_path(weights: object) -> object:
    if isinstance(weights, str) and re.search(r"[/.]", weights):
        raise ValueError(
            f"init_model.weights: expected random, kinetics400 or file, got {weights!r}; write "
            "file, and the path in init_model.weights_file"
        )
    return weights


def _two_clips_each(micro_batches: int, info: ValidationInfo) -> int:
    batch_size = info.data.get("batch_size")
    if batch_size is not None and micro_batches > batch_size // 2:
        raise ValueError(
            f"train.micro_batches: expected at most {batch_size // 2}, which leaves 2 clips of "
            f"train.batch_size = {batch_size} in each, got {micro_batches}; lower it"
        )
    return micro_batches


def _off_unless_best(patience_epochs: int, info: ValidationInfo) -> int:
    if patience_epochs and info.data.get("publish") == "last":
        raise ValueError(
            f"train.patience_epochs: expected 0 with train.publish = last, got {patience_epochs}; "
            "write 0 to train all epochs, or publish: best: stopped early, the last epoch is "
            "always one without an improvement"
        )
    return patience_epochs


def _without_backbone(features: str, info: ValidationInfo) -> str:
    """Check that nothing is asked of a backbone that training does not have."""
    idle = {"frozen_epochs": 0, "compile": False, "sync_batch_norm": False}
    if features == "frozen":
        for name, value in idle.items():
            found = info.data.get(name, value)
            if found != value:
                raise ValueError(
                    f"train.{name}: expected {_yaml(value)} with train.features = frozen, which "
                    f"trains the head alone in every epoch, got {_yaml(found)}; write "
                    f"{_yaml(value)}, or features: trained"
                )
    return features


def _yaml(value: object) -> str:
    return str(value).lower()


def _known_device(device: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
        raise ValueError(
            "runtime.device: expected auto, cpu, cuda or cuda and a number as in cuda:1, got "
            f"{device!r}; write auto"
        )
    return device


def _given_for_dask(address: str, info: ValidationInfo) -> str:
    if info.data.get("executor") == "dask" and not address:
        raise ValueError(
            "runtime.dask_address: expected the address of a Dask scheduler for "
            "runtime.executor = dask, got ''; write one as in tcp://host:8786, or the path of its "
            "scheduler file"
        )
    return address


def _of_sample(info: ValidationInfo) -> bool:
    data = info.data.get("data")
    return data is not None and Path(data.index).is_relative_to(SAMPLE)


def _enough_scenes(sample: "Sample", info: ValidationInfo) -> "Sample":
    """Check that each part of a split can have both labels: scenes are never divided."""
    split = info.data.get("split")
    if split is None or not _of_sample(info):
        return sample
    parts = split.num_folds + 1
    for label, count in sample.scenes_of_labels.items():
        if count < parts:
            raise ValueError(
                f"sample.num_scenes: expected at least {parts} scenes with {label} videos, one for "
                f"the test set and each of split.num_folds = {split.num_folds} folds, got {count}; "
                "raise it or sample.mixed_scene_share, or lower split.num_folds"
            )
    return sample


def _known_folds(folds: list[int], info: ValidationInfo) -> list[int]:
    split = info.data.get("split")
    beyond = [] if split is None else [fold for fold in folds if fold >= split.num_folds]
    if split is not None and beyond:
        raise ValueError(
            f"folds: expected numbers below split.num_folds = {split.num_folds}, got {beyond}; "
            "remove them or raise split.num_folds"
        )
    return folds


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Experiment:
    name: Annotated[Text, AfterValidator(_names_a_directory)]
    description: str
    tags: list[str]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Data:
    index: Text
    root: Annotated[Text, AfterValidator(_apart_from_what_is_written)]
    path_column: Text
    label_column: Text
    group_column: Text
    split_column: str
    labels: Annotated[list[Label], Len(2), _unique("data.labels")]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Sample:
    num_scenes: Annotated[int, Ge(2)]
    versions_per_scene: Annotated[int, Ge(2)]
    tampered_share: OpenShare
    mixed_scene_share: Share
    min_duration_sec: Annotated[float, Interval(ge=1, le=10)]
    max_duration_sec: Annotated[
        float, Interval(ge=1, le=10), _at_least("sample", "min_duration_sec")
    ]
    tampered_time_share: Annotated[float, Interval(gt=0, le=1)]
    region_area_share: Annotated[float, Interval(ge=0.05, le=0.6)]
    noise_sigma: Annotated[float, Interval(ge=0, le=30)]

    @property
    def scenes_of_labels(self) -> dict[str, int]:
        """The number of scenes that have videos of each label."""
        mixed = round(self.num_scenes * self.mixed_scene_share)
        tampered = round((self.num_scenes - mixed) * self.tampered_share)
        return {"authentic": self.num_scenes - tampered, "tampered": mixed + tampered}


@dataclass(frozen=True, kw_only=True, config=STRICT)
class LoadData:
    accept: Annotated[list[Verdict], Len(1)]
    min_frames: Annotated[int, Ge(1)]
    max_quarantined: Share
    time_limit_sec: Positive
    memory_limit_mb: Annotated[int, Ge(64)]
    max_duration_sec: Positive


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Split:
    test_share: OpenShare
    num_folds: Annotated[int, Ge(2)]
    rebalance: Annotated[int | Literal["auto"], PlainValidator(_auto_or_number)]
    stratify: Annotated[list[Text], _unique("split.stratify")]
    near_duplicate_distance: Annotated[float, Interval(ge=0, le=0.4)]
    accept_given_leaks: bool


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Clips:
    frames: Annotated[int, Ge(2)]
    height: Annotated[int, Ge(16)]
    width: Annotated[int, Ge(16)]
    fit: Literal["letterbox", "crop"]
    sampling: Literal["uniform", "dense"]
    fps: Positive
    per_video: Count


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Augment:
    copies: Number
    online: bool
    rotation_probability: Probability
    rotation_max_deg: Annotated[float, Interval(ge=0, le=180)]
    affine_probability: Probability
    scale_min: Annotated[float, Interval(ge=0.5, le=2)]
    scale_max: Annotated[float, Interval(ge=0.5, le=2), _at_least("augment", "scale_min")]
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


@dataclass(frozen=True, kw_only=True, config=STRICT)
class InitModel:
    weights: Annotated[Literal["random", "kinetics400", "file"], BeforeValidator(_no_path)]
    weights_file: Text
    dropout: Annotated[float, Interval(ge=0, lt=1)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Train:
    epochs: Count
    batch_size: Annotated[int, Ge(2)]
    micro_batches: Annotated[Count, AfterValidator(_two_clips_each)]  # after the batch size
    precision: Literal["float32", "bfloat16", "float16"]
    compile: bool
    learning_rate: Positive
    schedule: Literal["constant", "cosine", "step"]
    step_epochs: Count
    step_factor: Annotated[float, Interval(gt=0, le=1)]
    warmup_steps: Number
    weight_decay: NonNegative
    clip_norm: NonNegative
    ema_decay: Annotated[float, Interval(ge=0, lt=1)]
    frozen_epochs: Number
    label_smoothing: Annotated[float, Interval(ge=0, lt=1)]
    sampling: Literal["shuffled", "balanced", "weighted"]
    class_weights: bool
    sync_batch_norm: bool
    monitor: Literal["accuracy", "balanced_accuracy", "f1_macro", "loss"]
    publish: Literal["last", "best"]
    patience_epochs: Annotated[Number, AfterValidator(_off_unless_best)]  # after publish
    num_threads: Count
    # After the three that it excludes.
    features: Annotated[Literal["trained", "frozen"], AfterValidator(_without_backbone)]


# Some of the values of `train`, for one model. Models are compared by what `monitor` names.
if TYPE_CHECKING:
    OwnValues = dict[str, Any]
    TrainOf = dict[ModelName, OwnValues]
else:
    _kinds = get_type_hints(Train, include_extras=True)
    del _kinds["monitor"]
    OwnValues = with_config(STRICT)(TypedDict("OwnValues", _kinds, total=False))
    TrainOf = with_config(STRICT)(
        TypedDict("TrainOf", dict.fromkeys(MODULES, OwnValues), total=False)
    )


def _fitting_train(train_of: TrainOf, info: ValidationInfo) -> TrainOf:
    """Check that every model to be trained has its entry, and that each fits what stays."""
    models: list[str] = info.data.get("models", [])
    train: Any = info.data.get("train")  # None where it has a fault itself
    faults = [
        f"train_of: expected a key for each of models, got none for {model}; add {model}: {{}} "
        "there, or values of its own"
        for model in models
        if model not in train_of
    ]
    augment = info.data.get("augment")
    for model in train_of if train else ():
        try:
            values = training_of(model, train, train_of)
        except ValidationError as error:
            found = {detail["ctx"]["error"] for detail in error.errors()}
            faults += [f"train_of.{model}: with train: {fault}" for fault in found]
            continue
        if values.features == "frozen" and model in models and augment and augment.online:
            faults.append(
                f"train.features: expected trained with augment.online = true, got frozen for "
                f"{model}; write online: false: the features of the copies made beforehand are "
                "computed once, those of new ones in every epoch could not be"
            )
    if faults:
        raise ValueError("; ".join(faults))
    return train_of


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
    device: Annotated[Text, AfterValidator(_known_device)]
    workers: Count
    executor: Literal["processes", "dask"]
    dask_address: Annotated[str, AfterValidator(_given_for_dask)]  # after the executor
    num_processes: Count
    log_every_steps: Count
    checkpoint_every_sec: Positive
    keep_epoch_checkpoints: Number
    resume: Literal["exact", "compatible", "never"]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Params:
    seed: Number
    models: Annotated[list[ModelName], Len(1), _unique("models")]
    split: Split  # before the folds, which are compared with it
    folds: Annotated[list[Number], Len(1), AfterValidator(_known_folds), _unique("folds")]
    seeds: Annotated[list[Number], Len(1), _unique("seeds")]
    experiment: Experiment
    data: Data
    sample: Annotated[Sample, AfterValidator(_enough_scenes)]  # after the split and the data
    load_data: LoadData
    clips: Clips
    augment: Augment
    init_model: InitModel
    train: Train
    train_of: Annotated[TrainOf, AfterValidator(_fitting_train)]  # after the models and train
    evaluate: Evaluate
    report: Report
    runtime: Runtime


def read_params() -> Params:
    """Read params.yaml of the current directory; report all faults in one `PipelineError`."""
    return read_parameters(PARAMS_FILE, Params)


def training_of(model: str, train: Train, train_of: TrainOf) -> Train:
    """Return the values of a model: its own, and where it has none those of all."""
    return Train(**vars(train) | train_of.get(model, {}))


def named_cells(params: Params) -> list[Cell]:
    """Return all cells that params.yaml names, in its order."""
    return [
        Cell(model=model, fold=fold, seed=seed)
        for model in params.models
        for fold in params.folds
        for seed in params.seeds
    ]


def check_cell(cell: Cell, params: Params) -> None:
    """Refuse a cell that params.yaml does not name: nothing has been made for it."""
    if cell not in named_cells(params):
        raise PipelineError(
            f"{PARAMS_FILE}: expected the model {cell.model} in models, the fold {cell.fold} in "
            f"folds and the seed {cell.seed} in seeds, got {params.models}, {params.folds} and "
            f"{params.seeds}; add them there"
        )
