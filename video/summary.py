"""One answer from many cells: which model is best, how good it is, and what looks wrong."""

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from video.metrics import SUMMARY


@dataclass(frozen=True, kw_only=True)
class Cell:
    """What is known of a model trained on a fold.

    evaluation: "val" and "test" by `metrics.classification_metrics`, and "baseline" with the same
    by name; history: a row an epoch; predictions: a row a video, `probability_<label>` a class.
    """

    model: str
    fold: int
    evaluation: Mapping[str, Any]
    history: pl.DataFrame
    predictions: pl.DataFrame

    @property
    def name(self) -> str:
        return f"{self.model} fold {self.fold}"


def broken_figures(cells: Sequence[Cell]) -> list[str]:
    """The cells' figures that are missing or no finite number; each would hide in a mean."""
    return [
        f"{cell.name}: expected a finite {split} {metric}, got {value}"
        for cell in cells
        for split in ("val", "test")
        for metric in SUMMARY
        if not isinstance(value := cell.evaluation[split].get(metric), int | float)
        or not math.isfinite(value)
    ]


def best_model(cells: Sequence[Cell], monitor: str) -> str:
    """The model with the best mean of the validation metric; the first of equals.

    Chosen by validation alone: a choice made on the test set would flatter its score.
    """
    sign = -1.0 if monitor == "loss" else 1.0
    means = {
        model: statistics.fmean(cell.evaluation["val"][monitor] for cell in own)
        for model, own in by_model(cells).items()
    }
    return max(means, key=lambda model: sign * means[model])


def by_model(cells: Sequence[Cell]) -> dict[str, list[Cell]]:
    models: dict[str, list[Cell]] = {}
    for cell in cells:
        models.setdefault(cell.model, []).append(cell)
    return models


def metrics_document(
    cells: Sequence[Cell], model: str, counts: Mapping[str, int]
) -> dict[str, Any]:
    """The content of metrics.json.

    `val` and `test` are the figures of `model`, means over its folds; `baseline` are those of the
    baselines on the same test sets; with more than one cell, `models` has the mean and the
    sample standard deviation of each model.
    """
    own = by_model(cells)[model]
    baselines = own[0].evaluation["baseline"]
    document: dict[str, Any] = {
        split: mean_figures([cell.evaluation[split] for cell in own]) for split in ("val", "test")
    }
    document["baseline"] = {
        name: mean_figures([cell.evaluation["baseline"][name]["test"] for cell in own])
        for name in baselines
    }
    document["counts"] = dict(counts)
    if len(cells) > 1:
        document["models"] = {
            name: {
                split: _spread([cell.evaluation[split]["balanced_accuracy"] for cell in group])
                for split in ("val", "test")
            }
            for name, group in by_model(cells).items()
        }
    return document


def identical_predictions(cells: Sequence[Cell]) -> list[str]:
    """A warning for every two models that say the same of every video of a fold.

    Two networks never do, down to the last digit: one of them was not trained, or both are one.
    """
    return [
        f"{first.name} and {second.name} have identical predictions; check that both were trained"
        for first, second in itertools.combinations(cells, 2)
        if first.fold == second.fold and first.predictions.equals(second.predictions)
    ]


def mean_figures(figures: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The means of the SUMMARY figures."""
    return {name: statistics.fmean(item[name] for item in figures) for name in SUMMARY}


def _spread(values: Sequence[float]) -> dict[str, float]:
    spread = {"balanced_accuracy": statistics.fmean(values)}
    if len(values) > 1:
        spread["balanced_accuracy_std"] = statistics.stdev(values)
    return spread
