"""The page of a request: its predictions as plain data for `video.report.predictions`."""

from collections.abc import Sequence
from pathlib import Path

from commands.predict.models import Prediction
from commands.predict.reading import Reading
from commands.predict.request import Request
from mlops.files import atomic
from video.clips.frames import ClipRecipe
from video.report.predictions import (
    PredictedVideo,
    PredictionsPage,
    RejectedVideo,
    Strip,
    Strips,
    render_predictions,
)


class Page:
    """Takes the pictures of readings while these still hold clips; is written at the end."""

    def __init__(self, request: Request, recipe: ClipRecipe, labels: Sequence[str]) -> None:
        self._labels = labels
        clip = f"{recipe.frames} frames of {recipe.height}×{recipe.width} px, {recipe.fit}"
        self._facts = {"models": ", ".join(map(str, request.models)), "clips": clip}
        if request.every is not None:
            self._facts["windows"] = f"one begins every {request.every:g} s"
        self._strips = Strips()
        self._drawn: list[Strip | None] = []

    def draw(self, reading: Reading) -> None:
        """Keep the pictures of the next reading, if it has any and the page has room for them."""
        clips = reading.clips
        drawn = None if clips is None else self._strips.draw(clips, len(reading.spans))
        self._drawn.append(drawn)

    def write(
        self,
        path: Path,
        predictions: Sequence[Prediction],
        warnings: Sequence[Sequence[str | None]],
        note: str,
    ) -> None:
        """Write the page; predictions and warnings are in the order of the readings drawn."""
        rows = [*zip(predictions, self._drawn, warnings, strict=True)]
        page = PredictionsPage(
            labels=self._labels,
            videos=[predicted_video(*row) for row in rows if row[0].probabilities is not None],
            rejected=[
                rejected_video(row[0].reading) for row in rows if row[0].probabilities is None
            ],
            facts=self._facts,
            note=note,
        )
        atomic.write_text(path, render_predictions(page))


def predicted_video(
    prediction: Prediction, strip: Strip | None, warnings: Sequence[str | None]
) -> PredictedVideo:
    assert prediction.probabilities is not None
    reading = prediction.reading
    return PredictedVideo(
        path=str(reading.path),
        probabilities=prediction.probabilities,
        spans=[(a, b) for a, b in reading.spans if a is not None and b is not None],
        warnings=list(dict.fromkeys(filter(None, warnings))),
        strip=strip,
    )


def rejected_video(reading: Reading) -> RejectedVideo:
    return RejectedVideo(path=str(reading.path), verdict=reading.verdict, reason=reading.reason)
