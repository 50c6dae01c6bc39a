"""The pipeline from Python: what was configured is run by DVC, and what came of it is there."""

import hashlib
import io
import shutil
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from polars.testing import assert_frame_equal

from mlops import ExperimentTracker, RunConfig, build_mlops_pipeline, create_run_directory
from mlops.errors import PipelineError
from mlops.metrics.log import read_runs
from mlops.notebook.artifacts import Artifacts
from mlops.notebook.reproduce import StageFailedError
from mlops.pipeline import Pipeline
from mlops.run.records import read_record
from tests.support.clone import dvc, git, set_params

# DVC reads its graph with a property of pygtrie's that is to go.
pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep.value:DeprecationWarning")

VALUES = {"num_epochs": 1, "learning_rate": 3e-3, "experiment_name": "other"}


def pipeline_of(root: Path, **values: Any) -> Pipeline:
    """Make a pipeline as a notebook in another directory does."""
    run_dir, run_id = create_run_directory(root / "runs", "notebook")
    config = RunConfig(run_id=run_id, project_root=root, output_dir=run_dir, **values)
    tracker = ExperimentTracker(run_dir, run_id)
    tracker.log_config(config.to_dict())
    return build_mlops_pipeline(config, tracker)


def statuses(pipeline: Pipeline) -> dict[str, str]:
    return {row.name.partition("@")[0]: row.status for row in pipeline.stages}


@dataclass(frozen=True, kw_only=True)
class Ran:
    root: Path
    pipeline: Pipeline
    artifacts: Artifacts
    params_before: str
    status_before: dict[str, str]
    printed: str

    @property
    def cell(self) -> str:
        (cell,) = self.artifacts["train"]
        return str(cell)


@pytest.fixture(scope="module")
def ran(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ran]:
    """Yield a copy of the finished clone in which the pipeline was run with other values."""
    root = shutil.copytree(finished, tmp_path_factory.mktemp("ran") / "clone", symlinks=True)
    pipeline = pipeline_of(root, **VALUES)
    before = (root / "params.yaml").read_text()
    status = statuses(pipeline)
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()) as printed:
        # As Jupyter starts its kernels, from an environment that is not activated.
        patch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
        patch.setenv("DVC_ROOT", "/nowhere")
        patch.setenv("PATH", "/usr/bin:/bin")
        artifacts = pipeline.run_pipeline()
    yield Ran(
        root=root,
        pipeline=pipeline,
        artifacts=artifacts,
        params_before=before,
        status_before=status,
        printed=printed.getvalue(),
    )
    pipeline.tracker.close()


def test_params_yaml_says_what_was_run_and_nothing_else_of_it_changes(ran: Ran) -> None:
    lines = git("diff", "--unified=0", "params.yaml", cwd=ran.root).splitlines()
    changed = [line[1:].split("#")[0].strip() for line in lines if line[0] in "+-"][2:]
    assert changed == [
        *("name: sample", "name: other"),
        *("epochs: 2", "epochs: 1"),
        *("learning_rate: 2.0e-3", "learning_rate: 0.003"),
    ]
    assert "up to date" in dvc("status", cwd=ran.root)


def test_what_changes_params_yaml_is_printed_and_the_file_kept(ran: Ran) -> None:
    assert "pipeline: params.yaml: train.epochs 2 -> 1\n" in ran.printed
    assert "pipeline: params.yaml: experiment.name sample -> other\n" in ran.printed
    kept = ran.pipeline.tracker.run_dir / "artifacts/params_before_001.yaml"
    assert kept.read_text() == ran.params_before


def test_what_the_stages_print_is_shown_and_logged(ran: Ran) -> None:
    shown = ran.printed.partition("of the run\n")[2]
    assert f"\nRunning stage 'train@{ran.cell}':\n> python -m stages.train" in shown
    assert ": epoch 0: train loss" in shown
    assert (ran.pipeline.tracker.run_dir / "logs/attempt_001.log").read_text() == shown


