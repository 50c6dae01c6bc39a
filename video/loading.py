"""Clips from packs into batches: uint8 up to the device, in an order that nobody keeps.

The order of an epoch is a function of (seed, epoch), so that a place in it is one number and no
worker holds a state.
"""

import hashlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from video.packs import Clips, PackError, check_clip, read_clip_into

# Makes of a clip, and its row in the `ClipSet`'s table, another clip of the same shape.
Augment = Callable[[Clips, int], Clips]

SHAPE = ("frames", "height", "width")
REQUIRED = (
    *("video_path", "sha256", "label", "group"),
    *("pack", "offset_bytes", "clip_sha256", *SHAPE),
)


@dataclass(frozen=True, kw_only=True)
class Batch:
    """clips: uint8 of shape (batch, frames, height, width, 3); labels: int64 of shape (batch,);
    rows: the clips' rows in the `ClipSet`'s table."""

    clips: Clips
    labels: NDArray[np.int64]
    rows: Sequence[int]


class ClipSet:
    """The clips of a table, read on demand; each is held against its sha256 when first read.

    Raises `PackError` for a table that does not tell what it must, and for a clip whose bytes are
    not those that its row promises.

    `table` has the columns REQUIRED; `directories` gives for each row
    the directory that holds its pack; `labels` the classes in the order of the model's outputs.
    """

    def __init__(
        self, table: pl.DataFrame, directories: Sequence[Path], labels: Sequence[str]
    ) -> None:
        missing = [name for name in REQUIRED if name not in table.columns]
        if missing:
            raise PackError(
                f"clip table: expected the columns {', '.join(REQUIRED)}, got no "
                f"{', no '.join(missing)}; run the data stages again"
            )
        shapes = table.select(SHAPE).unique().sort(SHAPE)
        if shapes.height != 1:
            raise PackError(
                f"clip table: expected clips of one shape, got {shapes.rows() or 'no clips'}; run "
                "create_dataset and generate_augmentations with the same parameters"
            )
        self.table = table
        self.clip_shape = (*shapes.row(0), 3)
        self.targets = np.array([labels.index(label) for label in table["label"]], np.int64)
        self._files = [
            (directory / pack, offset)
            for directory, pack, offset in zip(
                directories, table["pack"], table["offset_bytes"], strict=True
            )
        ]
        # Once a clip and process: 0.05 ms for 100 KB, about what reading it costs.
        self._unverified = dict(enumerate(table["clip_sha256"]))

    def __len__(self) -> int:
        return len(self._files)

    def batches(
        self, order: Sequence[int], batch_size: int, augment: Augment | None = None
    ) -> Iterator[Batch]:
        """Batches of the rows in the given order, cut by `batch_rows`, each clip augmented."""
        for rows in batch_rows(order, batch_size):
            clips = self.read(rows)
            if augment is not None:
                for clip, row in zip(clips, rows, strict=True):
                    clip[...] = augment(clip, row)
            yield Batch(clips=clips, labels=self.targets[rows], rows=rows)

    def read(self, rows: Sequence[int]) -> Clips:
        """uint8 of shape (len(rows), frames, height, width, 3)."""
        clips = np.empty((len(rows), *self.clip_shape), np.uint8)
        for target, row in zip(clips, rows, strict=True):
            path, offset_bytes = self._files[row]
            read_clip_into(target, path, offset_bytes)
            if row in self._unverified:
                check_clip(target, path, self._unverified[row])
                del self._unverified[row]
        return clips


def batch_rows(order: Sequence[int], batch_size: int) -> list[list[int]]:
    """Cut an order into batches of `batch_size`; the last one may be smaller.

    A single row left over joins the batch before it: batch normalisation has no variance of one.
    """
    cuts = [*range(0, len(order), batch_size), len(order)]
    if len(cuts) > 2 and cuts[-1] - cuts[-2] == 1 < batch_size:
        del cuts[-2]
    return [list(order[start:end]) for start, end in itertools.pairwise(cuts)]


def epoch_order(num_clips: int, *, seed: int, epoch: int) -> list[int]:
    """A permutation of range(num_clips) that depends on nothing but the arguments."""
    permutation: list[int] = _generator(seed, epoch).permutation(num_clips).tolist()
    return permutation


def balanced_order(targets: NDArray[np.int64], *, seed: int, epoch: int) -> list[int]:
    """As many rows as `targets` has, drawn so that every class comes up equally often.

    Within a class no row is repeated before each has come up as often.
    """
    generator = _generator(seed, epoch)
    classes = np.unique(targets)
    quotas = np.full(len(classes), len(targets) // len(classes))
    quotas[: len(targets) % len(classes)] += 1
    drawn: list[NDArray[np.int64]] = []
    for label, quota in zip(classes, quotas, strict=True):
        rows = np.flatnonzero(targets == label)
        rounds = -(-quota // len(rows))
        drawn.append(np.concatenate([generator.permutation(rows) for _ in range(rounds)])[:quota])
    order: list[int] = generator.permutation(np.concatenate(drawn)).tolist()
    return order


def _generator(seed: int, epoch: int) -> np.random.Generator:
    key = hashlib.blake2b(f"order|{seed}|{epoch}".encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(key, "big")))
