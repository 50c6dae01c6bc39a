"""What an epoch reports, when the last one is, and which one is published."""

import dataclasses
import math
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import polars as pl
import torch

from mlops.files.atomic import content_hash
from mlops.files.checkpoint_file import load_checkpoint
from mlops.files.yaml_text import load_yaml
from mlops.metrics.ledger import read_ledger
from mlops.metrics.log import read_metrics
from mlops.processes.group import ProcessGroup
from mlops.session import Progress
from stages.train import take_step
from tests.support.clone import CELL, run_stage, set_params
from tests.support.trainer import HISTORY, MODEL, Trainer, the_run, train
from video.clips.loading import Batch

EPOCHS, PATIENCE = 40, 3
# Steps so large that the loss of validation goes up and down.
TRAIN: dict[str, Any] = {
    "epochs": EPOCHS,
    "schedule": "constant",
    "learning_rate": 0.05,
    "monitor": "loss",
    "publish": "best",
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


def test_the_last_epoch_is_published_if_that_is_asked_for(workspace: Path) -> None:
    swinging = {name: TRAIN[name] for name in ("schedule", "learning_rate", "monitor")}
    set_params(workspace, {"train": swinging | {"epochs": 8, "publish": "last"}})
    published, losses = trained(workspace)
    assert len(losses) == 8
    assert losses.index(min(losses)) != 7, "no difference could be seen"
    assert (published["epoch"], published["num_candidates"]) == (7, 1)
    run_dir = the_run(workspace)
    after = load_checkpoint(run_dir / "checkpoints/latest_checkpoint.pt")
    weights = after["learner"]["model"]
    assert all(torch.equal(tensor, weights[name]) for name, tensor in published["model"].items())
    assert after["best_weights"] is None
    assert content_hash(run_dir / "artifacts/best_model.pt") == content_hash(workspace / MODEL)


def test_by_default_the_best_epoch_is_published_once_the_learning_rate_has_come_down(
    workspace: Path,
) -> None:
    set_params(workspace, {"train": {"epochs": 24, "monitor": "loss"}})
    published, losses = trained(workspace)
    assert len(losses) == 24  # without early stopping
    assert min(losses[:12]) < min(losses[12:]), "no difference could be seen"
    best = losses.index(min(losses[12:]))
    assert (published["epoch"], published["num_candidates"]) == (best, 12)


def test_the_best_epoch_is_the_best_by_the_metric_that_is_monitored(workspace: Path) -> None:
    # Most of the smoothed labels is the same for all classes, so that few mistakes cost little.
    changes = {"epochs": 6, "monitor": "accuracy", "patience_epochs": 0, "label_smoothing": 0.8}
    set_params(workspace, {"train": TRAIN | changes})
    published, losses = trained(workspace)
    accuracies = pl.read_csv(workspace / HISTORY)["val_accuracy"].to_list()
    ranks = [(accuracy, -loss) for accuracy, loss in zip(accuracies, losses, strict=True)]
    best = ranks.index(max(ranks))
    assert losses[best] > min(losses)
    assert published["epoch"] == best


def test_the_loss_of_an_epoch_is_the_mean_over_its_clips(workspace: Path) -> None:
    # The last batch of an epoch is a smaller one.
    set_params(workspace, {"train": {"batch_size": 5}, "runtime": {"log_every_steps": 1}})
    trained(workspace)
    run_dir = the_run(workspace)
    rows = read_metrics(run_dir / "metrics.jsonl").filter(pl.col("metric") == "loss")
    steps = read_ledger(run_dir / "ledger.jsonl").with_columns(pl.col("samples").list.len())
    steps = steps.join(rows.filter(phase="step").select("step", "value"), on="step")
    assert steps["samples"].n_unique() == 2
    assert steps["epoch"].n_unique() > 1
    means = (pl.col("value") * pl.col("samples")).sum() / pl.col("samples").sum()
    expected = steps.group_by("epoch", maintain_order=True).agg(means)["value"].to_list()
    np.testing.assert_allclose(rows.filter(phase="train")["value"].to_list(), expected, rtol=1e-12)


def test_each_epoch_has_an_order_of_its_own(workspace: Path) -> None:
    set_params(workspace, {"train": {"epochs": 3}})
    trained(workspace)
    orders = [
        epoch["samples"].explode().to_list()
        for epoch in read_ledger(the_run(workspace) / "ledger.jsonl").partition_by("epoch")
    ]
    assert len({tuple(order) for order in orders}) == 3
    assert all(sorted(order) == sorted(orders[0]) for order in orders)


def test_the_learning_rate_of_an_epoch_is_its_last_steps_whatever_was_killed(
    workspace: Path,
) -> None:
    changes = {"schedule": "cosine", "epochs": 3, "warmup_steps": 2}
    set_params(workspace, {"train": changes})
    shutil.rmtree(workspace / "runs")
    Trainer(workspace, hold="epoch 1: train loss").held().signal(signal.SIGKILL)
    train(workspace)
    steps = read_ledger(the_run(workspace) / "ledger.jsonl").group_by("epoch").len()["len"]
    (number,) = steps.unique()
    shares = [(number * epoch - 1 - 2) / (number * 3 - 2) for epoch in (1, 2, 3)]
    peak = load_yaml(workspace / "params.yaml")["train"]["learning_rate"]
    expected = [peak * (1 + math.cos(math.pi * share)) / 2 for share in shares]
    found = pl.read_csv(workspace / HISTORY)["train_learning_rate"].to_list()
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_another_seed_draws_another_order_and_other_weights(workspace: Path) -> None:
    set_params(workspace, {"seeds": [0, 1], "train": {"epochs": 1}})
    shutil.rmtree(workspace / "runs")
    for stage, *kinds in (("init_model", "--seed"), ("train", "--fold", "0", "--seed")):
        code, output = run_stage(stage, "--model", "small3d", *kinds, "1", cwd=workspace)
        assert code == 0, output
    other, drawn = read_ledger(the_run(workspace) / "ledger.jsonl"), generator_of(workspace)
    published, _ = trained(workspace)
    own = read_ledger(the_run(workspace) / "ledger.jsonl")
    assert not torch.equal(generator_of(workspace), drawn)  # from which dropout draws
    assert own["samples"].to_list() != other["samples"].to_list()
    assert sorted(own["samples"].explode()) == sorted(other["samples"].explode())
    path = workspace / dataclasses.replace(CELL, seed=1).best_model
    weights = load_checkpoint(path)["model"]
    filters = {name: of for name, of in published["model"].items() if of.ndim > 1}
    assert filters
    assert not any(torch.equal(of, weights[name]) for name, of in filters.items())


def generator_of(root: Path) -> torch.Tensor:
    """Return the state of torch's generator at the end of a training."""
    state = load_checkpoint(the_run(root) / "checkpoints/latest_checkpoint.pt")
    generator: torch.Tensor = state["rng"]["torch"]
    return generator


def draw_of(rank: int, step: int, *, seed: int = 0) -> float:
    """Return what one of two ranks draws in a step, as dropout would."""
    context: Any = SimpleNamespace(
        cell=dataclasses.replace(CELL, seed=seed),
        process=SimpleNamespace(group=ProcessGroup(rank=rank, size=2)),
    )
    session: Any = SimpleNamespace(progress=Progress(step=step))
    learner: Any = SimpleNamespace(micro_batch=8, events=[])
    clips: Any = SimpleNamespace(step=lambda learner, batch: torch.rand(1).item())
    return take_step(session, learner, clips, cast(Batch, None), context)


def test_each_rank_draws_other_numbers_in_each_step_the_same_ones_after_a_kill() -> None:
    places = [(rank, step) for rank in range(2) for step in range(3)]
    drawn = [draw_of(*place) for place in places]
    assert len(set(drawn)) == len(places)
    assert [draw_of(*place) for place in reversed(places)] == drawn[::-1]
    assert draw_of(0, 0, seed=1) not in drawn


def trained(root: Path) -> tuple[dict[str, Any], list[float]]:
    """Train; return what is published, and the validation loss of each epoch."""
    shutil.rmtree(root / "runs")
    train(root)
    history = pl.read_csv(root / HISTORY)
    assert history["epoch"].to_list() == list(range(history.height))
    return load_checkpoint(root / MODEL), history["val_loss"].to_list()
