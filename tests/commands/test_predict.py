"""Predictions of the models of a finished run, for videos by their paths alone."""

import re
import shutil
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import av
import click
import cv2
import numpy as np
import polars as pl
import pytest
import torch

from commands.predict.answer import check_top, max_ahead
from commands.predict.models import (
    Classifier,
    Prediction,
    averaged,
    batches,
    load_model,
    load_models,
    predicted,
)
from commands.predict.reading import Reading, Task, read, read_video, videos_in
from commands.predict.request import Request
from commands.predict.table import prediction_table, print_table
from commands.predict.training_videos import (
    TrainingVideos,
    load_training_videos,
    measured,
    ranges,
    unusual,
    warnings_of,
)
from mlops.errors import PipelineError
from mlops.files.checkpoint_file import load_checkpoint, save_checkpoint
from mlops.workers.pool import Executor, WorkerPool
from mlops.workers.worker import Limits
from tests.support.clone import CELL, completed
from video.clips.frames import ClipRecipe
from video.source.facts import VideoFacts, facts_table
from video.source.inspection import inspect_video
from video.synthesis.encoding import CodecName, encode_video

SAMPLE = Path("data/generated_sample")

READERS = {".csv": pl.read_csv, ".jsonl": pl.read_ndjson}


def predict(root: Path, *arguments: object) -> tuple[int, str]:
    """Run the command in `root`; return its exit code and output."""
    command = (sys.executable, "-m", "commands", "predict", *map(str, arguments))
    result = completed(*command, cwd=root)
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


def test_a_model_is_a_function_of_decoded_frames(
    finished: Path, model: Path, videos: list[Path]
) -> None:
    known = pl.read_parquet(finished / CELL.predictions).filter(split="test")
    classify = load_model(model)
    expected = known.select(f"probability_{label}" for label in classify.labels).to_numpy()

    found = []
    for path in videos[:8]:
        with av.open(str(path)) as container:
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        found.append(classify(np.stack(frames)))

    assert np.allclose(np.sum(found, axis=1), 1)
    # From RGB instead of the file's colors: close, and a little off.
    assert np.allclose(found, expected[:8], atol=0.05)
    assert np.mean(np.argmax(found, axis=1) == np.argmax(expected[:8], axis=1)) == 1


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((9, 8, 8), np.uint8), ((0, 8, 8, 3), np.uint8), ((9, 8, 8, 3), np.float32)],
)
def test_other_arrays_than_frames_are_refused(
    model: Path, shape: tuple[int, ...], dtype: type
) -> None:
    with pytest.raises(ValueError, match=r"expected uint8 of shape \(frames, height, width, 3\)"):
        load_model(model)(np.zeros(shape, dtype))


def test_dense_clips_of_frames_need_their_rate(model: Path) -> None:
    trained = load_model(model).trained
    dense = replace(trained, clips=replace(trained.clips, sampling="dense", fps=10.0))
    classify = Classifier(dense, torch.device("cpu"))
    frames = np.random.default_rng(0).integers(0, 256, (40, 48, 64, 3), np.uint8)

    with pytest.raises(ValueError, match="fps: expected the frames per second of the video"):
        classify(frames)
    assert not np.allclose(classify(frames, fps=10.0), classify(frames, fps=30.0), atol=1e-9)


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


def test_all_faults_of_the_arguments_are_told_at_once() -> None:
    with pytest.raises(click.UsageError) as caught:
        Request(paths=["a.mp4"], out=Path("table.txt"), html=Path("a.mp4"), every=0.0)

    one, two, three, four = str(caught.value).splitlines()
    assert one.startswith("expected the file of a model, ending in .pt, got none")
    assert two.startswith("--out: expected a file that ends in .csv, .json, .jsonl, .parquet, got")
    assert three == ("--html: expected a file that ends in .html, .htm, got 'a.mp4'; rename it")
    assert four.startswith("--every: expected a number of seconds above 0, got 0; give")


def test_no_more_classes_are_named_than_there_are() -> None:
    check_top(2, ["a", "b"])
    with pytest.raises(click.UsageError, match="--top: expected at most 2, as many as the model"):
        check_top(3, ["a", "b"])


def test_fewer_videos_are_read_ahead_the_larger_their_clips_are() -> None:
    small, large = (
        ClipRecipe(frames=16, height=side, width=side, fit="crop", per_video=5)
        for side in (32, 512)
    )
    request = Request(paths=["a.pt"], workers=3)

    assert max_ahead(small, request) == 500_000_000 // (3 * 16 * 32 * 32 * 5)
    assert max_ahead(large, request) == 7
    assert max_ahead(small, replace(request, every=1.0)) == 6


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


# --- windows -----------------------------------------------------------------------------------


