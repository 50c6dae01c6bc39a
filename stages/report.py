"""Gather the cells that params.yaml names into metrics.json, plots and one page."""

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from mlops.errors import PipelineError
from mlops.files import atomic
from mlops.inputs import StageInputs
from mlops.stage import run_stage
from stages.params import Params, named_cells, read_params
from stages.paths import (
    AUGMENTED,
    AUGMENTED_PACKS,
    CLIPS,
    CONFUSION_PLOT,
    LOSS_PLOT,
    METRICS,
    PACKS,
    QUARANTINE,
    QUARANTINED,
    REPORT,
    RESULTS,
    SCORE_PLOT,
    SPLITS,
    Cell,
)
from video.clips.loading import ClipSet
from video.clips.packs import PackError
from video.report.page import render_page
from video.report.page_content import (
    AugmentedClip,
    Baseline,
    CellResult,
    ClassCount,
    Example,
    Headline,
    Quarantined,
    ReportPage,
    SplitCount,
    scores_from,
)
from video.scoring.summary import (
    Outcome,
    best_model,
    by_fold,
    by_model,
    comparisons,
    identical_predictions,
    mean_metrics,
    metrics_document,
    non_finite_metrics,
    seed_stds,
    spreads,
)
from video.splitting.splits import TEST, TRAIN, VAL, class_names, split_in_fold

PICTURED = QUARANTINED / "rows.csv"

BASELINES = {
    "majority": "always the most frequent class of train",
    "metadata": "size, rate, length and bytes per frame of the file; no pixel",
}


def main(inputs: StageInputs) -> None:
    params = read_params()
    named = named_cells(params)
    inputs.check_makers(made_by(named))
    inputs.read_only(RESULTS, [path for cell in named for path in result_files(cell)])
    drop_other_cells(named)
    if faults := missing_cells(named):
        raise PipelineError(*faults)
    splits = pl.read_parquet(SPLITS)
    cells = read_cells(named, splits)
    if faults := non_finite_metrics(cells):
        raise PipelineError(*faults)
    model = best_model(cells, params.train.monitor)
    quarantine = pl.read_csv(QUARANTINE, infer_schema=False).cast({"row": pl.Int64})
    augmented = pl.read_parquet(AUGMENTED)
    counts = split_counts(splits, augmented, params.folds[0])

    document = metrics_document(cells, model, totals(counts, splits, quarantine))
    warnings = identical_predictions(cells)
    page = report_page(params, cells, model, document, counts, splits, quarantine, warnings)
    rendered = render_page(page)
    inputs.check()
    atomic.write_json(METRICS, document)
    write_plots(cells, model, params.train.monitor)
    atomic.write_text(REPORT, rendered)
    for warning in warnings:
        print(f"report: warning: {warning}")
    print_comparison(cells)
    print(f"report: {model}: test balanced accuracy {document['test']['balanced_accuracy']:.4f}")


def made_by(named: Sequence[Cell]) -> list[str]:
    """Return the names that DVC gives to the stages whose results and parameters are reported."""
    cells = [f"{cell.model}-{cell.fold}-{cell.seed}" for cell in named]
    return [
        *("load_data", "create_splits", "create_dataset", "generate_augmentations"),
        *(f"init_model@{cell.model}-{cell.seed}" for cell in named),
        *(f"{stage}@{cell}" for stage in ("train", "evaluate") for cell in cells),
    ]


