"""Report: the cells that params.yaml names, gathered into metrics.json, plots and one page."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from mlops.errors import PipelineError, grouped
from mlops.files import atomic
from mlops.files.canonical import flatten
from mlops.inputs import StageInputs
from mlops.processes.progress import counted
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
from video.clips.packs import PackError
from video.report import sections
from video.report.page import render_page
from video.report.page_content import ReportPage, SplitCount
from video.scoring.outcomes import Outcome, by_model
from video.scoring.summary import (
    best_model,
    comparisons,
    identical_predictions,
    inexact_trainings,
    metrics_document,
    non_finite_metrics,
    score_lines,
    seed_stds,
)
from video.splitting.given import divided_groups
from video.splitting.splits import TRAIN, class_names, split_in_fold

PICTURED = QUARANTINED / "rows.csv"


@dataclass(frozen=True, kw_only=True)
class Tables:
    """Tables of the data stages; of clips and copies, those of the first clip of each video."""

    splits: pl.DataFrame
    clips: pl.DataFrame
    augmented: pl.DataFrame
    quarantine: pl.DataFrame


def main(inputs: StageInputs) -> None:
    params = read_params()
    named = named_cells(params)
    inputs.check_makers(made_by(named))
    inputs.read_only(RESULTS, [path for cell in named for path in result_files(cell)])
    drop_other_cells(named)
    if faults := missing_cells(named):
        raise PipelineError(*faults)
    tables = Tables(
        splits=pl.read_parquet(SPLITS),
        clips=pl.read_parquet(CLIPS).filter(clip=0),
        augmented=pl.read_parquet(AUGMENTED).filter(pl.col("clip") == pl.col("copy")),
        quarantine=pl.read_csv(QUARANTINE, infer_schema=False).cast({"row": pl.Int64}),
    )
    cells = read_cells(named, tables.splits)
    if faults := non_finite_metrics(cells):
        raise PipelineError(*faults)
    model = best_model(cells, params.train.monitor)
    counts = sections.split_counts(tables.splits, tables.augmented, params.folds[0])
    totals = sections.count_totals(counts, tables.splits, tables.quarantine.height)

    document = metrics_document(cells, model, totals)
    warnings = [
        *given_leaks(tables.splits),
        *identical_predictions(cells),
        *inexact_trainings(cells),
    ]
    if warnings:
        document["warnings"] = warnings
    page = report_page(params, cells, model, document, tables, counts, warnings)
    rendered = render_page(page)
    inputs.check()
    atomic.write_json(METRICS, document)
    atomic.write_text(REPORT, rendered)
    write_plots(cells, model, params.train.monitor)
    verdict = [page.headline.verdict.text, *page.headline.remarks]
    for line in [*(f"warning: {warning}" for warning in warnings), *score_lines(cells)]:
        print(f"report: {line}")
    for line in verdict:
        print(f"report: {model}: {line}")


def given_leaks(splits: pl.DataFrame) -> list[str]:
    """Return a warning if the split that the index gives divides groups, as was accepted."""
    divided = divided_groups(splits, "fold")
    if divided.is_empty():
        return []
    return [
        f"the given split divides {counted(divided.height, 'group')} ({divided['videos'].sum()} "
        "videos) between its parts (split.accept_given_leaks): every score is too good"
    ]


def made_by(named: Sequence[Cell]) -> list[str]:
    """Return the names that DVC gives to the stages whose results and parameters are reported."""
    cells = [f"{cell.model}-{cell.fold}-{cell.seed}" for cell in named]
    return [
        *("load_data", "create_splits", "create_dataset", "generate_augmentations"),
        *(f"init_model@{cell.model}-{cell.seed}" for cell in named),
        *(f"{stage}@{cell}" for stage in ("train", "evaluate") for cell in cells),
        # Last: of a parameter that both depend on, the training is named.
        *(f"embed@{cell.model}-{cell.seed}" for cell in named),
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
    others = sorted(path for path in RESULTS.rglob("*") if path.is_file() and path not in kept)
    remedy = "is no result of a cell; DVC records it among them: move it away"
    for line in grouped(f"{path} {remedy}" for path in others):
        print(f"report: {line}")


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
            evaluation=json.loads(cell.evaluation.read_bytes()),
            history=pl.read_csv(cell.history),
            predictions=pl.read_parquet(cell.predictions),
        )
        for cell in named
    ]


def report_page(
    params: Params,
    cells: Sequence[Outcome],
    model: str,
    document: dict[str, Any],
    tables: Tables,
    counts: list[SplitCount],
    warnings: list[str],
) -> ReportPage:
    """Gather what the page shows."""
    own, splits = by_model(cells)[model], tables.splits
    training = splits.filter(split_in_fold(pl.col("fold"), own[0].fold) == TRAIN)
    pictures = {row: QUARANTINED / name for row, name in pl.read_csv(PICTURED).iter_rows()}
    return ReportPage(
        experiment=params.experiment.name,
        description=params.experiment.description,
        warnings=warnings,
        labels=class_names(splits),
        headline=sections.headline(own),
        baselines=sections.baselines(own),
        cells=cells,
        estimates=sections.estimates(cells, model),
        seed_stds=seed_stds(cells),
        comparisons=comparisons(cells),
        monitor=f"val_{params.train.monitor}",
        val_words=document["val_is"],
        examples=sections.examples(own[0], tables.clips, PACKS, params.report.examples_per_class),
        examples_note=f"Test clips of {own[0].name}",
        counts=counts,
        augmented=sections.augmented_clips(
            tables.clips.join(training, on="video_path", how="semi", maintain_order="left"),
            PACKS,
            tables.augmented,
            AUGMENTED_PACKS,
            num_videos=params.report.augmented_examples,
        ),
        quarantine=sections.quarantined(tables.quarantine, pictures),
        facts={
            "seed": str(params.seed),
            "models": ", ".join(params.models),
            "folds": ", ".join(map(str, params.folds)),
            "seeds": ", ".join(map(str, params.seeds)),
            "chosen by": f"mean validation {params.train.monitor} of the last epoch",
            "splits": f"sha256 {atomic.content_hash(SPLITS)}",
            "clips": f"sha256 {atomic.content_hash(CLIPS)}",
        },
        parameters=resolved(params),
        command="dvc repro",
    )


def write_plots(cells: Sequence[Outcome], model: str, monitor: str) -> None:
    """Write the long tables that `dvc plots` draws and compares between revisions."""
    atomic.write_text(LOSS_PLOT, sections.loss_curves(cells).write_csv())
    atomic.write_text(SCORE_PLOT, sections.score_curves(cells, monitor).write_csv())
    confusion = sections.predictions_of_test(by_model(cells)[model])
    atomic.write_text(CONFUSION_PLOT, confusion.write_csv())


def resolved(params: Params) -> dict[str, object]:
    """Return the parameters that the result depends on, by dotted key."""
    return flatten(
        {
            "data": vars(params.data),
            "load_data": vars(params.load_data),
            "split": vars(params.split),
            "clips": vars(params.clips),
            "augment": vars(params.augment),
            "init_model": vars(params.init_model),
            "train": vars(params.train),
            "train_of": {model: params.train_of.get(model, {}) for model in params.models},
            "evaluate": vars(params.evaluate),
        }
    )


if __name__ == "__main__":
    run_stage("report", main, input_faults=(PackError,))