def test_the_status_of_each_stage_is_that_under_the_configuration(ran: Ran) -> None:
    changed = "changed: params train.epochs, train.learning_rate"
    before = ran.status_before
    assert {name: before[name] for name in ("load_data", "train", "evaluate", "report")} == {
        "load_data": "up to date",
        "train": changed,
        "evaluate": f"after train@{ran.cell}",
        "report": changed,
    }
    assert set(statuses(ran.pipeline).values()) == {"up to date"}


def test_a_stage_names_those_that_it_needs_and_how_long_it_took(ran: Ran) -> None:
    stages = pipeline_of(ran.root, **VALUES).stages  # in another notebook, later
    assert stages["create_splits"].needs == ["load_data"]
    assert stages["report"].needs == [f"evaluate@{ran.cell}"]
    took_sec = stages["evaluate@" + ran.cell].took_sec
    assert took_sec is not None
    assert took_sec > 0
    assert stages["load_data"].took_sec is None  # which no notebook has run
    assert stages.frame["took_sec"].null_count() < len(stages)
    assert f'<td style="text-align: left">evaluate@{ran.cell}</td>' in stages._repr_html_()
    assert "\nload_data " in repr(stages)


def test_the_tracker_answers_for_what_was_trained(ran: Ran) -> None:
    tracker = ran.pipeline.tracker
    history = pl.read_csv(next(ran.root.glob("results/*/fold0/**/history.csv")))
    assert tracker.get_metrics().height == history.height * (history.width - 1)
    best = tracker.get_best_metric("accuracy", phase="val", maximize=True)
    assert best is not None
    assert best["value"] == history["val_accuracy"].max()
    assert read_record(tracker.run_dir).status == "finished"
    assert read_record(tracker.run_dir).parameters["train.epochs"] == 1
    (run_dir,) = ran.pipeline.cell_runs.values()
    assert run_dir.parent == ran.root / "runs/other"
    loss = read_runs([run_dir]).filter(phase="train", metric="loss")["value"]
    assert loss.to_list() == history["train_loss"].to_list()


def test_a_second_call_runs_nothing_and_logs_nothing_twice(ran: Ran) -> None:
    before = ran.pipeline.tracker.get_metrics()
    with redirect_stdout(io.StringIO()) as printed:
        ran.pipeline.run_pipeline()
    assert "Running stage" not in printed.getvalue()
    assert "params.yaml" not in printed.getvalue()
    assert_frame_equal(ran.pipeline.tracker.get_metrics(), before)


def test_artifacts_are_frames_clips_models_and_files(ran: Ran) -> None:
    artifacts = ran.artifacts
    assert_frame_equal(artifacts["load_data"], pl.read_parquet(ran.root / "data/videos.parquet"))
    assert artifacts.outs("load_data")["quarantine.csv"].height == 1
    assert "fold" in artifacts["create_splits"].columns
    for clips in (artifacts["create_dataset"], artifacts["generate_augmentations"]):
        sums = [hashlib.sha256(frames.tobytes()).hexdigest() for frames in clips]
        assert sums == clips.table["clip_sha256"].to_list()
        assert clips[-1].shape == (8, 32, 32, 3)
    state = artifacts["train"][ran.cell]["best_model.pt"]
    assert all(isinstance(weight, torch.Tensor) for weight in state["model"].values())
    assert artifacts["train"].frame("history.csv")["cell"].to_list() == [ran.cell]
    evaluation = artifacts["evaluate"][ran.cell]["evaluation.json"]
    assert artifacts["report"]["metrics.json"]["test"]["loss"] == evaluation["test"]["loss"]
    assert artifacts["report"].path("report.html") == ran.root / "report.html"
    assert "report.html" in artifacts["report"]._repr_html_()