def film(
    path: Path, grays: Iterable[int], *, fps: int = 10, size: tuple[int, int] = (48, 64)
) -> Path:
    """Encode a video that shows one gray level after another, in the upper half."""
    frames = []
    for gray in grays:
        frame = np.zeros((*size, 3), np.uint8)
        frame[: size[0] // 2] = gray
        frames.append(frame)
    encode_video(path, frames, codec="mjpeg", fps=fps, quality=100)
    return path


RECIPE = ClipRecipe(frames=2, height=24, width=32, fit="letterbox")


def test_the_clips_of_windows_show_their_own_times(tmp_path: Path) -> None:
    path = film(tmp_path / "long.mov", range(0, 240, 6))  # 4 s
    task = Task(path=path, recipe=RECIPE, max_duration_sec=60, every_sec=1.0)

    reading = read_video(task)

    assert reading.clips is not None
    assert reading.spans == [(0.0, 1.0), (1.0, 2.0), (2.0, 3.0), (3.0, 4.0)]
    assert reading.clips.shape == (4, 2, 24, 32, 3)
    shown = reading.clips[:, :, 4, 16, 0].astype(int)
    expected = 6 * np.array([[2, 7], [12, 17], [22, 27], [32, 37]])
    assert np.abs(shown - expected).max() <= 2


def test_a_video_beyond_the_limits_gets_a_row_and_stops_nobody(tmp_path: Path) -> None:
    path = film(tmp_path / "long.mov", range(0, 240, 6))
    large = ClipRecipe(frames=8, height=128, width=128, fit="letterbox")
    windows = Task(path=path, recipe=large, max_duration_sec=60, every_sec=0.001)  # 1.6 GB
    tasks = [windows, replace(windows, every_sec=1.0), replace(windows, max_duration_sec=2.0)]
    executor = Executor(executor="processes", workers=1)

    with WorkerPool(executor, Limits(time_sec=60, memory_mb=100)) as pool:
        many, few, long = read(tasks, pool)
    with WorkerPool(executor, Limits(time_sec=0.05, memory_mb=4000)) as pool:
        (slow,) = read([windows], pool)  # a second and more

    assert (many.verdict, many.reason) == (
        "out_of_memory",
        "reading took more than 100 MB of memory",
    )
    assert few.verdict == "ok"
    assert (long.verdict, long.reason) == ("too_long", "it lasts more than 2 s")
    assert (slow.verdict, slow.reason) == ("timeout", "reading took more than 0.05 s")


def test_windows_are_predicted_as_videos_are_and_in_small_batches(
    finished: Path, model: Path, tmp_path: Path
) -> None:
    cpu = torch.device("cpu")
    trained = load_models([model], cpu)
    random = np.random.default_rng(0)
    clips = random.integers(0, 256, (40, *trained[0].clips.shape, 3), dtype=np.uint8)
    readings = [
        Reading(path=Path("a"), verdict="ok", reason="", clips=clips[:2]),
        Reading(path=Path("b"), verdict="damaged", reason="cut"),
        Reading(path=Path("c"), verdict="ok", reason="", clips=clips[2:38], spans=[(0, 1)] * 18),
        Reading(path=Path("d"), verdict="ok", reason="", clips=clips[38:], spans=[(0, 1)]),
    ]

    found = [*predicted(readings, trained, cpu)]

    one, none, several, last = (each.probabilities for each in found)
    alone = averaged([*clips[:, None]], trained, cpu).reshape(20, 2, 2).mean(axis=1)
    assert [each.reading.path.name for each in found] == ["a", "b", "c", "d"]
    assert none is None
    assert one is not None
    assert several is not None
    assert last is not None
    assert np.allclose(np.concatenate([one, several, last]), alone, atol=1e-9)
    assert (len(one), len(several), len(last)) == (1, 18, 1)
    assert [len(batch.clips) for batch in batches(clips)] == [16, 16, 8]


def test_the_table_names_the_likeliest_classes_of_each_window(
    capsys: pytest.CaptureFixture[str],
) -> None:
    long = Reading(path=Path("long.mp4"), verdict="ok", reason="", spans=[(0.0, 2.0), (2.0, 4.5)])
    values = np.array([[0.2, 0.5, 0.3], [0.7, 0.1, 0.2]])
    predictions = [
        Prediction(reading=long, probabilities=values),
        Prediction(reading=Reading(path=Path("cut.mp4"), verdict="truncated", reason="it ends")),
    ]
    labels = ["1", "2", "3"]  # as of classes that have numbers for names

    table = prediction_table(predictions, [["", "short"], [None]], labels, top=2, with_times=True)
    print_table(table, labels, top=2)

    assert table.columns == [
        *("video_path", "start_sec", "end_sec", "verdict", "reason", "warning", "predicted"),
        *("predicted_1", "predicted_1_probability", "predicted_2", "predicted_2_probability"),
        *("probability_1", "probability_2", "probability_3"),
    ]
    assert table["start_sec"].to_list() == [0.0, 2.0, None]
    assert table["end_sec"].to_list() == [2.0, 4.5, None]
    assert table["warning"].to_list() == ["", "short", None]
    assert table["predicted"].to_list() == ["2", "1", None]
    assert table["predicted_2"].to_list() == ["3", "3", None]
    assert table["predicted_2_probability"].to_list() == [0.3, 0.2, None]
    assert table["probability_1"].to_list() == [0.2, 0.7, None]
    assert capsys.readouterr().out.splitlines() == [
        "video       from      to  predicted  probability  next     remark",
        "long.mp4  0.00 s  2.00 s  2          0.500        3 0.300",
        "long.mp4  2.00 s  4.50 s  1          0.700        3 0.200  short",
        "cut.mp4                                                    truncated: it ends",
    ]


def test_windows_warnings_and_a_page_of_a_whole_run(
    finished: Path, model: Path, videos: list[Path], tmp_path: Path
) -> None:
    splits = pl.read_parquet(finished / "data/splits.parquet")
    trained = splits.filter(pl.col("fold").is_not_null())["video_path"][0]
    (tmp_path / "<b>.mp4").write_text("no video")
    table, page = tmp_path / "table.parquet", tmp_path / "page.html"

    code, output = predict(
        finished, model, finished / SAMPLE / trained, videos[0], tmp_path / "<b>.mp4",
        *("--every", "0.5", "--top", "2", "--out", table, "--html", page),
    )  # fmt: skip

    rows = pl.read_parquet(table)
    text = page.read_text()
    assert code == 3
    assert "1 video of 3 could not be predicted" in output
    copy, new, none = rows.partition_by("video_path", maintain_order=True)
    assert copy.height >= 4
    assert new["warning"][0].startswith("duration 0.5 s, training videos 2")
    assert all(
        warning.startswith(f"is training video '{trained}', byte for byte; duration ")
        for warning in copy["warning"]
    )
    assert none["start_sec"].to_list() == [None]
    assert f"is training video &#39;{trained}&#39;, byte for byte" in text
    assert "&lt;b&gt;.mp4" in text
    assert text.count("data:image/jpeg") == 2
    assert text.count('class="timeline"') == 2


# --- warnings ----------------------------------------------------------------------------------


def textured(
    path: Path,
    seed: int,
    *,
    num_frames: int = 20,
    fps: int = 10,
    height: int = 96,
    width: int = 128,
) -> Path:
    """Encode a moving texture, the same one for a seed at any rate, size and length."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    picture = cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)
    frames = [np.roll(picture, number // 2, axis=1) for number in range(num_frames)]
    quality = 80 if path.suffix == ".mp4" else 40
    codec: CodecName = "h264" if path.suffix == ".mp4" else "mpeg4"
    encode_video(path, frames, codec=codec, fps=fps, quality=quality)
    return path


@pytest.fixture
def training(tmp_path: Path) -> TrainingVideos:
    """Return two training videos of 2 and 3 s; a third one is in the test set."""
    names = ["first.mp4", "second.mp4", "test.mp4"]
    lengths = [20, 30, 20]
    paths = [
        textured(tmp_path / name, seed, num_frames=length)
        for seed, (name, length) in enumerate(zip(names, lengths, strict=True))
    ]
    table = facts_table(map(inspect_video, paths)).with_columns(
        pl.Series("video_path", names), pl.Series("label", ["a", "b", "a"])
    )
    table.write_parquet(tmp_path / "videos.parquet")
    table.select("video_path", "sha256", fold=pl.Series([0, 1, None])).write_parquet(
        tmp_path / "splits.parquet"
    )
    return loaded(tmp_path)


def loaded(folder: Path, labels: Sequence[str] = ("a", "b")) -> TrainingVideos:
    found = load_training_videos(
        folder / "videos.parquet", folder / "splits.parquet", labels, named=True
    )
    assert isinstance(found, TrainingVideos)
    return found


def warning(path: Path, training: TrainingVideos) -> str | None:
    ((found,),) = warnings_of([of_video(path)], training, whole=True)
    return found


def of_video(path: Path) -> Prediction:
    return Prediction(reading=read_video(Task(path=path, recipe=RECIPE, max_duration_sec=60)))


def test_a_copy_of_a_training_video_is_named(training: TrainingVideos, tmp_path: Path) -> None:
    assert warning(Path(shutil.copy(tmp_path / "first.mp4", tmp_path / "other.mp4")), training) == (
        "is training video 'first.mp4', byte for byte"
    )


def test_a_training_video_encoded_again_is_named_with_its_distance(
    training: TrainingVideos, tmp_path: Path
) -> None:
    copy = textured(tmp_path / "again.avi", 1, num_frames=25, height=72, width=96)

    told = warning(copy, training)

    assert told is not None
    found = re.fullmatch(
        r"shows the same as training video 'second\.mp4' \(distance (0\.\d{3})\)", told
    )
    assert found, told
    assert float(found[1]) < 0.1


def test_of_a_video_of_the_test_set_and_a_new_one_nothing_is_said(
    training: TrainingVideos, tmp_path: Path
) -> None:
    assert warning(tmp_path / "test.mp4", training) == ""
    assert warning(textured(tmp_path / "new.mp4", 7), training) == ""


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        ({"num_frames": 9}, "duration 0.9 s, training videos 2 to 3 s"),
        ({"num_frames": 10}, ""),
        ({"fps": 13, "num_frames": 26}, "rate 13 fps, training videos 10 fps"),
        ({"fps": 12, "num_frames": 24}, ""),
        ({"fps": 7}, "rate 7 fps, training videos 10 fps"),
        ({"width": 96, "height": 128}, "aspect 0.75, training videos 1.33"),
        ({"width": 148}, ""),
        (
            {"width": 180, "fps": 30, "num_frames": 12},
            "rate 30 fps, training videos 10 fps; aspect 1.88, training videos 1.33; "
            "duration 0.4 s, training videos 2 to 3 s",
        ),
    ],
)
def test_what_is_unlike_all_training_videos_is_told(
    training: TrainingVideos, tmp_path: Path, made: dict[str, int], expected: str
) -> None:
    assert warning(textured(tmp_path / "new.mp4", 7, **made), training) == expected


def test_a_rate_that_is_not_known_is_not_unlike_others(training: TrainingVideos) -> None:
    (row,) = training.table.head(1).iter_rows(named=True)
    facts = VideoFacts(verdict="ok", reason="", sha256="", size_bytes=0, width=4, height=3)
    unknown = pl.concat([training.table.with_columns(fps=0.0), training.table])

    assert unusual(facts, ranges(training.table)) == []
    assert unusual(replace(facts, fps=row["fps"]), ranges(unknown)) == []
    assert unusual(replace(facts, fps=60.0), ranges(unknown.head(2))) == []
    assert unusual(replace(facts, fps=60.0), ranges(unknown)) != []


def test_a_turned_video_has_the_aspect_that_is_shown(training: TrainingVideos) -> None:
    (row,) = training.table.head(1).iter_rows(named=True)
    upright, turned = (measured(row | {"rotation": angle})["aspect"] for angle in (180, 90))
    assert (round(upright, 3), round(turned, 3)) == (1.333, 0.75)
    assert measured(row | {"pixel_aspect": 1.5})["aspect"] == 2.0


def test_a_short_window_is_told_if_clips_are_taken_from_all_of_it(
    training: TrainingVideos, tmp_path: Path
) -> None:
    task = Task(
        path=textured(tmp_path / "new.mp4", 7),
        recipe=RECIPE,
        max_duration_sec=60,
        every_sec=0.9,
    )
    windows = [Prediction(reading=read_video(task))]
    short = "duration 0.9 s, training videos 2 to 3 s"

    # The second window takes the rest, 1.1 s, which is no less than half of 2 s.
    assert warnings_of(windows, training, whole=True) == [[short, ""]]
    assert warnings_of(windows, training, whole=False) == [["", ""]]
    assert warnings_of(windows, None, whole=True) == [[None, None]]


def test_a_table_that_is_not_of_the_training_is_refused_if_named_and_else_left(
    training: TrainingVideos, tmp_path: Path
) -> None:
    path, splits = tmp_path / "videos.parquet", tmp_path / "splits.parquet"

    def told(labels: Sequence[str] = ("a", "b")) -> str:
        with pytest.raises(PipelineError) as caught:
            load_training_videos(path, splits, labels, named=True)
        reason = load_training_videos(path, splits, labels, named=False)
        assert str(caught.value) == (f"{reason}; name data/videos.parquet of the training, or none")
        return str(reason).removeprefix(f"{path}: ")

    assert told(["a", "c"]) == "expected videos of a, c, got a, b"
    pl.read_parquet(path).drop("fingerprint", "fps").write_parquet(path)
    assert told() == (
        "expected the columns video_path, label, sha256, fingerprint, duration_sec, fps, width, "
        "height, rotation, pixel_aspect, got no fingerprint, no fps"
    )
    path.unlink()
    assert told() == "expected the videos of load_data, found none"


def test_without_splits_all_videos_of_the_table_count(
    training: TrainingVideos, tmp_path: Path
) -> None:
    assert training.table["video_path"].to_list() == ["first.mp4", "second.mp4"]
    (tmp_path / "splits.parquet").unlink()
    assert loaded(tmp_path).table.height == 3
