"""Frozen features: computed once for each clip, and a head that is trained on them alone."""

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from numpy.typing import NDArray

from mlops.files.atomic import content_hash
from mlops.files.checkpoint_file import load_checkpoint, save_checkpoint
from mlops.metrics.ledger import read_ledger
from mlops.stage import run_stage
from stages import embed
from stages.paths import AUGMENTED, CLIPS, SPLITS, features_file, initial_weights
from tests.support.clone import CELL, dvc, environment, options, replace_video, set_params
from tests.support.trainer import HISTORY, MODEL, Trainer, results, the_run, train
from video.models.backbone import Backbone
from video.models.classifiers import model_module

NUM_CLIPS = 2
EPOCHS = 4
TRAIN: dict[str, Any] = {
    "features": "frozen",
    "epochs": EPOCHS,
    "batch_size": 4,
    "schedule": "constant",
    "ema_decay": 0.5,
}


@pytest.fixture(scope="module")
def frozen(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a clone that has trained a head on the features of two clips of each video."""
    root = tmp_path_factory.mktemp("frozen") / "clone"
    shutil.copytree(finished, root, symlinks=True)
    shutil.copytree(root / "data/generated_sample", root / "data/mine")
    clips = {"sampling": "dense", "fps": 12.0, "frames": 6, "per_video": NUM_CLIPS}
    data = {"index": "data/mine/index.csv", "root": "data/mine"}
    runtime = {"checkpoint_every_sec": 0.01, "log_every_steps": 1}
    set_params(root, {"data": data, "clips": clips, "train": TRAIN, "runtime": runtime})
    dvc("repro", "evaluate", cwd=root)
    return root


@pytest.fixture
def root(frozen: Path, tmp_path: Path) -> Path:
    return shutil.copytree(frozen, tmp_path / "clone", symlinks=True)


def features_of(root: Path) -> dict[str, NDArray[np.float32]]:
    """Return the features of each clip by its sha256."""
    table = pl.read_parquet(root / CELL.features)
    return dict(zip(table["clip_sha256"], table["features"].to_numpy(), strict=True))


def clips_of(root: Path) -> list[str]:
    """Return the sha256 of each clip, augmented copies included, in their order."""
    tables = [pl.read_parquet(root / table) for table in (CLIPS, AUGMENTED)]
    return list(dict.fromkeys(sha256 for table in tables for sha256 in table["clip_sha256"]))


def embedded(root: Path, *, seed: int = 0, **stop: Any) -> str:
    """Run the stage in a process of its own; return what it prints."""
    output = root.with_name("embed.log")
    output.unlink(missing_ok=True)
    # Of the processes that import torch once, for all tests.
    context = multiprocessing.get_context("forkserver")
    process = context.Process(target=_embed, args=(str(root), str(output), seed), kwargs=stop)
    process.start()
    process.join(60)
    assert process.exitcode == stop.get("code", 0), output.read_text()
    return output.read_text()


def _embed(
    root: str,
    output: str,
    seed: int,
    number: signal.Signals | None = None,
    after: int = 0,
    every_sec: float = embed.SAVE_EVERY_SEC,
    code: int = 0,
) -> None:
    """Run the stage, which is sent a signal after so many clips."""
    os.chdir(root)
    sys.stdout = sys.stderr = Path(output).open("w", buffering=1)  # noqa: SIM115
    sys.argv = ["embed", "--model", CELL.model, "--seed", str(seed)]
    compute, computed = Backbone.features, []

    def compute_and_stop(self: Backbone, clips: NDArray[np.uint8]) -> NDArray[np.float32]:
        if number and len(computed) == after:
            os.kill(os.getpid(), number)
        computed.append(compute(self, clips))
        return computed[-1]

    embed.SAVE_EVERY_SEC = every_sec
    Backbone.features = compute_and_stop  # type: ignore[method-assign]
    run_stage("embed", embed.main)


def test_the_published_model_is_the_initial_backbone_with_a_trained_head(frozen: Path) -> None:
    initial = load_checkpoint(frozen / CELL.initial_weights)["model"]
    published = load_checkpoint(frozen / MODEL)["model"]

    assert list(published) == list(initial)
    changed = {name for name in initial if not torch.equal(initial[name], published[name])}
    assert changed
    assert all(name.split(".")[0] in model_module(CELL.model).head(CELL.model) for name in changed)
    # Evaluated from pixels, it scores as in training from features.
    history = pl.read_csv(frozen / HISTORY)
    epoch = load_checkpoint(frozen / MODEL)["epoch"]
    rows = pl.read_parquet(frozen / CELL.predictions).filter(split="val")
    right = [row[f"probability_{row['label']}"] for row in rows.to_dicts()]
    assert -np.log(right).mean() == pytest.approx(history["val_loss"][epoch], rel=1e-5)


def test_an_epoch_takes_one_clip_of_each_video(frozen: Path) -> None:
    steps = read_ledger(the_run(frozen) / "ledger.jsonl")
    items = pl.read_parquet(frozen / SPLITS).filter(split="train").height * 2
    for epoch in steps.partition_by("epoch"):
        drawn = epoch["samples"].explode().to_list()
        assert len({row // NUM_CLIPS for row in drawn}) == len(drawn) == items


def test_training_on_features_takes_the_steps_of_a_head_below_a_frozen_backbone(root: Path) -> None:
    on_features = load_checkpoint(root / MODEL)["model"], pl.read_csv(root / HISTORY)
    # The sums of batch normalization are other ones with other clips at once: up to rounding.
    set_params(root, {"train": {"features": "trained", "frozen_epochs": EPOCHS}})

    train(root)

    history = pl.read_csv(root / HISTORY)
    for name in ("train_loss", "val_loss"):
        np.testing.assert_allclose(history[name], on_features[1][name], rtol=1e-4)
    for name, weights in load_checkpoint(root / MODEL)["model"].items():
        torch.testing.assert_close(weights, on_features[0][name], rtol=1e-3, atol=1e-5)


def test_a_killed_training_of_a_head_ends_with_the_same_bytes(root: Path) -> None:
    whole = results(root)
    steps = len(whole["samples"])
    shutil.rmtree(root / "runs")
    (root / MODEL).unlink()
    for step in (1, steps // 2, steps - 1):
        assert Trainer(root, hold=step).held().signal(signal.SIGKILL) == -signal.SIGKILL

    output = train(root)

    assert "train: resuming" in output
    assert results(root) == whole


def test_a_killed_computation_keeps_its_features_and_ends_with_the_same_bytes(root: Path) -> None:
    whole, num = content_hash(root / CELL.features), len(clips_of(root))
    shutil.rmtree(root / ".dvc/cache")
    (root / CELL.features).unlink()

    embedded(root, number=signal.SIGKILL, after=9, every_sec=0.0, code=-signal.SIGKILL)
    stopped = embedded(root, number=signal.SIGTERM, after=5, code=143)
    output = embedded(root)

    assert "embed: stopped by SIGTERM" in stopped
    assert f"small3d seed 0: {num - 15} clips computed, 15 reused" in output
    assert content_hash(root / CELL.features) == whole
    assert not list(root.glob("runs/.embed*"))


def test_of_one_replaced_video_the_clips_alone_are_computed(root: Path) -> None:
    before, num = features_of(root), len(clips_of(root))
    replace_video(root, 0)

    output = dvc("repro", "embed", cwd=root)

    new = 2 * NUM_CLIPS  # its clips, and a copy of each
    assert f"small3d seed 0: {new} clips computed, {num - new} reused" in output
    after = features_of(root)
    assert list(after) == clips_of(root)
    kept = before.keys() & after.keys()
    assert len(kept) == num - new
    assert all(np.array_equal(before[clip], after[clip]) for clip in kept)

    # What is reused is what would be computed.
    made = content_hash(root / CELL.features)
    shutil.rmtree(root / ".dvc/cache")
    (root / CELL.features).unlink()
    assert f"{num} clips computed, 0 reused" in embedded(root)
    assert content_hash(root / CELL.features) == made


def test_another_head_reuses_the_features_and_another_backbone_does_not(root: Path) -> None:
    num = len(clips_of(root))
    set_params(root, {"seeds": [0, 1]})
    state = load_checkpoint(root / CELL.initial_weights)
    path = root / initial_weights(CELL.model, 1)
    *_, last = state["model"]
    state["model"][last] += 1
    save_checkpoint(path, state)
    assert f"small3d seed 1: 0 clips computed, {num} reused" in embedded(root, seed=1)
    other = root / features_file(CELL.model, 1)
    assert content_hash(other) == content_hash(root / CELL.features)

    state["model"][next(iter(state["model"]))] *= 2
    save_checkpoint(path, state)
    assert f"small3d seed 1: {num} clips computed, 0 reused" in embedded(root, seed=1)
    assert content_hash(other) != content_hash(root / CELL.features)


def test_training_without_the_features_of_a_clip_is_refused(root: Path) -> None:
    splits = pl.read_parquet(root / SPLITS).filter(split="train")
    clip = (
        pl.read_parquet(root / CLIPS).join(splits, on="video_path", how="semi").row(0, named=True)
    )
    table = pl.read_parquet(root / CELL.features)
    rest = table.filter(pl.col("clip_sha256") != clip["clip_sha256"])
    rest.write_parquet(root / CELL.features)

    trainer = Trainer(root)

    assert trainer.end() == 1
    assert f"got none of 1 of them, the first of {clip['video_path']}; run" in trainer.output


def test_where_the_whole_model_is_trained_nothing_is_computed_nor_torch_imported(
    finished: Path, workspace: Path
) -> None:
    pl.read_parquet(workspace / CLIPS).head(1).write_parquet(workspace / CLIPS)
    code = """
import runpy, sys
runpy.run_module("stages.embed", run_name="__main__", alter_sys=True)
assert "torch" not in sys.modules
"""
    words = options(CELL)
    command = [sys.executable, "-c", code, *words[:2], *words[4:]]

    subprocess.run(command, cwd=workspace, env=environment(), check=True)

    for root in (finished, workspace):
        assert pl.read_parquet(root / CELL.features).is_empty()
    assert content_hash(workspace / CELL.features) == content_hash(finished / CELL.features)
