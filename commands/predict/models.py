"""The models of a prediction, and the mean of their probabilities."""

import difflib
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from commands.predict.reading import Reading
from mlops.errors import PipelineError
from mlops.files.checkpoint_file import State, load_checkpoint
from video.clips.loading import Batch
from video.learning.trained import NoModelError, TrainedModel
from video.models.registry import MODULES

BATCH_SIZE = 16  # clips


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """A reading, and the probabilities of its spans, of shape (spans, classes); None of no clip."""

    reading: Reading
    probabilities: NDArray[np.float64] | None = None


def without_clips(prediction: Prediction) -> Prediction:
    """Return what is kept of a prediction while others are made."""
    return replace(prediction, reading=replace(prediction.reading, clips=None))


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


def predicted(
    readings: Iterable[Reading], trained: Sequence[TrainedModel], device: torch.device
) -> Iterator[Prediction]:
    """Predict readings in their order, as many at once as a batch takes."""
    waiting: list[Reading] = []
    for reading in readings:
        waiting.append(reading)
        if sum(len(each.clips) for each in waiting if each.clips is not None) >= BATCH_SIZE:
            yield from _predicted(waiting, trained, device)
            waiting = []
    yield from _predicted(waiting, trained, device)


def _predicted(
    readings: Sequence[Reading], trained: Sequence[TrainedModel], device: torch.device
) -> Iterator[Prediction]:
    parts = [
        part
        for reading in readings
        if reading.clips is not None
        for part in np.split(reading.clips, len(reading.spans))
    ]
    probabilities = averaged(parts, trained, device) if parts else np.empty((0, 0))
    start = 0
    for reading in readings:
        if reading.clips is None:
            yield Prediction(reading=reading)
        else:
            end = start + len(reading.spans)
            yield Prediction(reading=reading, probabilities=probabilities[start:end])
            start = end


def averaged(
    parts: Sequence[NDArray[np.uint8]], trained: Sequence[TrainedModel], device: torch.device
) -> NDArray[np.float64]:
    """Return the mean of the models' probabilities, of shape (parts, classes).

    parts: equally many clips of each video or window.
    """
    clips = np.concatenate(parts)
    every = [
        # First over the clips of a video, as in evaluation.
        model.probabilities(batches(clips), device)
        .reshape(len(parts), -1, len(model.labels))
        .mean(axis=1)
        for model in trained
    ]
    mean: NDArray[np.float64] = np.mean(every, axis=0)
    return mean


def batches(clips: NDArray[np.uint8]) -> Iterator[Batch]:
    for start in range(0, len(clips), BATCH_SIZE):
        part = clips[start : start + BATCH_SIZE]
        rows = range(start, start + len(part))
        yield Batch(clips=part, labels=np.zeros(len(part), np.int64), rows=rows)