def drop_other_cells(named: Sequence[Cell]) -> None:
    """Remove from results/ the results of cells that params.yaml does not name.

    The report does not read them, but DVC hashes the whole directory: dvc.lock would depend on
    what an earlier grid left behind. Their content stays in DVC's cache, and `dvc checkout` of the
    commit that named it brings it back. Files of the user's stay where they are.
    """
    kept = {path for cell in named for path in result_files(cell)}
    names = {path.name for path in kept}
    # Where seeds were no part of a cell yet, its results lay in the directory of the fold.
    for directory in sorted([*RESULTS.glob("*/fold*"), *RESULTS.glob("*/fold*/seed*")]):
        other = {directory / name for name in names} - kept
        dropped = [path for path in other if path.is_file()]
        for path in dropped:
            path.unlink()
        if dropped:
            print(f"report: {directory} is of no cell of params.yaml: removed from the work tree")
        for empty in (directory, *directory.parents[:2]):
            if empty.is_relative_to(RESULTS) and empty.is_dir() and not any(empty.iterdir()):
                empty.rmdir()
    for path in sorted(path for path in RESULTS.rglob("*") if path.is_file() and path not in kept):
        print(f"report: {path} is no result of a cell; DVC records it among them: move it away")


def result_files(cell: Cell) -> tuple[Path, ...]:
    return cell.evaluation, cell.history, cell.predictions


def missing_cells(named: Sequence[Cell]) -> list[str]:
    return [
        f"{path}: expected the result of {cell.model} on fold {cell.fold} with seed {cell.seed}, "
        "found no file; run dvc repro"
        for cell in named
        for path in result_files(cell)
        if not path.exists()
    ]


def read_cells(named: Sequence[Cell], splits: pl.DataFrame) -> list[Outcome]:
    several_seeds = len({cell.seed for cell in named}) > 1
    return [
        Outcome(
            model=cell.model,
            fold=cell.fold,
            seed=cell.seed,
            name=cell.name if several_seeds else cell.short_name,
            num_train_videos=splits.filter(
                split_in_fold(pl.col("fold"), cell.fold) == TRAIN
            ).height,
            evaluation=json.loads(cell.evaluation.read_text()),
            history=pl.read_csv(cell.history),
            predictions=pl.read_parquet(cell.predictions),
        )
        for cell in named
    ]


def print_comparison(cells: list[Outcome]) -> None:
    for model, of in spreads(cells).items():
        folds = by_fold(by_model(cells)[model])
        print(
            f"report: {model}: test balanced accuracy over {len(folds)} folds "
            f"{of[TEST].mean:.4f} ± {of[TEST].std:.4f}{interval_words(of[TEST].interval, '.4f')}"
        )
    for model, std in seed_stds(cells).items():
        print(
            f"report: {model}: test balanced accuracy of single seeds ± {std[TEST]:.4f} around the "
            "mean of their fold"
        )
    for compared in comparisons(cells):
        print(
            f"report: {compared.first} less {compared.second}: val balanced accuracy "
            f"{compared.val.mean:+.4f}{interval_words(compared.val.interval, '+.4f')}"
            f"{'' if compared.val.p is None else f', p = {compared.val.p:.3f}'}; "
            f"test {compared.test:+.4f}"
        )


def interval_words(interval: tuple[float, float] | None, digits: str) -> str:
    if interval is None:
        return " on every fold"
    low, high = interval
    return f", 95 % interval {low:{digits}} to {high:{digits}}"


def split_counts(splits: pl.DataFrame, augmented: pl.DataFrame, fold: int) -> list[SplitCount]:
    """What each split holds in the cell of `fold`."""
    roles = splits.with_columns(role=split_in_fold(pl.col("fold"), fold))
    copies = augmented.join(roles.select("video_path", "role"), on="video_path")
    return [
        SplitCount(
            split=role,
            num_videos=rows.height,
            num_groups=rows["group"].n_unique(),
            num_augmented_clips=copies.filter(pl.col("role") == role).height
            if role == TRAIN
            else 0,
            per_class={
                label: ClassCount(num_videos=own.height, num_groups=own["group"].n_unique())
                for label in class_names(splits)
                for own in [rows.filter(pl.col("label") == label)]
            },
        )
        for role in (TRAIN, VAL, TEST)
        for rows in [roles.filter(pl.col("role") == role)]
    ]


