"""One answer from many cells: which model is best, how good it is, and what looks wrong."""

import itertools
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import polars as pl

from video.comparison import Difference, Spread, difference_over_folds, spread_over_folds
from video.metrics import SUMMARY


@dataclass(frozen=True, kw_only=True)
class Cell:
    """What is known of a model trained on a fold.

    evaluation: "val" and "test" by `metrics.classification_metrics`, and "baseline" with the same
    by name; history: a row an epoch; predictions: a row a video, `probability_<label>` a class.
    """

    model: str
    fold: int
    num_train_videos: int
    evaluation: Mapping[str, Any]
    history: pl.DataFrame
    predictions: pl.DataFrame

    @property
    def name(self) -> str:
        return f"{self.model} fold {self.fold}"


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The balanced accuracy of `first` less that of `second`, on the same folds."""

    first: str
    second: str
    val: Difference
    test: float  # mean difference; a test of it would speak of this one test set alone


def broken_figures(cells: Sequence[Cell]) -> list[str]:
    """The cells' figures that are missing or no finite number; each would hide in a mean."""
    return [
        f"{cell.name}: expected a finite {name} {metric}, got {value}; run evaluate again"
        for cell in cells
        for name, figures in _figures(cell)
        for metric in SUMMARY
        if not isinstance(value := figures.get(metric), int | float) or not math.isfinite(value)
    ]


def _figures(cell: Cell) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for split in ("val", "test"):
        yield split, cell.evaluation.get(split, {})
        for name, figures in cell.evaluation.get("baseline", {}).items():
            yield f"{split} (baseline {name})", figures.get(split, {})


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


def spreads(cells: Sequence[Cell]) -> dict[str, dict[str, Spread]]:
    """The balanced accuracy over folds by model and split; without a second fold, nothing."""
    return {
        model: {
            split: spread_over_folds([cell.evaluation[split]["balanced_accuracy"] for cell in own])
            for split in ("val", "test")
        }
        for model, own in by_model(cells).items()
        if len(own) > 1
    }


def comparisons(cells: Sequence[Cell]) -> list[Comparison]:
    """Every two models on the folds that both have; without two such folds, nothing."""
    found = []
    for first, second in itertools.combinations(by_model(cells).values(), 2):
        others = {cell.fold: cell for cell in second}
        pairs = [(cell, others[cell.fold]) for cell in first if cell.fold in others]
        if len(pairs) > 1:
            num_val = sum(cell.evaluation["val"]["num_videos"] for cell, _ in pairs)
            num_train = sum(cell.num_train_videos for cell, _ in pairs)
            found.append(
                Comparison(
                    first=first[0].model,
                    second=second[0].model,
                    val=difference_over_folds(
                        _differences(pairs, "val"), val_per_train=num_val / num_train
                    ),
                    test=statistics.fmean(_differences(pairs, "test")),
                )
            )
    return found


def _differences(pairs: Sequence[tuple[Cell, Cell]], split: str) -> list[float]:
    return [
        first.evaluation[split]["balanced_accuracy"] - second.evaluation[split]["balanced_accuracy"]
        for first, second in pairs
    ]


def metrics_document(
    cells: Sequence[Cell], model: str, counts: Mapping[str, int]
) -> dict[str, Any]:
    """The content of metrics.json.

    `val` and `test` are the figures of `model`, means over its folds; `baseline` are those of the
    baselines on the same test sets; with more than one cell, `models` has the mean of each model,
    with more than one fold also the sample standard deviation and the interval of the mean, and
    `comparisons` every two models on the same folds. (DVC makes a column of every number, but
    none of a list.)
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
        over_folds = spreads(cells)
        document["models"] = {
            name: {
                split: _spread_document(over_folds[name][split])
                if name in over_folds
                else {"balanced_accuracy": group[0].evaluation[split]["balanced_accuracy"]}
                for split in ("val", "test")
            }
            for name, group in by_model(cells).items()
        }
    if compared := comparisons(cells):
        document["comparisons"] = [asdict(comparison) for comparison in compared]
    return document


def _spread_document(spread: Spread) -> dict[str, Any]:
    return {
        "balanced_accuracy": spread.mean,
        "balanced_accuracy_std": spread.std,
        "balanced_accuracy_interval": spread.interval,
    }


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
