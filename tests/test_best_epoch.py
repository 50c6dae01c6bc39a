"""Training ends when no epoch has been better for a while, and publishes the best one."""

import shutil
from pathlib import Path
from typing import Any

import polars as pl
import torch

from mlops.checkpoint import load_checkpoint
from tests.clone import set_params
from tests.trainer import HISTORY, MODEL, the_run, train

EPOCHS, PATIENCE = 40, 3
# Steps so large that the loss of validation goes up and down.
TRAIN: dict[str, Any] = {
    "epochs": EPOCHS,
    "schedule": "constant",
    "learning_rate": 0.05,
    "monitor": "loss",
    "patience_epochs": PATIENCE,
}


def test_patience_ends_a_training_whose_best_epoch_is_published(workspace: Path) -> None:
    set_params(workspace, {"train": TRAIN})
    published, losses = trained(workspace)
    best = losses.index(min(losses))
    assert len(losses) == best + 1 + PATIENCE < EPOCHS
    assert published["epoch"] == best

    set_params(workspace, {"train": TRAIN | {"epochs": best + 1}})
    trained(workspace)
    after = load_checkpoint(the_run(workspace) / "checkpoints/latest_checkpoint.pt")
    weights = after["learner"]["model"]
    assert all(torch.equal(tensor, weights[name]) for name, tensor in published["model"].items())


def trained(root: Path) -> tuple[dict[str, Any], list[float]]:
    """What a training publishes, and the loss of validation of each of its epochs."""
    shutil.rmtree(root / "runs")
    train(root)
    history = pl.read_csv(root / HISTORY)
    assert history["epoch"].to_list() == list(range(history.height))
    return load_checkpoint(root / MODEL), history["val_loss"].to_list()