def totals(
    counts: list[SplitCount], splits: pl.DataFrame, quarantine: pl.DataFrame
) -> dict[str, int]:
    return {
        "videos": splits.height,
        "groups": splits["group"].n_unique(),
        "quarantined": quarantine.height,
        **{f"{count.split}_videos": count.num_videos for count in counts},
        "augmented_clips": sum(count.num_augmented_clips for count in counts),
    }


def write_plots(cells: list[Outcome], model: str, monitor: str) -> None:
    """Long tables, a line a cell: what `dvc plots` draws and compares between revisions."""
    losses = [curve(cell, "loss", split) for cell in cells for split in (TRAIN, VAL)]
    atomic.write_text(LOSS_PLOT, pl.concat(losses).write_csv())
    scores = [curve(cell, monitor, VAL) for cell in cells]
    atomic.write_text(SCORE_PLOT, pl.concat(scores).write_csv())
    confusion = [
        cell.predictions.filter(pl.col("split") == TEST).select(
            actual="label", predicted="predicted"
        )
        for cell in cells
        if cell.model == model
    ]
    atomic.write_text(CONFUSION_PLOT, pl.concat(confusion).write_csv())


def curve(cell: Outcome, metric: str, split: str) -> pl.DataFrame:
    return cell.history.select(
        "epoch",
        pl.lit(cell.name).alias("cell"),
        pl.lit(split).alias("split"),
        pl.col(f"{split}_{metric}").alias("value"),
    )


def report_page(
    params: Params,
    cells: list[Outcome],
    model: str,
    document: dict[str, Any],
    counts: list[SplitCount],
    splits: pl.DataFrame,
    quarantine: pl.DataFrame,
    warnings: list[str],
) -> ReportPage:
    own = by_model(cells)[model]
    parameters = resolved(params)
    return ReportPage(
        experiment=params.experiment.name,
        description=params.experiment.description,
        warnings=warnings,
        labels=class_names(splits),
        headline=headline(own, document, splits),
        baselines=[
            Baseline(
                name=name,
                description=description,
                scores={
                    split: scores_from(
                        mean_metrics([cell.evaluation["baseline"][name][split] for cell in own])
                    )
                    for split in (VAL, TEST)
                },
            )
            for name, description in BASELINES.items()
        ],
        cells=[cell_result(cell) for cell in cells],
        spreads=spreads(cells),
        seed_stds=seed_stds(cells),
        comparisons=comparisons(cells),
        monitor=f"val_{params.train.monitor}",
        examples=examples(own[0], params.report.examples_per_class),
        examples_note=f"Test clips of {own[0].name}",
        counts=counts,
        augmented=augmented_clips(own[0].fold, splits, params.report.augmented_examples),
        quarantine=quarantined(quarantine),
        facts={
            "seed": str(params.seed),
            "models": ", ".join(params.models),
            "folds": ", ".join(map(str, params.folds)),
            "seeds": ", ".join(map(str, params.seeds)),
            "chosen by": f"mean validation {params.train.monitor}",
            "splits": f"sha256 {atomic.content_hash(SPLITS)}",
            "clips": f"sha256 {atomic.content_hash(CLIPS)}",
        },
        parameters=parameters,
        command="dvc repro",
    )


def headline(own: list[Outcome], document: dict[str, Any], splits: pl.DataFrame) -> Headline:
    """The chosen model's test score. All its cells share one test set: their mean is no surer."""
    intervals = [cell.evaluation[TEST]["balanced_accuracy_interval"] for cell in own]
    low, high = (statistics.fmean(ends) for ends in zip(*intervals, strict=True))
    test = splits.filter(pl.col("split") == TEST)
    folds = by_fold(own)
    of = f"mean of {len(folds)} folds" if len(folds) > 1 else f"fold {own[0].fold}"
    if len(own) > len(folds):
        of += f", {len({cell.seed for cell in own})} seeds each"
    return Headline(
        model=own[0].model,
        value=document[TEST]["balanced_accuracy"],
        interval=(low, high),
        method=f"{of}; 95 % posterior interval, videos taken as independent",
        num_videos=test.height,
        num_groups=test["group"].n_unique(),
    )


