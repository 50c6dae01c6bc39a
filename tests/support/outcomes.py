"""Outcomes of cells with real predictions, for what is computed of them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from video.scoring.metrics import classification_metrics
from video.scoring.outcomes import Outcome

LABELS = ["real", "fake"]
SPLITS = ("val", "test")


def predictions(
    groups: Sequence[str], targets: Sequence[int], **predicted: Sequence[int]
) -> pl.DataFrame:
    """Return one row per video: `predicted` of the model, `predicted_<name>` of each baseline."""
    labels = pl.Enum(LABELS)
    named = {
        name: pl.Series([LABELS[i] for i in values], dtype=labels)
        for name, values in {"label": targets, **predicted}.items()
    }
    videos = [f"{group}/{number}.mp4" for number, group in enumerate(groups)]
    return pl.DataFrame({"video_path": videos, "group": list(groups)}).with_columns(**named)


def outcome(
    val: pl.DataFrame,
    test: pl.DataFrame,
    *,
    model: str = "small",
    fold: int = 0,
    seed: int = 0,
    num_train_videos: int = 80,
) -> Outcome:
    """Return the outcome of a cell with these predictions, and the metrics that follow of them."""
    tables = {"val": val, "test": test}
    names = [name for name in test.columns if name.startswith("predicted")]
    scores = {name: {split: _metrics(tables[split], name) for split in SPLITS} for name in names}
    of_model = scores.pop("predicted")
    baselines = {name.removeprefix("predicted_"): of for name, of in scores.items()}
    return Outcome(
        model=model,
        fold=fold,
        seed=seed,
        name=f"{model} fold {fold} seed {seed}",
        num_train_videos=num_train_videos,
        evaluation={**of_model, "baseline": baselines},
        history=pl.DataFrame({"epoch": [0]}),
        predictions=pl.concat(
            table.with_columns(split=pl.lit(split)) for split, table in tables.items()
        ),
    )


def _metrics(table: pl.DataFrame, column: str) -> dict[str, Any]:
    given = np.eye(len(LABELS))[table[column].to_physical()]
    return classification_metrics(table["label"].to_physical().to_numpy(), given, LABELS)
