"""The whole pipeline with real DVC, git and video files, on a small sample."""

import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest

from mlops.files.atomic import content_hash
from mlops.files.checkpoint_file import load_checkpoint
from tests.support.clone import CELL, commit, dvc, environment, git, set_params, stages_run
from video.clips.frames import DECODING_VERSION
from video.models.classifiers import normalization

MODEL = CELL.best_model
TRAIN = "train@small3d-0-0"


def test_a_finished_run_has_all_its_results(finished: Path) -> None:
    metrics = json.loads((finished / "metrics.json").read_text())
    assert set(metrics) == {"val", "val_is", "test", "baseline", "counts"}
    assert metrics["counts"]["quarantined"] == 1
    assert "</html>" in (finished / "report.html").read_text()
    assert (finished / MODEL).stat().st_size > 0
    (log,) = finished.glob("runs/sample/run_*/metrics.jsonl")
    assert log.stat().st_size > 0


def test_a_models_file_says_what_it_is_and_where_it_comes_from(finished: Path) -> None:
    state = load_checkpoint(finished / MODEL)
    history = pl.read_csv(finished / CELL.history)
    (run,) = finished.glob("runs/sample/run_*")

    assert state["architecture"] == "small3d"
    assert state["labels"] == ["authentic", "tampered"]
    assert state["clips"] == {"frames": 8, "height": 32, "width": 32, "fit": "letterbox"}
    assert state["normalization"] == normalization("small3d")
    assert state["decoding"] == DECODING_VERSION
    assert state["val"]["loss"] == history["val_loss"][state["epoch"]]
    assert run.name.endswith(state["fingerprint"][:8])


def test_groups_never_straddle_splits(finished: Path) -> None:
    splits = pl.read_parquet(finished / "data/splits.parquet")
    by_group = splits.group_by("group").agg(pl.col("split", "fold").n_unique())
    assert set(splits["split"]) == {"train", "val", "test"}
    assert by_group["split"].max() == 1
    assert by_group["fold"].max() == 1


def test_every_video_outside_the_test_set_has_its_augmented_clips(finished: Path) -> None:
    splits = pl.read_parquet(finished / "data/splits.parquet")
    augmented = pl.read_parquet(finished / "data/augmented.parquet")
    parents = splits.join(augmented, on="video_path", how="semi")
    assert set(parents["split"]) == {"train", "val"}
    assert parents.height == splits.filter(pl.col("split") != "test").height


def test_what_is_up_to_date_does_not_run_again(workspace: Path) -> None:
    assert stages_run(dvc("repro", cwd=workspace)) == set()
    assert "up to date" in dvc("status", cwd=workspace)


def test_every_file_has_the_mode_that_the_umask_gives(workspace: Path) -> None:
    shutil.rmtree(workspace / "runs")
    began = time.time()
    subprocess.run(
        [*(sys.executable, "-m", "dvc", "repro", "--force", "--single-item"), "load_data", TRAIN],
        cwd=workspace,
        env=environment(),
        umask=0o077,
        check=True,
        capture_output=True,
    )
    files = [
        path.relative_to(workspace)
        for path in workspace.rglob("*")
        if path.is_file() and path.stat().st_mtime >= began and path.suffix != ".pyc"
    ]
    made = [path for path in files if path.parts[0] in ("data", "models", "results", "runs")]
    assert {path.parts[0] for path in made} == {"data", "models", "results", "runs"}
    assert [path for path in made if (workspace / path).stat().st_mode & 0o077] == []


def test_a_new_augmentation_decodes_nothing(workspace: Path) -> None:
    set_params(workspace, {"augment": {"rotation_max_deg": 3.0}})
    output = dvc("repro", cwd=workspace)
    assert stages_run(output) == {"generate_augmentations", "embed", "train", "evaluate", "report"}


@pytest.mark.parametrize("mode", [("repro",), ("exp", "run", "--temp")], ids=["repro", "temp"])
def test_after_one_video_is_replaced_one_is_decoded(workspace: Path, mode: list[str]) -> None:
    shutil.copytree(workspace / "data/generated_sample", workspace / "data/mine")
    set_params(workspace, {"data": {"index": "data/mine/index.csv", "root": "data/mine"}})
    videos = pl.read_parquet(workspace / "data/videos.parquet")
    known = pl.read_parquet(workspace / "data/inspections.parquet").height
    first = workspace / "data/mine" / videos["video_path"][0]
    first.write_bytes(first.read_bytes() + b"\0" * 8)
    # In git, which carries them into the temporary directory.
    git("add", "--force", "data/mine", cwd=workspace)
    commit(workspace, "own videos")
    output = dvc(*mode, "load_data", cwd=workspace)
    assert f"load_data: 1 video decoded, {known - 1} known; {videos.height} usable, 1 row" in output


def test_facts_found_again_are_the_bytes_of_a_first_run(workspace: Path) -> None:
    tables = [Path("data/videos.parquet"), Path("data/inspections.parquet")]
    before = [content_hash(workspace / table) for table in tables]
    output = dvc("repro", "--force", "--single-item", "load_data", cwd=workspace)
    assert "load_data: 0 videos decoded" in output
    assert [content_hash(workspace / table) for table in tables] == before
    # A cut-off run leaves no outs, and dvc.lock alone may be gone as well.
    for path in (*tables, Path("dvc.lock")):
        (workspace / path).unlink()
    output = dvc("repro", "--force", "--single-item", "load_data", cwd=workspace)
    assert "load_data: 0 videos decoded" in output
    assert [content_hash(workspace / table) for table in tables] == before


