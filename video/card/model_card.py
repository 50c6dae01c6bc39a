"""Model card of one trained model, in the format of Hugging Face: YAML, then Markdown.

It is made of what its evaluation reads and finds, so that the same inputs give the same bytes: no
time and no commit is in it, only how the commit is found.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
import polars as pl
import yaml

from video.clips.frames import ClipRecipe
from video.scoring.estimates import METRICS, Estimate, estimate
from video.scoring.outcomes import Outcome
from video.scoring.summary import inexact_trainings, val_words
from video.scoring.verdict import judge, remarks, rivals
from video.splitting.given import divided_groups
from video.splitting.splits import TEST, TRAIN, VAL, class_names, split_in_fold

TEMPLATE = Path(__file__).with_name("model_card.md.j2")

# By the names of the Hub where it has one.
METRIC_TYPES = {"accuracy": "accuracy", "balanced_accuracy": "balanced_accuracy", "f1_macro": "f1"}

BASELINES = {
    "majority": "always the most frequent class of train",
    "metadata": "codec, size, rate, length, … of the file; no pixel",
}


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """A published model: its file, the file's md5, parameters, and section `clips`."""

    path: Path
    md5: str
    num_parameters: int
    clips: ClipRecipe


@dataclass(frozen=True, kw_only=True)
class DataFacts:
    """The data of a model: the directory of its videos, their splits, and the quarantine.

    splits_sha256: of the file of the splits.
    """

    root: str
    splits: pl.DataFrame
    splits_sha256: str
    quarantine: pl.DataFrame


def model_card(cell: Outcome, model: ModelFacts, data: DataFacts) -> str:
    """Return the text of a README.md."""
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # it is Markdown
    )
    environment.filters.update(cell=_in_cell, interval=_interval)
    scores = {split: _scores(cell, split) for split in (TEST, VAL)}
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        front_matter=_front_matter(cell, scores[TEST], data),
        cell=cell,
        model=model,
        data=data,
        scores=scores,
        labels=class_names(data.splits),
        metrics=METRICS,
        baselines=BASELINES,
        verdict=judge(rivals([cell])).text,
        val_words=val_words([cell]),
        divided=divided_groups(data.splits, "fold"),
        limits=[*remarks([cell]), *inexact_trainings([cell])],
        parts=_parts(data.splits, cell.fold),
        quarantined=data.quarantine.group_by("verdict").len("num").sort("verdict").rows(),
    )


def _scores(cell: Outcome, split: str) -> dict[str, dict[str, Estimate]]:
    """Return the estimates of the model and of the baselines, by metric."""
    return {
        name: {metric: estimate([cell], split, metric, baseline) for metric in METRICS}
        for name, baseline in {cell.model: None, **{name: name for name in BASELINES}}.items()
    }


def _front_matter(
    cell: Outcome, scores: Mapping[str, Mapping[str, Estimate]], data: DataFacts
) -> str:
    metrics = [
        {
            "type": METRIC_TYPES[metric],
            "name": f"{metric}, 95 % interval {_interval(found)}",
            "value": found.value,
        }
        for metric, found in scores[cell.model].items()
    ]
    dataset = {"type": "local", "name": data.root, "split": TEST, "revision": data.splits_sha256}
    task = {"type": "video-classification", "name": "Video Classification"}
    result = {"task": task, "dataset": dataset, "metrics": metrics}
    name = f"{cell.model}-fold{cell.fold}-seed{cell.seed}"
    document = {
        "library_name": "pytorch",
        "pipeline_tag": "video-classification",
        "tags": ["video-classification", cell.model],
        "model-index": [{"name": name, "results": [result]}],
    }
    text: str = yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=1000)
    return text


def _parts(splits: pl.DataFrame, fold: int) -> Sequence[tuple[str, int, int, dict[str, int]]]:
    """Return for each part its name, number of videos and groups, and videos by class."""
    roles = splits.with_columns(role=split_in_fold(pl.col("fold"), fold))
    return [
        (
            role,
            rows.height,
            rows["group"].n_unique(),
            {label: rows.filter(pl.col("label") == label).height for label in class_names(splits)},
        )
        for role in (TRAIN, VAL, TEST)
        for rows in [roles.filter(pl.col("role") == role)]
    ]


def _interval(found: Estimate) -> str:
    low, high = found.interval
    return f"{low:.3f} to {high:.3f}"


def _in_cell(text: str) -> str:
    """Return a text as a cell of a table."""
    return " ".join(text.split()).replace("|", "\\|")
