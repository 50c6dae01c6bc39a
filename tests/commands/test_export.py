"""Exported models give the probabilities of the model, and need nothing of this repository."""

import ast
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
import onnxruntime
import polars as pl
import pytest
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from torch import nn

from commands.export import CPU, clips_to_compare, command
from commands.predict.models import averaged, read_model
from commands.predict.reading import Task, read_video
from mlops.errors import PipelineError
from mlops.files.atomic import content_hash
from mlops.files.checkpoint_file import State, load_checkpoint, save_checkpoint
from stages.paths import CLIPS, PACKS
from tests.support.bad_checkpoints import Touches, write_with_checksum
from video.clips.frames import DECODING_VERSION, ClipRecipe
from video.clips.packs import pack_bytes, pack_rows
from video.export.formats import FORMATS, INPUT, METADATA_FILE, NotExportableError
from video.export.parity import largest_difference
from video.models.classifiers import Normalize, build_model, head_of, normalization
from video.models.shape import ModelShape
from video.synthesis.encoding import CodecName, encode_video

EXAMPLE = Path(__file__).parents[2] / "examples/onnx_predict.py"
LABELS = ["dance", "fight", "walk"]
CODECS: dict[str, CodecName] = {"wide.mp4": "h264", "tall.webm": "vp9", "short.avi": "mpeg4"}