def test_names_that_there_are_not_are_told_those_that_there_are(ran: Ran) -> None:
    with pytest.raises(PipelineError, match=r"a stage of sample, load_data, .*got 'splits'"):
        ran.artifacts["splits"]
    with pytest.raises(PipelineError, match=rf"a cell of {ran.cell}, got 'r3d_18-0-0'"):
        ran.artifacts["train"]["r3d_18-0-0"]
    with pytest.raises(PipelineError, match=r"a file of best_model.pt, history.csv, got 'model'"):
        ran.artifacts["train"][ran.cell].path("model")
    with pytest.raises(PipelineError, match=r"stages: expected some of sample, .*got splits"):
        ran.pipeline.run_pipeline("splits")
    with pytest.raises(PipelineError, match=r"where dvc\.yaml lies"):
        build_mlops_pipeline(
            RunConfig.from_json(ran.pipeline.config.to_json().replace(str(ran.root), "/")),
            ran.pipeline.tracker,
        )


def test_what_no_commit_has_of_params_yaml_is_kept_and_results_are_not_mixed_up(
    workspace: Path,
) -> None:
    first = pipeline_of(workspace)
    second = pipeline_of(workspace, test_split=0.6)
    set_params(workspace, {"split": {"stratify": ["label"]}})
    edited = (workspace / "params.yaml").read_text()
    with redirect_stdout(io.StringIO()) as printed:
        first.run_pipeline("create_splits")
    assert "pipeline: params.yaml: split.stratify [label] -> []\n" in printed.getvalue()
    kept = first.tracker.run_dir / "artifacts/params_before_001.yaml"
    assert kept.read_text() == edited

    first_splits = pl.read_parquet(workspace / "data/splits.parquet")
    second_splits = second.run_pipeline("create_splits")["create_splits"]
    assert not second_splits.equals(first_splits)
    with pytest.raises(PipelineError, match="got that of another"):
        first.artifacts["create_splits"]
    assert_frame_equal(first.run_pipeline("create_splits")["create_splits"], first_splits)


def test_before_it_is_run_only_what_is_up_to_date_is_an_artifact(workspace: Path) -> None:
    pipeline = pipeline_of(workspace, set_params=["folds=[0, 1]"])
    new = {row.name for row in pipeline.stages if row.status == "not run yet"}
    assert {name.partition("@")[0] for name in new} == {"train", "evaluate"}
    assert pipeline.artifacts["create_dataset"].table.height == 37
    with pytest.raises(PipelineError, match=r"not up to date \(not run yet\)"):
        pipeline.artifacts["train"]
    assert git("status", "--porcelain", cwd=workspace) == ""


def test_a_stage_that_fails_is_told_in_its_own_words(workspace: Path) -> None:
    pipeline = pipeline_of(workspace, set_params=["data.labels=[authentic, tempered]"])
    with redirect_stdout(io.StringIO()), pytest.raises(StageFailedError) as failure:
        pipeline.run_pipeline("create_splits")
    assert failure.value.stage == "load_data"
    first, *rows = failure.value.faults
    assert first.startswith(
        "load_data: data/generated_sample/index.csv: expected at most 5.0% of the rows"
    )
    assert any("label 'tampered' (" in row and "did you mean tempered?" in row for row in rows)
    assert read_record(pipeline.tracker.run_dir).status == "failed"


def test_what_keeps_dvc_itself_from_its_work_is_told_in_its_words(workspace: Path) -> None:
    pipeline = pipeline_of(workspace)
    text = (workspace / "dvc.yaml").read_text()
    (workspace / "dvc.yaml").write_text(text.replace("stages/create_splits.py", "stages/gone.py"))
    with redirect_stdout(io.StringIO()), pytest.raises(PipelineError, match=r"stages/gone\.py"):
        pipeline.run_pipeline("create_splits")
    (workspace / "dvc.yaml").write_text(text.replace("params:", "parameters:"))
    with pytest.raises(PipelineError, match=r"dvc\.yaml: expected the stages of a pipeline"):
        pipeline.stages  # noqa: B018
