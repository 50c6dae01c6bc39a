"""Predictions of trained models for videos of your own; needs nothing but the models' files."""

import difflib
import mimetypes
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import click
import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from mlops.determinism import make_deterministic
from mlops.errors import PipelineError
from mlops.files import atomic
from mlops.files.checkpoint_file import State, load_checkpoint
from mlops.files.tables import aligned
from mlops.processes.progress import counted, track
from mlops.workers.pool import Executor, Fault, WorkerPool
from mlops.workers.worker import Limits
from video.clips.frames import ClipRecipe, clip_frames
from video.clips.loading import Batch
from video.learning.trained import NoModelError, TrainedModel
from video.models.registry import MODULES
from video.source.container import frame_timing
from video.source.decoding import read_clips
from video.source.inspection import inspect_video

BATCH_SIZE = 16  # videos
USABLE = "ok"

WRITERS: Mapping[str, Callable[[pl.DataFrame, Path], object]] = {
    ".csv": pl.DataFrame.write_csv,
    ".json": pl.DataFrame.write_json,
    ".jsonl": pl.DataFrame.write_ndjson,
    ".parquet": pl.DataFrame.write_parquet,
}

SOME_FAILED, ALL_FAILED = 3, 1  # exit codes


@dataclass(frozen=True, kw_only=True)
class Task:
    """A video to read the clips of, as the models take them."""

    path: Path
    recipe: ClipRecipe
    max_duration_sec: float


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Clips, uint8 of shape (clips, frames, height, width, 3); without them, the reason."""

    path: Path
    verdict: str
    reason: str
    clips: NDArray[np.uint8] | None = None


@click.command(help=__doc__)
@click.argument("paths", nargs=-1, required=True, metavar="MODEL… VIDEO_OR_FOLDER…")
@click.option("--out", type=Path, metavar="FILE", help="Table: .csv, .json, .jsonl or .parquet.")
@click.option("--device", default="auto", help="auto, cpu or cuda.  [auto]")
@click.option("--workers", default=2, metavar="N", help="Processes that decode.  [2]")
@click.option("--threads", default=2, metavar="N", help="CPU threads of the models.  [2]")
@click.option("--time-limit", default=300.0, metavar="SECONDS", help="Of one video.  [300]")
@click.option("--memory-limit", default=2000, metavar="MB", help="Of one video.  [2000]")
@click.option("--max-duration", default=600.0, metavar="SECONDS", help="Of a video.  [600]")
def command(
    paths: tuple[str, ...],
    out: Path | None,
    device: str,
    workers: int,
    threads: int,
    time_limit: float,
    memory_limit: int,
    max_duration: float,
) -> None:
    """Predict; the files that end in .pt are the models, whose probabilities are averaged."""
    models = [Path(path) for path in paths if path.endswith(".pt")]
    check_arguments(models, out)
    make_deterministic(0, num_threads=threads)
    place = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    place = place if device == "auto" else torch.device(device)
    trained = load_models(models, place)
    recipe = trained[0].clips
    tasks = [
        Task(path=path, recipe=recipe, max_duration_sec=max_duration)
        for path in videos_in([Path(path) for path in paths if not path.endswith(".pt")])
    ]
    limits = Limits(time_sec=time_limit, memory_mb=memory_limit)
    with WorkerPool(Executor(executor="processes", workers=workers), limits) as pool:
        readings = track(read(tasks, pool), total=len(tasks), task="predict")
        table = prediction_table(readings, trained, place)
    if out is not None:
        with atomic.replacing(out) as path:
            WRITERS[out.suffix](table, path)
    print_table(table)
    failed = table.filter(pl.col("verdict") != USABLE).height
    if failed:
        print(f"{counted(failed, 'video')} of {table.height} could not be predicted")
        sys.exit(ALL_FAILED if failed == table.height else SOME_FAILED)


def check_arguments(models: Sequence[Path], out: Path | None) -> None:
    if not models:
        raise click.UsageError(
            "expected the file of a model, ending in .pt, got none; dvc repro writes them to "
            "models/<model>/fold<N>/seed<N>/best_model.pt"
        )
    if out is not None and out.suffix not in WRITERS:
        raise click.UsageError(
            f"--out: expected a file that ends in {', '.join(WRITERS)}, got '{out}'; rename it"
        )


def load_models(paths: Sequence[Path], device: torch.device) -> list[TrainedModel]:
    """Load models, which must have the same labels and take the same clips."""
    trained = [load_model(path, device)[1] for path in paths]
    for path, model in zip(paths, trained, strict=True):
        for name in ("labels", "clips"):
            known, own = getattr(trained[0], name), getattr(model, name)
            if own != known:
                raise PipelineError(
                    f"{path}: expected {name} {known} as {paths[0]} has, got {own}; predict with "
                    "each alone"
                )
    return trained


def load_model(path: Path, device: torch.device) -> tuple[State, TrainedModel]:
    """Return what the file of a published model holds, and the model that it makes."""
    if not path.is_file():
        known = [str(found) for found in sorted(Path().glob("models/*/fold*/seed*/best_model.pt"))]
        raise PipelineError(
            f"{path}: expected the file of a model, found none; "
            + (nearest(str(path), known) or "run dvc repro, which makes models")
        )
    state = load_checkpoint(path)
    try:
        return state, TrainedModel.of_state(state, device)
    except NoModelError as error:
        hint = nearest(str(state.get("architecture")), MODULES)
        raise PipelineError(f"{path}: {error}{hint and f'; {hint}'}") from None


def nearest(name: str, known: Collection[str]) -> str:
    """Ask whether the known name that is spelled most alike was meant; "" if it is known."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
    return f"did you mean {close[0]}?" if close and name not in known else ""