def write_model(
    path: Path, *, name: str = "small3d", fit: str = "letterbox", side: int = 32
) -> Path:
    """Write a model as train publishes it, whose probabilities differ between clips."""
    torch.manual_seed(0)
    shape = {"num_classes": 3, "frames": 6, "height": side, "width": side + 8, "dropout": 0.1}
    network = build_model(name, ModelShape(**shape))  # type: ignore[arg-type]
    with torch.no_grad():
        for weights in head_of(name, network)[-1].parameters():
            weights.mul_(20.0)
    state: State = {
        "model": network.state_dict(),
        "architecture": name,
        "labels": LABELS,
        "shape": shape,
        "clips": {"frames": 6, "height": side, "width": side + 8, "fit": fit},
        "decoding": DECODING_VERSION,
        "normalization": normalization(name),
        "epoch": 3,
        "num_candidates": 4,
        "exact_up_to_step": None,
    }
    save_checkpoint(path, state)
    return path


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a model in an empty work tree, which is the current directory."""
    monkeypatch.chdir(tmp_path)
    return write_model(tmp_path / "model.pt")


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory of videos of several sizes; one has fewer frames than a clip."""
    directory = tmp_path_factory.mktemp("videos")
    sizes = {"wide.mp4": (40, 90, 31), "tall.webm": (96, 34, 12), "short.avi": (48, 48, 4)}
    for seed, (name, (height, width, length)) in enumerate(sizes.items()):
        picture = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
        frames = [np.roll(picture // (seed + 1), 3 * i, axis=1) for i in range(length)]
        encode_video(directory / name, frames, codec=CODECS[name], fps=12, quality=80)
    return directory


def export(*arguments: object) -> None:
    command.main([str(each) for each in arguments], standalone_mode=False)


def clips_of(state: State, videos: Path) -> NDArray[np.uint8]:
    recipe = ClipRecipe(**state["clips"])
    tasks = [
        Task(path=path, recipe=recipe, max_duration_sec=60.0) for path in sorted(videos.iterdir())
    ]
    return np.concatenate([read_video(task).clips for task in tasks])


def predicted(model: Path, videos: Path) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Return the clips of the videos, and what `commands predict` gives for them."""
    state, trained = read_model(model, CPU)
    clips = clips_of(state, videos)
    return clips, averaged(list(clips[:, np.newaxis]), [trained], CPU)


def run_onnx(path: Path, clips: NDArray[np.uint8]) -> tuple[NDArray[np.float32], Any]:
    session = onnxruntime.InferenceSession(path)
    return session.run(None, {INPUT: clips})[0], session.get_modelmeta().custom_metadata_map


def run_pt2(path: Path, clips: NDArray[np.uint8]) -> tuple[NDArray[np.float32], Any]:
    files = {METADATA_FILE: ""}
    program = torch.export.load(path, extra_files=files)
    with torch.no_grad():
        found = program.module()(torch.from_numpy(clips))
    return found.numpy(), json.loads(files[METADATA_FILE])


def run_safetensors(path: Path, clips: NDArray[np.uint8]) -> tuple[NDArray[np.float32], Any]:
    with safe_open(path, framework="pt") as file:
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = file.metadata()
    name, shape = metadata["model_name"], json.loads(metadata["model_shape"])
    network = build_model(name, ModelShape(**shape)).eval()
    network.load_state_dict(weights)
    with torch.no_grad():
        logits = network(Normalize(name)(torch.from_numpy(clips)))
    return logits.softmax(1).numpy(), metadata


@pytest.mark.parametrize(
    ("form", "run"), [("onnx", run_onnx), ("pt2", run_pt2), ("safetensors", run_safetensors)]
)
def test_a_file_gives_the_probabilities_of_predict_for_any_number_of_clips(
    form: str, run: Any, model: Path, videos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export(model, "--to", form, "--clips", videos)

    path = model.with_suffix(FORMATS[form].suffix)
    clips, expected = predicted(model, videos)
    found, metadata = run(path, np.concatenate([clips, clips[:2]]))
    assert np.ptp(expected, axis=0).max() > 0.05  # else any two models would be alike
    assert found.shape == (5, 3)
    assert np.abs(found - np.concatenate([expected, expected[:2]])).max() < 1e-5
    assert json.loads(metadata["labels"]) == LABELS
    assert json.loads(metadata["clips"]).items() >= load_checkpoint(model)["clips"].items()
    assert metadata["model_sha256"] == content_hash(model)
    assert sorted(model.parent.iterdir()) == sorted([model, path])
    assert path.stat().st_mode == model.stat().st_mode
    output = capsys.readouterr().out
    assert f"{path}: largest difference of a probability " in output
    assert "(3 clips of --clips, in batches of 1 and 3)" in output


def test_the_example_gives_the_probabilities_of_predict(model: Path, videos: Path) -> None:
    export(model, "--to", "onnx", "--clips", videos)
    letterbox, crop = model.with_suffix(".onnx"), model.with_name("crop.onnx")
    graph = onnx.load(letterbox)
    clips = next(each for each in graph.metadata_props if each.key == "clips")
    clips.value = clips.value.replace("letterbox", "crop")
    onnx.save(graph, crop)

    state = load_checkpoint(model)
    for exported, fit in ((letterbox, "letterbox"), (crop, "crop")):
        save_checkpoint(model, state | {"clips": {**state["clips"], "fit": fit}})
        _, expected = predicted(model, videos)
        assert np.abs(run_example(exported, videos) - expected).max() < 1e-5


def run_example(model: Path, videos: Path) -> NDArray[np.float64]:
    output = subprocess.run(
        [sys.executable, EXAMPLE, model, *sorted(videos.iterdir())],
        check=True,
        text=True,
        capture_output=True,
    ).stdout
    found = [ast.literal_eval(line[line.index("{") :]) for line in output.splitlines()]
    assert [list(each) for each in found] == [LABELS] * 3
    return np.array([list(each.values()) for each in found])


def test_the_example_is_short_and_imports_no_more_than_it_says() -> None:
    source = EXAMPLE.read_text()
    imported = {
        (node.module or "") if isinstance(node, ast.ImportFrom) else alias.name
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    own = {name.split(".")[0] for name in imported} - sys.stdlib_module_names
    assert own == {"av", "numpy", "onnxruntime"}
    assert len(source.splitlines()) <= 40


# --- parity --------------------------------------------------------------------------------------


def test_a_file_that_gives_other_probabilities_is_not_written(model: Path) -> None:
    state = load_checkpoint(model)
    state["model"]["head.bias"][0] = torch.nan  # no number is near the other
    save_checkpoint(model, state)
    out = model.with_suffix(".safetensors")
    out.write_text("the old one")

    with pytest.raises(PipelineError, match=r"expected the probabilities of .*got a difference"):
        export(model, "--to", "safetensors")

    assert out.read_text() == "the old one"
    assert sorted(model.parent.iterdir()) == [model, out]


def test_the_difference_is_the_largest_of_all_clips_in_batches_of_both_sizes() -> None:
    clips = np.arange(4, dtype=np.uint8)
    expected = np.full((4, 2), 0.5)

    def run(found: NDArray[np.uint8]) -> NDArray[np.float32]:
        values = [[0.5, 0.5 + (len(found) == 3) * 0.001 * clip] for clip in found]
        return np.array(values, np.float32)

    assert largest_difference(run, clips, expected) == pytest.approx(0.002, rel=1e-3)
    assert np.isnan(largest_difference(lambda found: run(found) * np.nan, clips, expected))


def test_a_model_that_a_format_cannot_hold_is_told_with_its_reason(tmp_path: Path) -> None:
    class Deciding(nn.Module):
        def forward(self, clips: torch.Tensor) -> torch.Tensor:
            return clips.float() if clips.sum() > 0 else -clips.float()

    for form in ("onnx", "pt2"):
        path = tmp_path / form
        with pytest.raises(NotExportableError, match=r"\w+: .*\w{3}"):
            FORMATS[form].export(Deciding().eval(), (2, 4, 4), {}, path)  # type: ignore[arg-type]
        assert not path.exists()


# --- clips to compare on -------------------------------------------------------------------------


def write_packs(state: State, number: int) -> NDArray[np.uint8]:
    """Write packs of random clips and their table, as create_dataset does; return the clips."""
    size = [state["clips"][name] for name in ("frames", "height", "width")]
    clips = np.random.default_rng(7).integers(0, 256, (number, 1, *size, 3), dtype=np.uint8)
    PACKS.mkdir(parents=True)
    for i, pack in enumerate(clips):
        (PACKS / f"{i}.npy").write_bytes(pack_bytes(pack))
    rows = [pack_rows(f"{i}.npy", pack) for i, pack in enumerate(clips)]
    table = pl.concat(rows).with_columns(
        pl.format("{}.mp4", pl.int_range(pl.len())).alias("video_path"),
        sha256=pl.lit(""),
        label=pl.lit("walk"),
        group=pl.lit(""),
    )
    table.write_parquet(CLIPS)
    return clips[:, 0]


def test_clips_of_the_pipeline_are_taken_evenly_from_its_table(model: Path) -> None:
    state, trained = read_model(model, CPU)
    clips = write_packs(state, 24)

    found, words = clips_to_compare(trained, [])

    assert np.array_equal(found, clips[::2])
    assert words == f"12 clips of {CLIPS}"
    (PACKS / "2.npy").unlink()
    with pytest.raises(
        PipelineError, match=r"2\.npy: expected a pack.*or name videos with --clips"
    ):
        clips_to_compare(trained, [])


def test_without_clips_of_the_size_random_ones_are_taken_and_said_to_be(model: Path) -> None:
    state, trained = read_model(model, CPU)
    for _ in range(2):
        found, words = clips_to_compare(trained, [])
        assert found.shape == (12, 6, 32, 40, 3)
        assert "12 clips of random pixels, for data/clips.parquet has none of this size" in words
        if not CLIPS.exists():
            write_packs({"clips": {**state["clips"], "height": 16}}, 2)


def test_a_bad_video_is_no_clip_to_compare_on(model: Path, tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    _, trained = read_model(model, CPU)
    with pytest.raises(
        PipelineError, match=r"--clips: .*text\.mp4: expected a video that is ok, got"
    ):
        clips_to_compare(trained, [tmp_path / "text.mp4"])


# --- bad input -----------------------------------------------------------------------------------


def test_files_that_are_no_models_are_refused_and_nothing_in_them_runs(
    model: Path, tmp_path: Path
) -> None:
    state = load_checkpoint(model)
    bad, trace = tmp_path / "bad.pt", tmp_path / "trace"

    def told() -> str:
        with pytest.raises(PipelineError) as caught:
            export(bad, "--to", "safetensors")
        assert str(bad) in str(caught.value)
        return str(caught.value)

    bad.write_text("no model")
    assert "expected a checkpoint, got a damaged file (it has 8 bytes)" in told()
    bad.write_bytes(model.read_bytes()[:-100])
    assert "got a damaged file (no checksum at its end)" in told()
    write_with_checksum({**state, "format_version": 1}, bad)
    assert "expected format version 2, got 1" in told()
    write_with_checksum({**state, "format_version": 2, "labels": Touches(trace)}, bad)
    assert "got objects that only running code could load" in told()
    assert not trace.exists()
    save_checkpoint(bad, {"weights": torch.zeros(3)})
    assert "expected a model that train has published, got a file without model" in told()
    save_checkpoint(bad, state | {"architecture": "r3d18"})
    assert "got a model 'r3d18'; did you mean r3d_18?" in told()
    assert sorted(tmp_path.iterdir()) == [bad, model]


def test_a_model_that_is_not_there_is_answered_with_the_nearest(
    model: Path, tmp_path: Path
) -> None:
    with pytest.raises(PipelineError, match=r"small3d: expected .* found none; run dvc repro"):
        export("small3d", "--to", "onnx")
    for fold in (0, 1):
        there = tmp_path / f"models/small3d/fold{fold}/seed0/best_model.pt"
        there.parent.mkdir(parents=True)
        there.touch()
    with pytest.raises(
        PipelineError, match=r"did you mean models/small3d/fold1/seed0/best_model\.pt\?"
    ):
        export("models/smal3d/fold1/seed0/best_model.pt", "--to", "onnx")


def test_an_unknown_format_or_suffix_is_a_fault_of_the_command_line(model: Path) -> None:
    with pytest.raises(click.UsageError, match="'tflite' is not one of 'onnx', 'pt2', 'safeten"):
        export(model, "--to", "tflite")
    with pytest.raises(
        click.UsageError, match=r"expected a file that ends in \.onnx, got 'a\.pt2'"
    ):
        export(model, "--to", "onnx", "--out", "a.pt2")


@pytest.mark.parametrize(
    ("form", "package"),
    [("onnx", "onnxruntime"), ("onnx", "onnxscript"), ("safetensors", "safetensors")],
)
def test_a_package_that_is_not_installed_is_told_with_the_command_that_does(
    form: str, package: str, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)  # as if not there
    with pytest.raises(
        PipelineError,
        match=rf"--to {form}: .*found no {package}; run python -m pip install {package}==[\d.]+$",
    ):
        export(model, "--to", form)
