"""Several dense clips of each video: packed once, drawn in training, averaged in predictions."""

import shutil
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from mlops.files.checkpoint_file import load_checkpoint
from mlops.metrics.ledger import read_ledger
from tests.support.clone import CELL, dvc, environment, set_params

NUM_CLIPS = 3


@pytest.fixture(scope="module")
def made(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a clone that has been run with three dense clips of each video."""
    root = tmp_path_factory.mktemp("several") / "clone"
    shutil.copytree(finished, root, symlinks=True)
    values = {"sampling": "dense", "fps": 12.0, "frames": 6, "per_video": NUM_CLIPS}
    set_params(root, {"clips": values})
    dvc("repro", cwd=root)
    return root


def test_each_video_has_its_clips_and_their_copies_in_one_pack_each(made: Path) -> None:
    clips = pl.read_parquet(made / "data/clips.parquet")
    copies = pl.read_parquet(made / "data/augmented.parquet")
    splits = pl.read_parquet(made / "data/splits.parquet")

    assert clips.height == NUM_CLIPS * splits.height
    assert clips["pack"].n_unique() == splits["sha256"].n_unique()
    assert copies.height == NUM_CLIPS * splits["fold"].count()  # one copy of each clip
    assert copies["copy"].unique().to_list() == [0]
    assert copies["clip_sha256"].n_unique() > 2 * copies["sha256"].n_unique()


def test_a_video_has_one_prediction_and_training_takes_one_clip_in_an_epoch(made: Path) -> None:
    splits = pl.read_parquet(made / "data/splits.parquet")
    predictions = pl.read_parquet(made / CELL.predictions)

    scored = splits.filter(pl.col("split").is_in(["val", "test"]))
    assert sorted(predictions["video_path"]) == sorted(scored["video_path"])
    newest = max(made.glob("runs/sample/run_*/ledger.jsonl"))
    drawn = read_ledger(newest).group_by("epoch").agg(pl.col("samples").explode())
    items = 2 * splits.filter(split="train").height  # each video and its copy
    for rows in drawn["samples"].to_list():
        assert len({row // NUM_CLIPS for row in rows}) == len(rows) == items
    assert "</html>" in (made / "report.html").read_text()


def test_prediction_averages_the_same_clips(made: Path, tmp_path: Path) -> None:
    known = pl.read_parquet(made / CELL.predictions).filter(split="test")
    videos = [str(made / "data/generated_sample" / name) for name in known["video_path"]]
    out = tmp_path / "table.parquet"
    command = [sys.executable, "-m", "commands", "predict", str(made / CELL.best_model), *videos]

    subprocess.run([*command, "--out", str(out)], cwd=made, env=environment(), check=True)

    told = [name for name in known.columns if name.startswith("probability_")]
    assert pl.read_parquet(out).select(told).equals(known.select(told))
    clips = load_checkpoint(made / CELL.best_model)["clips"]
    assert (clips["sampling"], clips["fps"], clips["per_video"]) == ("dense", 12.0, NUM_CLIPS)
