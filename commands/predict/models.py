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
from video.clips.frames import clip_frames
from video.clips.loading import Batch
from video.learning.trained import NoModelError, TrainedModel
from video.models.registry import MODULES
from video.source.decoding import fit_frames

BATCH_SIZE = 16  # clips


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """A reading, and the probabilities of its spans, of shape (spans, classes); None of no clip."""

    reading: Reading
    probabilities: NDArray[np.float64] | None = None


@dataclass(frozen=True)
class Classifier:
    """A trained model, called with the decoded frames of one video."""

    trained: TrainedModel
    device: torch.device

    @property
    def labels(self) -> Sequence[str]:
        """The classes, in the order of the probabilities."""
        return self.trained.labels

    def __call__(self, frames: NDArray[np.uint8], fps: float | None = None) -> NDArray[np.float64]:
        """Return the probability of each class, of shape (classes,).

        frames: all of a video, uint8 of shape (frames, height, width, 3), RGB, upright, in any
        size; clips are taken of them as the model was trained with.
        fps: frames per second, which dense clips need.
        Raises `ValueError` for other arrays, and without a rate where one is needed.
        """
        recipe = self.trained.clips
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or not frames.size:
            raise ValueError(
                "frames: expected uint8 of shape (frames, height, width, 3), RGB, got "
                f"{frames.dtype} of shape {frames.shape}; pass the frames as decoded"
            )
        if recipe.sampling == "dense" and not (fps and fps > 0):
            raise ValueError(
                f"fps: expected the frames per second of the video, for clips at {recipe.fps:g} "
                f"frames per second, got {fps}; pass fps="
            )
        video = {"num_frames": len(frames), "fps": fps or 0.0, "frame_pts": None, "end_pts": None}
        chosen = clip_frames(video, recipe)
        indices = sorted({index for clip in chosen for index in clip})
        fitted = fit_frames(
            frames[indices], height=recipe.height, width=recipe.width, fit=recipe.fit
        )
        clips = fitted[np.searchsorted(indices, chosen)]
        probabilities: NDArray[np.float64] = averaged([clips], [self.trained], self.device)[0]
        return probabilities


def without_clips(prediction: Prediction) -> Prediction:
    """Return what is kept of a prediction while others are made."""
    return replace(prediction, reading=replace(prediction.reading, clips=None))


def load_models(paths: Sequence[Path], device: torch.device) -> list[TrainedModel]:
    """Load models, which must have the same labels and take the same clips."""
    trained = [read_model(path, device)[1] for path in paths]
    for path, model in zip(paths, trained, strict=True):
        for name in ("labels", "clips"):
            known, own = getattr(trained[0], name), getattr(model, name)
            if own != known:
                raise PipelineError(
                    f"{path}: expected {name} {known} as {paths[0]} has, got {own}; predict with "
                    "each alone"
                )
    return trained


def load_model(path: str | Path, device: str = "cpu") -> Classifier:
    """Return the model of a file as a function of frames, for use in other programs.

    Raises `PipelineError` if the file holds no model.
    """
    _, trained = read_model(Path(path), torch.device(device))
    return Classifier(trained, torch.device(device))


def read_model(path: Path, device: torch.device) -> tuple[State, TrainedModel]:
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
