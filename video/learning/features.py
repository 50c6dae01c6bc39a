"""Clips by their features, which a frozen backbone has made of them once."""

from collections.abc import Callable, Generator, Sequence
from pathlib import Path

import polars as pl

from video.clips.loading import Allocate, Augment, Batch, ClipSet, batch_rows
from video.clips.packs import PackError


class FeatureSet(ClipSet):
    """The clips of a table, with their features in memory instead of their pixels.

    `features` has the columns clip_sha256 and features. Raises `PackError` if it lacks a clip.
    """

    def __init__(
        self,
        table: pl.DataFrame,
        directories: Sequence[Path],
        labels: Sequence[str],
        features: pl.DataFrame,
    ) -> None:
        super().__init__(table, directories, labels)
        places = {sha256: row for row, sha256 in enumerate(features["clip_sha256"])}
        missing = [sha256 not in places for sha256 in table["clip_sha256"]]
        if any(missing):
            raise PackError(
                f"features: expected those of {table.height} clips, got none of {sum(missing)} of "
                f"them, the first of {table.filter(missing)['video_path'][0]}; run dvc repro, "
                "whose stage embed computes them"
            )
        rows = [places[sha256] for sha256 in table["clip_sha256"]]
        self._features = features["features"].to_numpy()[rows]

    def batches(
        self,
        order: Sequence[int],
        batch_size: int,
        augment: Augment | None = None,
        *,
        first: int = 0,
        allocate: Allocate | None = None,
        workers: int = 1,
        share: Callable[[int], slice] = slice,
    ) -> Generator[Batch, None, None]:
        """Yield batches as those of pixels, of arrays of their own; nothing is augmented."""
        for whole in batch_rows(order, batch_size)[first:]:
            part = share(len(whole))
            features = self._features[whole[part]]
            yield Batch(clips=features, labels=self.targets[whole], rows=whole, share=part)
