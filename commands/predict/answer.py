"""The answer to a request: videos are read, predicted, and compared with those of training."""

import math
import sys
from collections.abc import Sequence

import click
import polars as pl
import torch

from commands.predict.models import load_models, predicted, without_clips
from commands.predict.reading import USABLE, Task, read
from commands.predict.request import NO_TRAINING_VIDEOS, Request
from commands.predict.table import WRITERS, prediction_table, print_table
from commands.predict.training_videos import TrainingVideos, load_training_videos, warnings_of
from mlops.determinism import make_deterministic
from mlops.files import atomic
from mlops.processes.progress import counted, track
from mlops.workers.pool import Executor, WorkerPool
from video.clips.frames import ClipRecipe
from video.learning.trained import TrainedModel

MAX_AHEAD_BYTES = 500_000_000  # of clips

SMALL_MODEL = 1_000_000  # parameters

SOME_FAILED, ALL_FAILED = 3, 1  # exit codes


def answer(request: Request) -> None:
    make_deterministic(0, num_threads=request.threads or 1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = device if request.device == "auto" else torch.device(request.device)
    trained = load_models(request.models, device)
    torch.set_num_threads(request.threads or num_threads(trained))
    labels, recipe = trained[0].labels, trained[0].clips
    top = request.top or 0
    check_top(top, labels)
    training, note = find_training_videos(request, labels)
    print(f"predict: {note}")
    tasks = [
        Task(
            path=path,
            recipe=recipe,
            max_duration_sec=request.max_duration,
            every_sec=request.every,
        )
        for path in request.videos()
    ]
    page = None
    if request.html is not None:
        # Not above: what draws takes half a second to import.
        from commands.predict.page import Page

        page = Page(request, recipe, labels)
    predictions = []
    executor = Executor(executor="processes", workers=request.workers)
    with WorkerPool(executor, request.limits, max_ahead=max_ahead(recipe, request)) as pool:
        readings = track(read(tasks, pool), total=len(tasks), task="predict")
        for prediction in predicted(readings, trained, device):
            if page is not None:
                page.draw(prediction.reading)
            predictions.append(without_clips(prediction))
    warnings = warnings_of(predictions, training, whole=recipe.sampling == "uniform")
    table = prediction_table(
        predictions, warnings, labels, top=top, with_times=request.every is not None
    )
    if request.out is not None:
        with atomic.replacing(request.out) as path:
            WRITERS[request.out.suffix](table, path)
    if page is not None and request.html is not None:
        page.write(request.html, predictions, warnings, note)
    print_table(table, labels, top=top)
    failed = table.filter(pl.col("verdict") != USABLE).height
    if failed:
        print(f"{counted(failed, 'video')} of {len(tasks)} could not be predicted")
        sys.exit(ALL_FAILED if failed == len(tasks) else SOME_FAILED)


def num_threads(trained: Sequence[TrainedModel]) -> int:
    """Return one thread for small models: a second one would only wait, and take from decoding."""
    sizes = [sum(each.numel() for each in model.network.parameters()) for model in trained]
    return 1 if max(sizes) <= SMALL_MODEL else 2


def check_top(top: int, labels: Sequence[str]) -> None:
    if top > len(labels):
        raise click.UsageError(
            f"--top: expected at most {len(labels)}, as many as the model has classes, got {top}; "
            "give less"
        )


def max_ahead(recipe: ClipRecipe, request: Request) -> int:
    """Return how many videos may be read before the models get to them; of windows, few."""
    num_bytes = 3 * math.prod(recipe.shape) * recipe.per_video
    num = 0 if request.every is not None else MAX_AHEAD_BYTES // num_bytes
    return max(2 * request.workers, num)


def find_training_videos(
    request: Request, labels: Sequence[str]
) -> tuple[TrainingVideos | None, str]:
    """Return the videos that the predicted ones are compared with, and which they are in words."""
    tables = request.training_tables
    if tables is None:
        return None, f"no warnings, for --known is {NO_TRAINING_VIDEOS}"
    found = load_training_videos(*tables, labels, named=request.known is not None)
    if isinstance(found, str):
        return None, f"no warnings ({found}; --known names another table)"
    videos = counted(found.table.height, "training video")
    return found, f"warns of what {videos} of {found.path} show, and of what is unlike them"