def cell_result(cell: Outcome) -> CellResult:
    return CellResult(
        model=cell.model,
        fold=cell.fold,
        seed=cell.seed,
        history=cell.history,
        best_epoch=cell.evaluation["best_epoch"],
        scores={split: scores_from(cell.evaluation[split]) for split in (VAL, TEST)},
    )


def examples(cell: Outcome, num_per_class: int) -> list[Example]:
    """Test clips of each class: half of them right, half of them the most confidently wrong."""
    clips = pl.read_parquet(CLIPS)
    test = cell.predictions.filter(pl.col("split") == TEST).with_columns(
        confidence=pl.max_horizontal(pl.selectors.starts_with("probability_"))
    )
    chosen = []
    for label in class_names(test):
        rows = test.filter(pl.col("label") == label).sort("confidence", descending=True)
        wrong = rows.filter(pl.col("predicted") != label).head(num_per_class // 2)
        right = rows.filter(pl.col("predicted") == label).head(num_per_class - wrong.height)
        chosen.append(pl.concat([right, wrong]))
    table = pl.concat(chosen).join(
        clips.drop("sha256", "label", "group"), on="video_path", maintain_order="left"
    )
    frames = ClipSet(table, [PACKS] * table.height, class_names(test)).read(range(table.height))
    return [
        Example(
            frames=clip,
            video=row["video_path"],
            true_label=row["label"],
            predicted_label=row["predicted"],
            probability=row["confidence"],
        )
        for clip, row in zip(frames, table.iter_rows(named=True), strict=True)
    ]


def augmented_clips(fold: int, splits: pl.DataFrame, num_videos: int) -> list[AugmentedClip]:
    """The first training videos of each class in turn, beside their augmented copies."""
    training = splits.filter(split_in_fold(pl.col("fold"), fold) == TRAIN)
    clips, augmented = pl.read_parquet(CLIPS), pl.read_parquet(AUGMENTED)
    labels = class_names(clips)
    clips = clips.join(training, on="video_path", how="semi", maintain_order="left")
    parents = clips.join(augmented, on="video_path", how="semi", maintain_order="left")
    turn = parents.with_columns(turn=pl.int_range(pl.len()).over("label")).sort("turn", "label")
    shown = []
    for row in turn.head(num_videos).iter_rows(named=True):
        originals = clips.filter(pl.col("video_path") == row["video_path"])
        copies = augmented.filter(pl.col("video_path") == row["video_path"])
        shown.append(
            AugmentedClip(
                video=row["video_path"],
                label=row["label"],
                clip=ClipSet(originals, [PACKS], labels).read([0])[0],
                copies=list(
                    ClipSet(copies, [AUGMENTED_PACKS] * copies.height, labels).read(
                        range(copies.height)
                    )
                ),
            )
        )
    return shown


def quarantined(table: pl.DataFrame) -> list[Quarantined]:
    pictured = dict(pl.read_csv(PICTURED).iter_rows())
    return [
        Quarantined(
            row=row,
            path=path or "",
            verdict=verdict,
            reason=reason,
            frames=np.load(QUARANTINED / pictured[row])[0] if row in pictured else None,
        )
        for row, path, verdict, reason in table.iter_rows()
    ]


def resolved(params: Params) -> dict[str, object]:
    """The parameters that the result depends on, by dotted key."""
    sections: dict[str, object] = {
        "data": params.data,
        "load_data": params.load_data,
        "split": params.split,
        "clips": params.clips,
        "augment": params.augment,
        "init_model": params.init_model,
        "train": params.train,
        "evaluate": params.evaluate,
    }
    return {
        f"{name}.{key}": value
        for name, section in sections.items()
        for key, value in vars(section).items()
    }


if __name__ == "__main__":
    run_stage("report", main, input_faults=(PackError,))
