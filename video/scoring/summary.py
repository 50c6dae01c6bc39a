"""Summary of all cells: the best model, its metrics, comparisons and warnings."""

import itertools
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from video.scoring.comparison import Difference, difference_over_folds, std_over_seeds
from video.scoring.estimates import METRICS, estimate
from video.scoring.monitored import SUMMARY
from video.scoring.outcomes import Outcome, by_fold, by_model, val_per_train
from video.scoring.verdict import rivals


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The balanced accuracy of `first` minus that of `second`, on the same folds."""

    first: str
    second: str
    val: Difference
    test: float  # mean difference; a t-test of it would hold for this one test set only


def non_finite_metrics(cells: Sequence[Outcome]) -> list[str]:
    """List the metrics of cells that are missing or not finite; a mean would hide them."""
    return [
        f"{cell.name}: expected a finite {name} {metric}, got {value}; run evaluate again"
        for cell in cells
        for name, metrics in _all_metrics(cell)
        for metric in SUMMARY
        if not isinstance(value := metrics.get(metric), int | float) or not math.isfinite(value)
    ]


def _all_metrics(cell: Outcome) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for split in ("val", "test"):
        yield split, cell.evaluation.get(split, {})
        for name, metrics in cell.evaluation.get("baseline", {}).items():
            yield f"{split} (baseline {name})", metrics.get(split, {})


def best_model(cells: Sequence[Outcome], monitor: str) -> str:
    """Return the model with the best mean of the validation metric over folds; the first of equals.

    The test set has no part in it: a choice by test score would bias that score. Of the validation
    metrics, those that have chosen their epoch have none either.
    """
    sign = -1.0 if monitor == "loss" else 1.0
    means = {
        model: statistics.fmean(fold_means(own, "val", monitor).values())
        for model, own in by_model(_at_last_epoch(cells)).items()
    }
    return max(means, key=lambda model: sign * means[model])


def fold_means(cells: Sequence[Outcome], split: str, metric: str) -> dict[int, float]:
    """Return the mean of a metric over the seeds, by fold; exact for one seed."""
    return {
        fold: statistics.fmean(cell.evaluation[split][metric] for cell in own)
        for fold, own in by_fold(cells).items()
    }


def _at_last_epoch(cells: Sequence[Outcome]) -> list[Outcome]:
    """Return the cells with the val metrics of an epoch that these have not chosen: the last one.

    A maximum over epochs is larger for a model whose metrics swing more, so that equally good
    models would differ "significantly".
    """
    found = []
    for cell in cells:
        if cell.evaluation["num_candidates"] > 1:
            last = cell.history.sort("epoch").row(-1, named=True)
            val = {**cell.metrics("val"), **{name: last[f"val_{name}"] for name in SUMMARY}}
            cell = replace(cell, evaluation={**cell.evaluation, "val": val})
        found.append(cell)
    return found


def val_words(cells: Sequence[Outcome]) -> str:
    """Say which epoch the val metrics of the cells are of, and what was chosen by them."""
    found = sorted({cell.evaluation["num_candidates"] for cell in cells})
    words = "that of the last epoch"
    if found[-1] > 1:
        epochs = "–".join(map(str, dict.fromkeys((found[0], found[-1]))))
        words = (
            f"a maximum over {epochs} epochs, so it and its interval are better than on new videos;"
            " the choice of a model and comparisons take the last epoch"
        )
    if len(models := by_model(cells)) > 1:
        words += f"; that of the chosen model is the best of {len(models)} models"
    return words


def seed_stds(cells: Sequence[Outcome]) -> dict[str, dict[str, float]]:
    """Return the deviation of the balanced accuracy over seeds within folds, by model and split.

    Models with a single seed per fold are left out.
    """
    return {
        model: {
            split: std_over_seeds(
                [
                    [cell.evaluation[split]["balanced_accuracy"] for cell in of_fold]
                    for of_fold in by_fold(own).values()
                ]
            )
            for split in ("val", "test")
        }
        for model, own in by_model(cells).items()
        if len(own) > len(by_fold(own))
    }


def comparisons(cells: Sequence[Outcome]) -> list[Comparison]:
    """Compare every two models that share two or more folds, on these folds.

    The means over the seeds of each fold are compared, even if the seeds differ.
    """
    found = []
    for first, second in itertools.combinations(by_model(_at_last_epoch(cells)).values(), 2):
        shared = by_fold(first).keys() & by_fold(second).keys()
        if len(shared) > 1:
            own = [cell for cell in first if cell.fold in shared]
            found.append(
                Comparison(
                    first=first[0].model,
                    second=second[0].model,
                    val=difference_over_folds(
                        _differences(first, second, "val"), val_per_train=val_per_train(own)
                    ),
                    test=statistics.fmean(_differences(first, second, "test")),
                )
            )
    return found


def _differences(first: Sequence[Outcome], second: Sequence[Outcome], split: str) -> list[float]:
    """Return the differences on the folds that both have, in the order of the first."""
    others = fold_means(second, split, "balanced_accuracy")
    return [
        value - others[fold]
        for fold, value in fold_means(first, split, "balanced_accuracy").items()
        if fold in others
    ]


def score_lines(cells: Sequence[Outcome]) -> list[str]:
    """Describe the test score of every model and how the models differ."""
    lines = []
    for model, own in by_model(cells).items():
        found = estimate(own, "test", "balanced_accuracy")
        low, high = found.interval
        folds = list(fold_means(own, "test", "balanced_accuracy").values())
        spread = f" ± {statistics.stdev(folds):.4f} over {len(folds)} folds" if folds[1:] else ""
        lines.append(
            f"{model}: test balanced accuracy {statistics.fmean(folds):.4f}{spread}, 95 % interval "
            f"{low:.4f} to {high:.4f} ({found.basis})"
        )
    lines += [
        f"{model}: test balanced accuracy of single seeds ± {std['test']:.4f} around the mean of "
        "their fold"
        for model, std in seed_stds(cells).items()
    ]
    for compared in comparisons(cells):
        val = compared.val
        p_value = "" if val.p is None else f", p = {val.p:.3f}"
        lines.append(
            f"{compared.first} less {compared.second}: val balanced accuracy {val.mean:+.4f}"
            f"{_interval_words(val.interval)}{p_value}; test {compared.test:+.4f}"
        )
    return lines


def _interval_words(interval: tuple[float, float] | None) -> str:
    if interval is None:
        return " on every fold"
    low, high = interval
    return f", 95 % interval {low:+.4f} to {high:+.4f}"


def metrics_document(
    cells: Sequence[Outcome], model: str, counts: Mapping[str, int]
) -> dict[str, Any]:
    """Return the content of metrics.json.

    `val` and `test` are the metrics of `model`, means over its folds and seeds (all models have the
    same ones), with their intervals; `val_is` says of which epoch those of val are; `baseline` are
    those of the baselines on the same test sets, and the interval of the lead of `model` over each.
    With more than one cell, `models` has the mean of each model and its interval; with more than
    one fold also the sample standard deviation over folds (of the means over seeds); with more than
    one seed also the standard deviation over seeds within folds, pooled. With more than one fold,
    `comparisons` has every two models on the same folds. (DVC shows every number as a column, but
    not a list.)
    """
    own = by_model(cells)[model]
    document: dict[str, Any] = {split: _scores(own, split) for split in ("val", "test")}
    document["val_is"] = val_words(cells)
    document["baseline"] = {
        name: _scores(own, "test", name) | {"lead_interval": rival.lead.interval}
        for name, rival in rivals(own).items()
    }
    document["counts"] = dict(counts)
    if len(cells) > 1:
        document["models"] = {
            name: {split: _spread_document(own, split) for split in ("val", "test")}
            for name, own in by_model(cells).items()
        }
    if compared := comparisons(cells):
        document["comparisons"] = [asdict(comparison) for comparison in compared]
    return document


def _scores(own: Sequence[Outcome], split: str, baseline: str | None = None) -> dict[str, Any]:
    """Return the mean metrics of a model or a baseline, their intervals and number of groups."""
    found = {metric: estimate(own, split, metric, baseline) for metric in METRICS}
    return {
        **mean_metrics([cell.metrics(split, baseline) for cell in own]),
        **{f"{metric}_interval": of.interval for metric, of in found.items()},
        "groups": found["accuracy"].num_groups,
    }


def _spread_document(own: Sequence[Outcome], split: str) -> dict[str, Any]:
    """Return the balanced accuracy of one model, with the spreads that its cells allow."""
    means = list(fold_means(own, split, "balanced_accuracy").values())
    found = estimate(own, split, "balanced_accuracy")
    document: dict[str, Any] = {
        "balanced_accuracy": statistics.fmean(means),
        "balanced_accuracy_interval": found.interval,
        "groups": found.num_groups,
    }
    if len(means) > 1:
        document["balanced_accuracy_std"] = statistics.stdev(means)
    for over_seeds in seed_stds(own).values():
        document["balanced_accuracy_seed_std"] = over_seeds[split]
    return document


def identical_predictions(cells: Sequence[Outcome]) -> list[str]:
    """Return a warning for every two cells of a fold with identical predictions.

    Two trained networks never agree to the last digit. For two models with one seed, one was not
    trained, or both are the same; for one model with two seeds, the seed had no effect.
    """
    return [
        f"{first.name} and {second.name} have identical predictions; "
        + (
            "check that the seed reaches the training"
            if first.model == second.model
            else "check that both were trained"
        )
        for first, second in itertools.combinations(cells, 2)
        if first.fold == second.fold
        and (first.model == second.model or first.seed == second.seed)
        and first.predictions.equals(second.predictions)
    ]


def inexact_trainings(cells: Sequence[Outcome]) -> list[str]:
    """Return a warning for every cell that nobody can train again to the same bytes."""
    return [
        f"{cell.name} was trained exactly up to step {step}, and went on from there with other "
        "code, library versions or device (runtime.resume: compatible); no other training gives "
        "the same bytes"
        for cell in cells
        if (step := cell.evaluation["exact_up_to_step"]) is not None
    ]


def mean_metrics(metrics: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the means of the SUMMARY metrics."""
    return {name: statistics.fmean(item[name] for item in metrics) for name in SUMMARY}
