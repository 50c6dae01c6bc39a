"""Outcomes of cells: what training and evaluation have left of each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The results of a cell: a model trained on a fold with a seed.

    name: for display, with its seed if there are several; evaluation: "val" and "test" by
    `metrics.classification_metrics`, "baseline" with the same by name, the "epoch" of the weights,
    "num_candidates", the epochs among which val chose it (1 if it is the last one anyway), and
    "exact_up_to_step", null unless training went on from a state of other code or versions;
    history: one row per epoch; predictions: one row per video, with its group, its label and the
    `predicted` one, that of each baseline (`predicted_<name>`), and `probability_<label>` per
    class.
    """

    model: str
    fold: int
    seed: int
    name: str
    num_train_videos: int
    evaluation: Mapping[str, Any]
    history: pl.DataFrame
    predictions: pl.DataFrame

    def metrics(self, split: str, baseline: str | None = None) -> Mapping[str, Any]:
        """Return the metrics of the model, or of a baseline in its place."""
        of: Mapping[str, Any] = (
            self.evaluation["baseline"][baseline] if baseline else self.evaluation
        )
        found: Mapping[str, Any] = of[split]
        return found


def by_model(cells: Sequence[Outcome]) -> dict[str, list[Outcome]]:
    models: dict[str, list[Outcome]] = {}
    for cell in cells:
        models.setdefault(cell.model, []).append(cell)
    return models


def by_fold(cells: Sequence[Outcome]) -> dict[int, list[Outcome]]:
    folds: dict[int, list[Outcome]] = {}
    for cell in cells:
        folds.setdefault(cell.fold, []).append(cell)
    return folds


def val_per_train(cells: Sequence[Outcome]) -> float:
    """Return the validation videos for each training video."""
    num_val = sum(cell.evaluation["val"]["num_videos"] for cell in cells)
    return float(num_val / sum(cell.num_train_videos for cell in cells))
