"""What is published is the model that training has validated, and its predictions are its own."""

import json
from pathlib import Path
from typing import cast

import polars as pl
import pytest

from mlops.files.checkpoint_file import load_checkpoint
from tests.support.clone import CELL, dvc, set_params
from video.scoring.monitored import SUMMARY

# The two passes have batches of other sizes, and so add float32 in another order.
ROUNDING = 1e-5


def assert_scores_are_those_of_training(root: Path) -> None:
    evaluation = json.loads((root / CELL.evaluation).read_text())
    history = pl.read_csv(root / CELL.history)
    (best,) = history.filter(pl.col("epoch") == evaluation["epoch"]).to_dicts()
    expected = {name: best[f"val_{name}"] for name in SUMMARY}
    found = {name: evaluation["val"][name] for name in SUMMARY}
    assert found == pytest.approx(expected, rel=ROUNDING, abs=0)


def assert_predictions_are_the_most_probable_classes(root: Path) -> pl.Series:
    """Return the predictions, by which the accuracies are those of evaluation.json."""
    table = pl.read_parquet(root / CELL.predictions)
    predicted = table["predicted"]
    labels = cast("pl.Enum", predicted.dtype).categories.to_list()
    assert load_checkpoint(root / CELL.best_model)["labels"] == labels
    probabilities = table.select(f"probability_{label}" for label in labels).to_numpy()
    assert predicted.to_list() == [labels[i] for i in probabilities.argmax(axis=1)]
    evaluation = json.loads((root / CELL.evaluation).read_text())
    shares = table.group_by("split").agg((pl.col("predicted") == pl.col("label")).mean())
    accuracies = {split: evaluation[split]["accuracy"] for split in ("val", "test")}
    assert dict(shares.iter_rows()) == pytest.approx(accuracies)
    return predicted


def test_the_published_model_scores_as_in_training(finished: Path) -> None:
    assert_scores_are_those_of_training(finished)
    assert_predictions_are_the_most_probable_classes(finished)


def test_the_val_metrics_of_a_best_epoch_are_called_a_maximum(workspace: Path) -> None:
    changes = {"publish": "best", "epochs": 6, "learning_rate": 0.05, "schedule": "constant"}
    set_params(workspace, {"train": changes})
    dvc("repro", "report", cwd=workspace)
    assert_scores_are_those_of_training(workspace)
    words = json.loads((workspace / "metrics.json").read_text())["val_is"]
    assert words.startswith("a maximum over 6 epochs, so it and its interval are better")
    assert f"Val is {words}." in (workspace / "report.html").read_text()
    shown = json.loads(dvc("metrics", "show", "--json", cwd=workspace))
    assert shown[""]["data"]["metrics.json"]["data"]["val_is"] == words


def test_published_averaged_weights_score_as_in_training(workspace: Path) -> None:
    changes = {"ema_decay": 0.8, "epochs": 20, "learning_rate": 4.0e-3}
    set_params(workspace, {"train": changes})
    dvc("repro", "evaluate", cwd=workspace)
    assert_scores_are_those_of_training(workspace)
    # Of one class alone, the predictions would say little.
    assert assert_predictions_are_the_most_probable_classes(workspace).n_unique() == 2
