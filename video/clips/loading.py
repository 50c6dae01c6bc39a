"""Batches of clips read from packs, uint8 up to the device, in a given order."""

import itertools
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import cast

import numpy as np
import polars as pl
from numpy.typing import NDArray

from video.clips.packs import Clips, PackError, check_clip, read_clip_into

# Maps a clip, its row in the `ClipSet`'s table and how often the row came before in the order to
# another clip of the same shape. Called by several threads at once if `batches` has more than one
# worker.
Augment = Callable[[Clips, int, int], Clips]

# Makes an uninitialized uint8 array of a shape, for example in pinned memory.
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
    """A batch of clips, or one rank's shard of it.

    clips: uint8 of shape (batch, frames, height, width, 3), or their features, float32 of shape
        (batch, ...); `ClipSet.batches` says how long valid.
    labels: int64 of shape (batch,).
    rows: the clips' rows in the `ClipSet`'s table.
    share: the part of the batch that `clips` holds; labels and rows are always of the whole batch.
    """

    clips: NDArray[np.uint8 | np.float32]
    labels: NDArray[np.int64]
    rows: Sequence[int]
    share: slice = field(default_factory=lambda: slice(None))


class ClipSet:
    """The clips of a table, read on demand; the sha256 of each is checked when it is first read.

    Raises `PackError` if a column is missing, if the clips differ in shape, or if the bytes of a
    clip are not those of its row.

    `table` has the columns REQUIRED; `directories` has for each row the directory of its pack;
    `labels` are the classes in the order of the model's outputs.
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
        # Once per clip and process: 0.05 ms for 100 KB, about the cost of reading it.
        self._unverified = dict(enumerate(table["clip_sha256"]))

    def __len__(self) -> int:
        return len(self._files)

    @cached_property
    def items(self) -> list[list[int]]:
        """The rows of each video, and of each augmented copy of one, in the order of the table."""
        names = [name for name in ("video_path", "copy") if name in self.table.columns]
        rows = self.table.select(names).with_row_index("row")
        found = rows.group_by(names, maintain_order=True).agg("row")["row"]
        return cast(list[list[int]], found.to_list())

    @property
    def item_targets(self) -> NDArray[np.int64]:
        """The class numbers of the items."""
        return self.targets[[rows[0] for rows in self.items]]

    def mean_over_items(self, probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the means of probabilities over the rows of each item, shape (items, classes)."""
        return np.stack([probabilities[rows].mean(axis=0) for rows in self.items])

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
        """Yield batches of the rows in the given order, cut by `batch_rows`, each clip augmented.

        Starts at the batch of number `first`; nothing before it is read. `workers` threads augment
        the clips of a batch, which changes no byte if `augment` is a pure function. The arrays of
        clips are allocated once, by `allocate`, and reused in turn: the clips of a batch stay valid
        while the next `NUM_BUFFERS` - 1 batches are made, and are overwritten by the one after
        those. Copy them to keep them longer. `share` maps the size of a batch to the contiguous
        part of it that is read.
        """
        cut = batch_rows(order, batch_size)
        repeats = batch_rows(_repeats(order), batch_size)
        largest = max(map(len, cut[first:]), default=0)
        buffers = [
            (allocate or _empty)((largest, *self.clip_shape))
            for _ in range(min(NUM_BUFFERS, len(cut[first:])))
        ]
        threads = ThreadPoolExecutor(workers) if augment and workers > 1 else nullcontext()
        with threads as pool:
            for number, whole in enumerate(itertools.islice(cut, first, None)):
                part = share(len(whole))
                rows = whole[part]
                clips = self._read_into(buffers[number % NUM_BUFFERS][: len(rows)], rows)
                if augment is not None:
                    repeated = repeats[number + first][part]
                    made = (pool.map if pool else map)(augment, clips, rows, repeated)
                    for clip, augmented in zip(clips, made, strict=True):
                        clip[...] = augmented
                yield Batch(clips=clips, labels=self.targets[whole], rows=whole, share=part)

    def read(self, rows: Sequence[int]) -> Clips:
        """Return the clips as a new array, uint8 of shape (len(rows), frames, height, width, 3)."""
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

    A single row left over joins the batch before it: batch normalization has no variance of one.
    """
    cuts = [*range(0, len(order), batch_size), len(order)]
    if len(cuts) > 2 and cuts[-1] - cuts[-2] == 1 < batch_size:
        del cuts[-2]
    return [list(order[start:end]) for start, end in itertools.pairwise(cuts)]


def _repeats(order: Sequence[int]) -> list[int]:
    """Return for each place in an order how often its row came before."""
    counts: Counter[int] = Counter()
    repeats = []
    for row in order:
        repeats.append(counts[row])
        counts[row] += 1
    return repeats


def _empty(shape: tuple[int, ...]) -> Clips:
    return np.empty(shape, np.uint8)
