"""Clips from packs into batches: uint8 up to the device, in the order that is asked for."""

import itertools
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from video.clips.packs import Clips, PackError, check_clip, read_clip_into

# Makes of a clip, and its row in the `ClipSet`'s table, another clip of the same shape. Called by
# several threads at once where `batches` is given more than one worker.
Augment = Callable[[Clips, int], Clips]

# Makes an uninitialised uint8 array of a shape, say in memory that a GPU can copy from by itself.
Allocate = Callable[[tuple[int, ...]], Clips]

# Arrays that `ClipSet.batches` fills in turn: one that is in use, and two made ahead of it.
NUM_BUFFERS = 3

SHAPE = ("frames", "height", "width")
REQUIRED = (
    *("video_path", "sha256", "label", "group"),
    *("pack", "offset_bytes", "clip_sha256", *SHAPE),
)


@dataclass(frozen=True, kw_only=True)
class Batch:
    """clips: uint8 of shape (batch, frames, height, width, 3); labels: int64 of shape (batch,);
    rows: the clips' rows in the `ClipSet`'s table.

    Where several processes share a batch, labels and rows are those of the whole batch, and the
    clips those of the rows `share` of it.

    `ClipSet.batches` says how long the clips stay as they are.
    """

    clips: Clips
    labels: NDArray[np.int64]
    rows: Sequence[int]
    share: slice = field(default_factory=lambda: slice(None))


def _whole(count: int) -> slice:
    return slice(count)


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
        self,
        order: Sequence[int],
        batch_size: int,
        augment: Augment | None = None,
        *,
        first: int = 0,
        allocate: Allocate | None = None,
        workers: int = 1,
        share: Callable[[int], slice] = _whole,
    ) -> Generator[Batch, None, None]:
        """Batches of the rows in the given order, cut by `batch_rows`, each clip augmented.

        The first one made is that of number `first`; nothing before it is read. `workers` threads
        augment the clips of a batch, which changes no byte where `augment` is a function of its
        arguments. The arrays of clips are made once, by `allocate`, and filled in turn: a batch
        stays as it is while the `NUM_BUFFERS` - 1 batches after it are made, and its clips are
        overwritten when the next one after those is asked for. Copy what shall last longer.
        `share` tells which clips of a batch of so many are read at all, one behind the other.
        """
        cut = batch_rows(order, batch_size)
        largest = max(map(len, cut[first:]), default=0)
        buffers = [
            (allocate or _empty)((largest, *self.clip_shape))
            for _ in range(min(NUM_BUFFERS, len(cut[first:])))
        ]
        # No pool for one worker: a thread more would only be in the way.
        threads = ThreadPoolExecutor(workers) if augment and workers > 1 else nullcontext()
        with threads as pool:
            for number, whole in enumerate(itertools.islice(cut, first, None)):
                part = share(len(whole))
                rows = whole[part]
                clips = self._read_into(buffers[number % NUM_BUFFERS][: len(rows)], rows)
                if augment is not None:
                    made = (pool.map if pool else map)(augment, clips, rows)
                    for clip, augmented in zip(clips, made, strict=True):
                        clip[...] = augmented
                yield Batch(clips=clips, labels=self.targets[whole], rows=whole, share=part)

    def read(self, rows: Sequence[int]) -> Clips:
        """uint8 of shape (len(rows), frames, height, width, 3), an array of its own."""
        return self._read_into(_empty((len(rows), *self.clip_shape)), rows)

    def _read_into(self, clips: Clips, rows: Sequence[int]) -> Clips:
        # A pack is opened for every clip: a cache of 128 descriptors over 700 packs saved nothing.
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


def _empty(shape: tuple[int, ...]) -> Clips:
    return np.empty(shape, np.uint8)
