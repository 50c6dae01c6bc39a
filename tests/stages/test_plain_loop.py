"""The train stage takes the steps of a plain loop, on the clips and by the options of its cell.

The loop knows the files, torch and the functions on pixels. It takes from the stage which rows
each step saw, and compares all losses.
"""

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from torch.nn import functional

from mlops.files.checkpoint_file import load_checkpoint
from mlops.files.yaml_text import load_yaml
from mlops.metrics.ledger import read_ledger
from mlops.metrics.log import read_metrics
from stages.paths import AUGMENTED, AUGMENTED_PACKS, CLIPS, PACKS, SPLITS
from tests.support.clone import CELL, run_stage, set_params
from tests.support.trainer import HISTORY, the_run, train
from video.augmentation.clip import augment_clip
from video.augmentation.config import AugmentationRecipe
from video.models.classifiers import Normalize, build_model, head_of
from video.models.shape import ModelShape

SMOOTHING = 0.1

# The steps are the same up to rounding, which they let grow.
ROUNDING = 1e-3


def clips_of(root: Path, table: Path, packs: Path, *, validates: bool) -> list[dict[str, Any]]:
    """Return the rows of a table whose videos train in CELL, or validate it, with their clips."""
    splits = pl.read_parquet(root / SPLITS).filter(pl.col("fold").is_not_null())
    of_cell = splits.filter((pl.col("fold") == CELL.fold) == validates)["video_path"].to_list()
    rows = [row for row in pl.read_parquet(root / table).to_dicts() if row["video_path"] in of_cell]
    for row in rows:
        row["pixels"] = np.load(root / packs / row["pack"])[row["clip"]]
    return rows


def shown(rows: list[dict[str, Any]], labels: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    clips = torch.from_numpy(np.stack([row["pixels"] for row in rows]))
    return clips, torch.tensor([labels.index(row["label"]) for row in rows])


def losses_of_a_plain_loop(root: Path) -> tuple[list[float], list[float], list[list[int]]]:
    """Return the losses of all steps and validations, and the classes that each epoch saw."""
    params = load_yaml(root / "params.yaml")
    online = params["augment"]["online"]
    recipe = AugmentationRecipe(
        **{name: params["augment"][name] for name in AugmentationRecipe.__dataclass_fields__}
    )
    rows = clips_of(root, CLIPS, PACKS, validates=False)
    if not online:
        rows += clips_of(root, AUGMENTED, AUGMENTED_PACKS, validates=False)
    labels = sorted({row["label"] for row in rows})
    val = shown(clips_of(root, CLIPS, PACKS, validates=True), labels)
    counts = Counter(row["label"] for row in rows)
    weights = torch.tensor([len(rows) / len(labels) / counts[label] for label in labels])

    initial = load_checkpoint(root / CELL.initial_weights)
    model = build_model(CELL.model, ModelShape(**initial["shape"]))
    model.load_state_dict(initial["model"])
    normalize = Normalize(CELL.model)
    rate, decay = params["train"]["learning_rate"], params["train"]["weight_decay"]
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=decay)
    losses, val_losses, classes = [], [], []
    for ledger in read_ledger(the_run(root) / "ledger.jsonl").partition_by("epoch"):
        seen: Counter[int] = Counter()
        frozen = len(classes) < params["train"]["frozen_epochs"]
        model.train(not frozen).requires_grad_(not frozen)
        for part in head_of(CELL.model, model):
            part.train().requires_grad_(True)
        for epoch, samples in ledger.select("epoch", "samples").iter_rows():
            batch = [dict(rows[row]) for row in samples]
            for row, clip in zip(samples, batch, strict=True):
                if online:
                    clip["pixels"] = augment_clip(
                        clip["pixels"],
                        recipe,
                        seed=CELL.seed,
                        video_sha256=clip["sha256"],
                        copy=epoch + (seen[row] << 32),
                    )
                seen[row] += 1
            clips, targets = shown(batch, labels)
            loss = functional.cross_entropy(
                model(normalize(clips)),
                targets,
                weights if params["train"]["class_weights"] else None,
                label_smoothing=SMOOTHING,
            )
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            losses.append(loss.item())
        assert seen.total() == len(rows)
        classes.append([labels.index(rows[row]["label"]) for row in seen.elements()])
        model.eval()
        with torch.no_grad():
            val_losses.append(functional.cross_entropy(model(normalize(val[0])), val[1]).item())
    return losses, val_losses, classes


@pytest.mark.parametrize(
    ("sampling", "class_weights", "online", "frozen_epochs"),
    [("shuffled", True, False, 0), ("balanced", False, True, 0), ("weighted", False, False, 1)],
)
def test_steps_and_validation_are_those_of_a_plain_loop(
    sampling: str, class_weights: bool, online: bool, frozen_epochs: int, workspace: Path
) -> None:
    set_params(
        workspace,
        {
            "init_model": {"dropout": 0.0},
            "augment": {"online": online},
            "train": {
                "schedule": "constant",
                "label_smoothing": SMOOTHING,
                "sampling": sampling,
                "class_weights": class_weights,
                "frozen_epochs": frozen_epochs,
            },
            "runtime": {"log_every_steps": 1},
        },
    )
    shutil.rmtree(workspace / "runs")
    code, output = run_stage("init_model", "--model", "small3d", "--seed", "0", cwd=workspace)
    assert code == 0, output
    torch.set_num_threads(1)
    train(workspace)

    losses, val_losses, classes = losses_of_a_plain_loop(workspace)

    log = read_metrics(the_run(workspace) / "metrics.jsonl").filter(metric="loss", phase="step")
    assert log["value"].to_list() == pytest.approx(losses, rel=ROUNDING)
    found = pl.read_csv(workspace / HISTORY)["val_loss"].to_list()
    assert found == pytest.approx(val_losses, rel=ROUNDING)
    counts = [Counter(epoch).values() for epoch in classes]
    is_balanced = [max(count) - min(count) <= 1 for count in counts]
    assert all(is_balanced) == (sampling == "balanced")