def test_an_experiment_shows_what_it_changed(workspace: Path) -> None:
    dvc("exp", "run", "-S", "train.learning_rate=1.0e-4", cwd=workspace)
    assert "train.learning_rate" in dvc("params", "diff", cwd=workspace)
    assert "test.loss" in dvc("metrics", "diff", cwd=workspace)
    dvc("plots", "show", "--out", "page", cwd=workspace)
    page = (workspace / "page/index.html").read_text()
    assert "Confusion on test" in page
    assert "Loss by epoch" in page
    assert "train.learning_rate" in dvc("exp", "show", "--csv", cwd=workspace)


def test_models_are_compared_side_by_side(workspace: Path) -> None:
    changes = ["-S", "models=[small3d,mc3_18]", "-S", "train.epochs=1"]
    output = dvc("exp", "run", *changes, cwd=workspace)
    assert "train@mc3_18-0-0" in output
    metrics = json.loads((workspace / "metrics.json").read_text())
    assert set(metrics["models"]) == {"small3d", "mc3_18"}


def test_one_more_fold_and_seed_train_their_own_cells_alone(workspace: Path) -> None:
    before = {path: content_hash(workspace / path) for path in (MODEL, Path("data/augmented"))}
    output = dvc("exp", "run", "-S", "folds=[0,1]", "-S", "seeds=[0,1]", cwd=workspace)
    ran = [line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage")]
    assert sorted(ran) == [
        "embed@small3d-1",
        *("evaluate@small3d-0-1", "evaluate@small3d-1-0", "evaluate@small3d-1-1"),
        *("init_model@small3d-1", "report"),
        *("train@small3d-0-1", "train@small3d-1-0", "train@small3d-1-1"),
    ]
    assert {path: content_hash(workspace / path) for path in before} == before
    assert re.search(
        r"report: small3d: test balanced accuracy [\d.]+ ± [\d.]+ over 2 folds", output
    )
    assert "report: small3d: test balanced accuracy of single seeds" in output
    # No two of the four are one training.
    models = workspace.glob("models/small3d/fold*/seed*/best_model.pt")
    assert len({content_hash(path) for path in models}) == 4
    assert "have identical predictions" not in output
    models = json.loads((workspace / "metrics.json").read_text())["models"]
    assert set(models["small3d"]["test"]) == {
        "balanced_accuracy",
        "balanced_accuracy_std",
        "balanced_accuracy_interval",
        "groups",
        "balanced_accuracy_seed_std",
    }
    plotted = pl.read_csv(workspace / "plots/score.csv")["cell"].unique().to_list()
    assert sorted(plotted) == [f"small3d fold {k} seed {s}" for k in (0, 1) for s in (0, 1)]


def test_the_summary_reads_only_the_cells_that_params_yaml_names(workspace: Path) -> None:
    before = {name: content_hash(workspace / name) for name in ("metrics.json", "report.html")}
    shutil.copytree(workspace / "results/small3d", workspace / "results/r3d_18")
    (workspace / "results/small3d/fold0/history.csv").write_text("of no cell")
    (workspace / "results/r3d_18/fold0/seed0/evaluation.json").write_text("{}")
    assert stages_run(dvc("repro", cwd=workspace)) == {"report"}
    assert before == {name: content_hash(workspace / name) for name in before}
    # Nor does dvc.lock depend on what lay there.
    assert git("status", "--porcelain", cwd=workspace) == ""


def test_ones_own_videos_are_versioned_and_train_in_a_temporary_copy(workspace: Path) -> None:
    shutil.copytree(workspace / "data/generated_sample", workspace / "data/mine")
    set_params(workspace, {"data": {"index": "data/mine/index.csv", "root": "data/mine"}})
    dvc("add", "data/mine", cwd=workspace)
    commit(workspace, "own videos")
    assert (workspace / "data/mine.dvc").exists()
    assert "data/mine.dvc" in git("ls-files", cwd=workspace)
    name = "temporary"
    output = dvc("exp", "run", "--temp", "--name", name, "-S", "train.epochs=1", cwd=workspace)
    assert "train: small3d fold 0 seed 0: epoch 0" in output
    assert name in dvc("exp", "list", cwd=workspace)


def test_without_augmented_copies_training_goes_on_the_clips_alone(workspace: Path) -> None:
    set_params(workspace, {"augment": {"copies": 0}, "train": {"epochs": 1}})
    dvc("repro", cwd=workspace)
    metrics = json.loads((workspace / "metrics.json").read_text())
    assert metrics["counts"]["augmented_clips"] == 0


def test_an_older_commit_brings_back_its_model_metrics_and_report(workspace: Path) -> None:
    results = [MODEL, Path("metrics.json"), Path("report.html")]
    first = {path: content_hash(workspace / path) for path in results}
    set_params(workspace, {"folds": [0, 1], "train": {"learning_rate": 1.0e-4}})
    assert "train@small3d-1-0" in dvc("repro", cwd=workspace)
    metrics = json.loads((workspace / "metrics.json").read_text())
    assert "balanced_accuracy_std" in metrics["models"]["small3d"]["test"]
    commit(workspace, "second run")
    second = {path: content_hash(workspace / path) for path in results}
    assert not set(first.values()) & set(second.values())

    git("checkout", "--quiet", "HEAD~1", cwd=workspace)
    dvc("checkout", cwd=workspace)
    assert {path: content_hash(workspace / path) for path in results} == first
    assert "up to date" in dvc("status", cwd=workspace)
    git("checkout", "--quiet", "main", cwd=workspace)
    dvc("checkout", cwd=workspace)
    assert {path: content_hash(workspace / path) for path in results} == second
    assert "up to date" in dvc("status", cwd=workspace)
