"""The content of the report's page as plain data. None: not measured. NaN: measured, but broken."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from video.report import figures
from video.scoring.estimates import Estimate
from video.scoring.outcomes import Outcome
from video.scoring.summary import Comparison
from video.scoring.verdict import Verdict


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """A classifier without video, on the same videos."""

    name: str
    description: str  # of its input: "always the most frequent class of train"
    scores: Mapping[str, Mapping[str, Any]]  # by split, as in `Outcome.evaluation`


@dataclass(frozen=True, kw_only=True)
class Headline:
    """The test balanced accuracy of the chosen model, and its uncertainty."""

    model: str
    value: float | None
    interval: tuple[float, float] | None  # 95 %
    basis: str  # of the interval: "48 videos in 8 groups"
    method: str  # of value and interval: "fold 0; 95 % interval over groups"
    verdict: Verdict
    remarks: Sequence[str]  # on what the interval does not hold


@dataclass(frozen=True, kw_only=True)
class Example:
    """One clip as the model saw it, with its prediction."""

    frames: figures.Image  # uint8 RGB of shape (frames, height, width, 3)
    video: str  # its path in the index
    true_label: str
    predicted_label: str
    probability: float | None  # of the predicted label


@dataclass(frozen=True, kw_only=True)
class AugmentedClip:
    """A training clip with the copies made of it; all arrays of one shape."""

    video: str
    label: str
    clip: figures.Image
    copies: Sequence[figures.Image]


@dataclass(frozen=True, kw_only=True)
class ClassCount:
    num_videos: int
    num_groups: int


@dataclass(frozen=True, kw_only=True)
class SplitCount:
    """The amount of data in a split. A group may hold several classes: its total is no sum."""

    split: str
    num_videos: int
    num_groups: int
    num_augmented_clips: int
    per_class: Mapping[str, ClassCount]  # by label; one that is absent counts 0


@dataclass(frozen=True, kw_only=True)
class Quarantined:
    row: int  # in the index
    path: str
    verdict: str
    reason: str
    frames: figures.Image | None  # those that decode, as in Example; None if there are none


@dataclass(frozen=True, kw_only=True)
class ReportPage:
    """The whole content of the page. Text may hold any character: it is escaped."""

    experiment: str
    description: str
    warnings: Sequence[str]
    labels: Sequence[str]  # in the order of the confusion matrices
    headline: Headline
    baselines: Sequence[Baseline]
    cells: Sequence[Outcome]  # shown in this order; a split or a metric may be missing
    estimates: Mapping[str, Mapping[str, Mapping[str, Estimate]]]  # by name, split and metric
    seed_stds: Mapping[str, Mapping[str, float]]  # balanced accuracy over seeds within folds
    comparisons: Sequence[Comparison]  # of every two models on the same folds
    monitor: str  # the column of the histories that is drawn and compares epochs
    val_words: str  # of which epoch the metrics of val are
    examples: Sequence[Example]  # shown by true label, and within it in this order
    examples_note: str  # their model, fold and split
    counts: Sequence[SplitCount]
    augmented: Sequence[AugmentedClip]
    quarantine: Sequence[Quarantined]  # all of them; the page shows the first 50
    facts: Mapping[str, str]  # seed, versions, hash of the data, ...
    parameters: Mapping[str, object]  # by dotted key
    command: str  # that reproduces it
