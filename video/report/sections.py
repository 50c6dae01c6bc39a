"""Parts of the report's page, made from the cells' outcomes and the tables of the data stages."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from video.clips.loading import ClipSet
from video.report.page_content import (
    AugmentedClip,
    Baseline,
    ClassCount,
    Example,
    Headline,
    Quarantined,
    SplitCount,
)
from video.scoring.estimates import METRICS, Estimate, estimate
from video.scoring.outcomes import Outcome, by_fold, by_model
from video.scoring.summary import mean_metrics
from video.scoring.verdict import judge, remarks, rivals
from video.splitting.splits import TEST, TRAIN, VAL, class_names, split_in_fold

BASELINES = {
    "majority": "always the most frequent class of train",
    "metadata": "codec, container, size, rate, length, sound, … of the file; no pixel",
}


def split_counts(splits: pl.DataFrame, augmented: pl.DataFrame, fold: int) -> list[SplitCount]:
    """Count videos, groups and augmented clips of each split in the cell of `fold`."""
    roles = splits.with_columns(role=split_in_fold(pl.col("fold"), fold))
    copies = augmented.join(roles.filter(role=TRAIN), on="video_path", how="semi")
    return [
        SplitCount(
            split=role,
            num_videos=rows.height,
            num_groups=rows["group"].n_unique(),
            num_augmented_clips=copies.height if role == TRAIN else 0,
            per_class={label: _class_count(rows, label) for label in class_names(splits)},
        )
        for role in (TRAIN, VAL, TEST)
        for rows in [roles.filter(pl.col("role") == role)]
    ]


def _class_count(rows: pl.DataFrame, label: str) -> ClassCount:
    own = rows.filter(pl.col("label") == label)
    return ClassCount(num_videos=own.height, num_groups=own["group"].n_unique())


def headline(own: Sequence[Outcome]) -> Headline:
    """Return the chosen model's test score, and the verdict on it."""
    found = estimate(own, TEST, "balanced_accuracy")
    folds = by_fold(own)
    of = f"mean of {len(folds)} folds" if len(folds) > 1 else f"fold {own[0].fold}"
    over = "groups and folds" if len(folds) > 1 else "groups"
    if len(own) > len(folds):
        of += f", {len({cell.seed for cell in own})} seeds each"
        over = over if len(folds) > 1 else "groups and seeds"
    return Headline(
        model=own[0].model,
        value=found.value,
        interval=found.interval,
        basis=found.basis,
        method=f"{of}; 95 % interval over {over} (Korn and Graubard 1998)",
        verdict=judge(rivals(own)),
        remarks=remarks(own),
    )


def estimates(cells: Sequence[Outcome], chosen: str) -> dict[str, dict[str, dict[str, Estimate]]]:
    """Return the estimates by name, split and metric: of models, of baselines of the chosen one."""

    def all_of(
        own: Sequence[Outcome], baseline: str | None = None
    ) -> dict[str, dict[str, Estimate]]:
        return {
            split: {metric: estimate(own, split, metric, baseline) for metric in METRICS}
            for split in (VAL, TEST)
        }

    models = by_model(cells)
    return {name: all_of(own) for name, own in models.items()} | {
        name: all_of(models[chosen], name) for name in BASELINES
    }


def baselines(own: Sequence[Outcome]) -> list[Baseline]:
    """Return the baselines, means over the cells of one model."""
    return [
        Baseline(
            name=name,
            description=description,
            scores={
                split: mean_metrics([cell.metrics(split, name) for cell in own])
                for split in (VAL, TEST)
            },
        )
        for name, description in BASELINES.items()
    ]


def examples(cell: Outcome, clips: pl.DataFrame, packs: Path, num_per_class: int) -> list[Example]:
    """Return test clips of each class: half of them right, half the most confidently wrong."""
    test = cell.predictions.filter(pl.col("split") == TEST).with_columns(
        confidence=pl.max_horizontal(pl.selectors.starts_with("probability_"))
    )
    chosen = []
    for label in class_names(test):
        rows = test.filter(pl.col("label") == label).sort("confidence", descending=True)
        wrong = rows.filter(pl.col("predicted") != label).head(num_per_class // 2)
        right = rows.filter(pl.col("predicted") == label).head(num_per_class - wrong.height)
        chosen += [right, wrong]
    table = pl.concat(chosen).join(
        clips.drop("sha256", "label", "group"), on="video_path", maintain_order="left"
    )
    return [
        Example(
            frames=frames,
            video=row["video_path"],
            true_label=row["label"],
            predicted_label=row["predicted"],
            probability=row["confidence"],
        )
        for frames, row in zip(_read(table, packs), table.iter_rows(named=True), strict=True)
    ]


def augmented_clips(
    clips: pl.DataFrame,
    packs: Path,
    augmented: pl.DataFrame,
    augmented_packs: Path,
    *,
    num_videos: int,
) -> list[AugmentedClip]:
    """Return the first videos of each class in turn that have copies, beside these."""
    parents = clips.join(augmented, on="video_path", how="semi", maintain_order="left")
    turn = parents.with_columns(turn=pl.int_range(pl.len()).over("label")).sort("turn", "label")
    return [
        AugmentedClip(
            video=parent["video_path"].item(),
            label=parent["label"].item(),
            clip=_read(parent, packs)[0],
            copies=list(_read(copies, augmented_packs)),
        )
        for parent in turn.head(num_videos).iter_slices(1)
        for copies in [augmented.filter(pl.col("video_path") == parent["video_path"].item())]
    ]


def _read(table: pl.DataFrame, packs: Path) -> NDArray[np.uint8]:
    clips = ClipSet(table, [packs] * table.height, class_names(table))
    return clips.read(range(table.height))


def quarantined(table: pl.DataFrame, pictures: Mapping[int, Path]) -> list[Quarantined]:
    """Return the rows of the quarantine; `pictures` has the packs of those that decode, by row."""
    return [
        Quarantined(
            row=row,
            path=path or "",
            verdict=verdict,
            reason=reason,
            frames=np.load(pictures[row])[0] if row in pictures else None,
        )
        for row, path, verdict, reason in table.iter_rows()
    ]


def count_totals(
    counts: Sequence[SplitCount], splits: pl.DataFrame, num_quarantined: int
) -> dict[str, Any]:
    """Return the counts of metrics.json."""
    return {
        "videos": splits.height,
        "groups": splits["group"].n_unique(),
        "quarantined": num_quarantined,
        **{f"{count.split}_videos": count.num_videos for count in counts},
        "augmented_clips": sum(count.num_augmented_clips for count in counts),
    }


def loss_curves(cells: Sequence[Outcome]) -> pl.DataFrame:
    """Return the losses of training and validation, one row per cell, split and epoch."""
    return pl.concat([_curve(cell, "loss", split) for cell in cells for split in (TRAIN, VAL)])


def score_curves(cells: Sequence[Outcome], metric: str) -> pl.DataFrame:
    """Return a metric of validation, one row per cell and epoch."""
    return pl.concat([_curve(cell, metric, VAL) for cell in cells])


def _curve(cell: Outcome, metric: str, split: str) -> pl.DataFrame:
    return cell.history.select(
        "epoch",
        pl.lit(cell.name).alias("cell"),
        pl.lit(split).alias("split"),
        pl.col(f"{split}_{metric}").alias("value"),
    )


def predictions_of_test(cells: Sequence[Outcome]) -> pl.DataFrame:
    """Return the true and the predicted labels of the test set, one row per cell and video."""
    predictions = pl.concat([cell.predictions for cell in cells])
    return predictions.filter(split=TEST).select(actual="label", predicted="predicted")
