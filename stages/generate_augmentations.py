"""Augmented copies of the clips of all videos outside the test set, made from their packs.

Nothing is decoded, and packs of earlier runs are reused. Every such video trains in some cell;
`video.splitting.cells` decides which of them a cell takes. The copies do not depend on the folds in
use, so that one more fold changes no copy and trains no trained cell again.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl

from mlops.files import atomic
from mlops.inputs import StageInputs
from mlops.params import section_as
from mlops.processes.progress import counted, track
from mlops.recorded.reuse import EarlierFiles
from mlops.stage import run_stage
from mlops.workers.pool import Executor, map_tasks
from stages.params import read_params
from stages.paths import AUGMENTED, AUGMENTED_PACKS, CLIPS, PACKS, SPLITS
from video.augmentation.clip import augment_clip
from video.augmentation.config import AugmentationRecipe
from video.augmentation.random_streams import TRANSFORM_VERSION
from video.clips.packs import (
    PACK_NAME,
    PackError,
    check_clip,
    pack_bytes,
    pack_key,
    pack_rows,
    parse_pack,
    read_clip_into,
)

EARLIER = EarlierFiles("generate_augmentations", PACK_NAME)


@dataclass(frozen=True, kw_only=True)
class Task:
    """One video's pack, to make augmented copies of its clips."""

    source: str
    offsets_bytes: tuple[int, ...]  # of each clip
    clip_sha256s: tuple[str, ...]
    shape: tuple[int, ...]  # of a clip
    sha256: str
    seed: int
    copies: int
    recipe: AugmentationRecipe

    @property
    def pack(self) -> str:
        """The name of the pack that holds the copies."""
        recipe = {
            "transform": TRANSFORM_VERSION,
            "source": self.source,
            "seed": self.seed,
            "copies": self.copies,
            **self.recipe.in_effect(),
        }
        return f"{pack_key(self.sha256, recipe)}.npy"


def main(inputs: StageInputs) -> None:
    params = read_params()
    clips = pl.read_parquet(CLIPS)
    copied = outside_test(pl.read_parquet(SPLITS))
    sources = clips.join(copied, on="video_path", how="semi", maintain_order="left")
    recipe = section_as(params.augment, AugmentationRecipe)
    tasks = [
        Task(
            source=pack,
            offsets_bytes=tuple(rows["offset_bytes"]),
            clip_sha256s=tuple(rows["clip_sha256"]),
            shape=(*rows.select("frames", "height", "width").row(0), 3),
            sha256=rows["sha256"][0],
            seed=params.seed,
            copies=params.augment.copies,
            recipe=recipe,
        )
        for (pack,), rows in sources.unique(["pack", "clip"], maintain_order=True).group_by(
            "pack", maintain_order=True
        )
        if params.augment.copies
    ]
    AUGMENTED_PACKS.mkdir(parents=True, exist_ok=True)
    found = [reuse_pack(task) for task in tasks]
    missing = [task for task, rows in zip(tasks, found, strict=True) if rows is None]
    made = map_tasks(make_pack, missing, section_as(params.runtime, Executor))
    reused = [rows for rows in found if rows is not None]
    packs = [*reused, *track(made, total=len(missing), task="generate_augmentations")]
    atomic.remove_half_written(AUGMENTED_PACKS)  # by a worker that was killed while others went on
    atomic.wait_until_listed(AUGMENTED_PACKS, {task.pack for task in tasks})
    table = augmented_table(sources, packs, params.augment.copies)
    inputs.check()
    with atomic.replacing(AUGMENTED) as path:
        table.write_parquet(path)
    EARLIER.clear()
    print(f"generate_augmentations: {table.height} clips of {len(tasks)} videos")
    print(
        f"generate_augmentations: {counted(len(missing), 'video')} augmented, "
        f"{counted(len(reused), 'pack')} reused"
    )


def outside_test(splits: pl.DataFrame) -> pl.DataFrame:
    return splits.filter(pl.col("fold").is_not_null()).select("video_path")


def augmented_table(
    sources: pl.DataFrame, packs: list[pl.DataFrame], num_copies: int
) -> pl.DataFrame:
    """Return one row per augmented clip, with its parent's path, hash, label and group.

    A pack holds the copies of the first clip of its video, then those of the next.
    """
    copies = pl.concat(packs) if packs else sources.clear()
    parents = sources.select("video_path", "sha256", "label", "group").unique(maintain_order=True)
    columns = [name for name in copies.columns if name not in parents.columns]
    return parents.join(
        copies.select("sha256", *columns), on="sha256", how="inner", maintain_order="left"
    ).with_columns(copy=pl.col("clip") % max(num_copies, 1))


def reuse_pack(task: Task) -> pl.DataFrame | None:
    """Write the pack as an earlier run made it and return where its clips lie, if it is kept."""
    content = EARLIER.find(task.pack)
    if content is None:
        return None
    copies = parse_pack(content, (len(task.offsets_bytes) * task.copies, *task.shape))
    if copies is None:
        return None
    atomic.write_bytes(AUGMENTED_PACKS / task.pack, content, durable=False)
    return pack_rows(task.pack, copies).with_columns(sha256=pl.lit(task.sha256))


def make_pack(task: Task) -> pl.DataFrame:
    """Write the augmented copies of one video; return where they lie."""
    path = PACKS / task.source
    made = []
    for offset_bytes, clip_sha256 in zip(task.offsets_bytes, task.clip_sha256s, strict=True):
        clip = np.empty(task.shape, np.uint8)
        read_clip_into(clip, path, offset_bytes)
        check_clip(clip, path, clip_sha256)
        made += [
            augment_clip(clip, task.recipe, seed=task.seed, video_sha256=task.sha256, copy=copy)
            for copy in range(task.copies)
        ]
    copies = np.stack(made)
    atomic.write_bytes(AUGMENTED_PACKS / task.pack, pack_bytes(copies))
    EARLIER.keep(AUGMENTED_PACKS / task.pack)
    return pack_rows(task.pack, copies).with_columns(sha256=pl.lit(task.sha256))


if __name__ == "__main__":
    run_stage("generate_augmentations", main, input_faults=(PackError,))
