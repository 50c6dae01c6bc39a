"""Predictions of the models of a finished run, for videos by their paths alone."""

import shutil
import subprocess
import sys
from pathlib import Path

import click
import numpy as np
import polars as pl
import pytest
import torch

from commands.predict import averaged, check_arguments, load_models, videos_in
from mlops.errors import PipelineError
from mlops.files.checkpoint_file import load_checkpoint, save_checkpoint
from tests.support.clone import CELL, environment

SAMPLE = Path("data/generated_sample")

READERS = {".csv": pl.read_csv, ".jsonl": pl.read_ndjson}


def predict(root: Path, *arguments: object) -> tuple[int, str]:
    """Run the command in `root`; return its exit code and output."""
    command = [sys.executable, "-m", "commands", "predict", *map(str, arguments)]
    result = subprocess.run(
        command, cwd=root, env=environment(), text=True, capture_output=True, check=False
    )
    return result.returncode, result.stdout + result.stderr


@pytest.fixture
def model(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(finished / CELL.best_model, tmp_path / "model.pt"))


@pytest.fixture
def videos(finished: Path) -> list[Path]:
    known = pl.read_parquet(finished / CELL.predictions).filter(split="test")
    return [finished / SAMPLE / name for name in known["video_path"]]


def test_the_figures_are_those_of_evaluate(
    finished: Path, model: Path, videos: list[Path], tmp_path: Path
) -> None:
    known = pl.read_parquet(finished / CELL.predictions).filter(split="test")
    told = [name for name in known.columns if name.startswith("probability_")]

    code, output = predict(finished, model, *videos, "--out", tmp_path / "table.parquet")

    table = pl.read_parquet(tmp_path / "table.parquet")
    assert code == 0, output
    assert table["video_path"].to_list() == [str(path) for path in videos]
    assert table["predicted"].to_list() == known["predicted"].cast(pl.String).to_list()
    assert table.select(told).equals(known.select(told))


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_a_bad_video_gets_a_row_with_its_reason_and_stops_nobody(
    finished: Path, model: Path, videos: list[Path], tmp_path: Path, suffix: str
) -> None:
    folder = tmp_path / "clips"
    folder.mkdir()
    shutil.copy(videos[0], folder / "good.mp4")
    (folder / "cut.mp4").write_bytes(videos[0].read_bytes()[:-2000])
    (folder / "text.mp4").write_text("no video")
    (folder / "notes.txt").write_text("not looked at")
    out = tmp_path / f"table{suffix}"

    code, output = predict(finished, model, folder, folder / "gone.mp4", "--out", out)

    rows = {Path(row["video_path"]).name: row for row in READERS[suffix](out).rows(named=True)}
    assert code == 3
    assert list(rows) == ["cut.mp4", "good.mp4", "text.mp4", "gone.mp4"]
    assert rows["good.mp4"]["verdict"] == "ok"
    assert rows["good.mp4"]["predicted"] in ("authentic", "tampered")
    assert rows["text.mp4"]["verdict"] == "unreadable"
    assert rows["gone.mp4"]["reason"] == "there is no such file"
    assert rows["cut.mp4"]["predicted"] is None
    assert rows["cut.mp4"]["probability_tampered"] is None
    assert "3 videos of 4 could not be predicted" in output


def test_the_probabilities_of_several_models_are_averaged(
    finished: Path, model: Path, tmp_path: Path
) -> None:
    state, other, cpu = load_checkpoint(model), tmp_path / "other.pt", torch.device("cpu")
    weights = {
        name: -value if name.startswith("head") else value for name, value in state["model"].items()
    }
    save_checkpoint(other, state | {"model": weights})
    size = [state["clips"][name] for name in ("frames", "height", "width")]
    clips = [*np.random.default_rng(0).integers(0, 256, (3, 1, *size, 3), dtype=np.uint8)]

    one, two, both = (
        averaged(clips, load_models(models, cpu), cpu)
        for models in ([model], [other], [model, other])
    )

    assert np.abs(one - two).max() > 1e-3
    assert np.abs((one + two) / 2 - both).max() < 1e-12


def test_nothing_is_predicted(finished: Path, model: Path, tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no video")

    code, output = predict(finished, model, tmp_path / "text.mp4")

    assert code == 1
    assert "1 video of 1 could not be predicted" in output


def test_there_is_nothing_to_predict(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="expected videos in this folder, found none"):
        videos_in([tmp_path])
    with pytest.raises(click.UsageError, match="expected videos or folders beside the models"):
        videos_in([])
    with pytest.raises(click.UsageError, match=r"expected the file of a model, ending in \.pt"):
        check_arguments([], None)
    with pytest.raises(click.UsageError, match=r"--out: expected a file that ends in \.csv"):
        check_arguments([tmp_path / "model.pt"], tmp_path / "table.txt")


def test_files_that_are_no_models_are_refused(finished: Path, model: Path, tmp_path: Path) -> None:
    state = load_checkpoint(model)
    other = tmp_path / "other.pt"

    def told() -> str:
        with pytest.raises(PipelineError) as caught:
            load_models([model, other], torch.device("cpu"))
        assert str(other) in str(caught.value)
        return str(caught.value)

    assert "expected the file of a model, found none" in told()
    other.write_bytes(model.read_bytes()[:-500])
    assert "no checksum at its end" in told()
    torch.save({"weights": torch.zeros(3)}, other)
    assert "no checksum at its end" in told()
    shutil.copy(finished / CELL.initial_weights, other)
    assert "expected a model that train has published, got a file without epoch" in told()
    save_checkpoint(other, state | {"architecture": "vgg"})
    assert "got a model 'vgg'" in told()
    save_checkpoint(other, state | {"decoding": 0})
    assert "expected a model of clips whose pixels are of version 3, got version 0" in told()
    save_checkpoint(other, state | {"labels": ["tampered", "authentic"]})
    assert "expected labels ['authentic', 'tampered'] as" in told()