def videos_in(paths: Sequence[Path]) -> list[Path]:
    """Return the files named, and those in the folders named whose suffix is that of a video."""
    found = []
    for path in paths:
        if not path.is_dir():
            found.append(path)
            continue
        inside = [each for each in sorted(path.rglob("*")) if each.is_file() and is_video(each)]
        if not inside:
            raise PipelineError(
                f"{path}: expected videos in this folder, found none by their suffixes; name the "
                "files"
            )
        found += inside
    if not found:
        raise click.UsageError("expected videos or folders beside the models, got none")
    return found


def is_video(path: Path) -> bool:
    kind, _ = mimetypes.guess_type(path.name)
    return (kind or "").startswith("video/") or path.suffix.lower() in (".mkv", ".flv", ".m2ts")


def read(tasks: Sequence[Task], pool: WorkerPool) -> Iterator[Reading]:
    for task, found in zip(tasks, pool.map(read_video, tasks), strict=True):
        if isinstance(found, Fault):
            found = Reading(path=task.path, verdict=found.kind, reason=f"reading {found.reason}")
        yield found


def read_video(task: Task) -> Reading:
    """Decode a video in full, as load_data does, and take the clips that create_dataset takes."""
    if not task.path.is_file():
        return Reading(path=task.path, verdict="missing", reason="there is no such file")
    facts = inspect_video(task.path, max_duration_sec=task.max_duration_sec)
    found = Reading(path=task.path, verdict=facts.verdict, reason=facts.reason)
    if facts.verdict != USABLE:
        return found
    video = asdict(facts)
    frames = clip_frames(video, task.recipe)
    return replace(found, clips=read_clips(task.path, frames, task.recipe, frame_timing(video)))


def prediction_table(
    readings: Iterator[Reading], trained: Sequence[TrainedModel], device: torch.device
) -> pl.DataFrame:
    """Return one row per video: path, verdict, reason, label predicted, probability per class."""
    labels = list(trained[0].labels)
    rows: list[Reading] = []
    waiting: list[NDArray[np.uint8]] = []
    parts: list[NDArray[np.float64]] = []
    for reading in readings:
        rows.append(replace(reading, clips=None))
        if reading.clips is not None:
            waiting.append(reading.clips)
        if len(waiting) == BATCH_SIZE:
            parts.append(averaged(waiting, trained, device))
            waiting = []
    if waiting:
        parts.append(averaged(waiting, trained, device))
    table = pl.DataFrame(
        [(str(row.path), row.verdict, row.reason) for row in rows],
        schema={"video_path": pl.String, "verdict": pl.String, "reason": pl.String},
        orient="row",
    )
    values = np.full((len(rows), len(labels)), np.nan)
    if parts:
        values[[row.verdict == USABLE for row in rows]] = np.concatenate(parts)
    probabilities = [
        pl.Series(f"probability_{label}", values[:, i]).fill_nan(None)
        for i, label in enumerate(labels)
    ]
    predicted = [None if np.isnan(row).any() else labels[int(row.argmax())] for row in values]
    return table.with_columns(pl.Series("predicted", predicted, dtype=pl.String), *probabilities)


def averaged(
    videos: Sequence[NDArray[np.uint8]], trained: Sequence[TrainedModel], device: torch.device
) -> NDArray[np.float64]:
    """Return the mean of the models' probabilities, of shape (videos, classes)."""
    clips = np.concatenate(videos)
    batch = Batch(clips=clips, labels=np.zeros(len(clips), np.int64), rows=range(len(clips)))
    every = [
        # First over the clips of a video, as in evaluation.
        model.probabilities([batch], device)
        .reshape(len(videos), -1, len(model.labels))
        .mean(axis=1)
        for model in trained
    ]
    mean: NDArray[np.float64] = np.mean(every, axis=0)
    return mean


def print_table(table: pl.DataFrame) -> None:
    rows = []
    for path, verdict, reason, predicted, *values in table.iter_rows():
        told = f"{max(values):.3f}" if predicted is not None else f"{verdict}: {reason}"
        rows.append([path, predicted or "", told])
    print(aligned(["video", "predicted", "probability"], rows))
