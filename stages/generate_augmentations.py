"""Make augmented copies of the training videos' clips, from their packs; nothing is decoded."""

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import polars as pl

from mlops import files
from mlops.parameters import pick
from mlops.progress import track
from mlops.stage import run_stage
from mlops.workers import map_processes
from stages.params import read_params
from video.augmentation import TRANSFORM_VERSION, AugmentationRecipe, augment_clip
from video.packs import pack_bytes, pack_key, pack_rows, read_pack
from video.splits import TRAIN, split_in_fold

CLIPS = Path("data/clips.parquet")
PACKS = Path("data/clips")
SPLITS = Path("data/splits.parquet")
AUGMENTED = Path("data/augmented.parquet")
AUGMENTED_PACKS = Path("data/augmented")


@dataclass(frozen=True, kw_only=True)
class Task:
    """One video's pack to augment."""

    pack: str
    sha256: str
    seed: int
    copies: int
    recipe: AugmentationRecipe


def main() -> None:
    params = read_params()
    clips = pl.read_parquet(CLIPS)
    training = training_videos(pl.read_parquet(SPLITS), params.folds)
    sources = clips.join(training, on="video_path", how="semi", maintain_order="left")
    recipe = pick(params.augment, AugmentationRecipe)
    tasks = [
        Task(
            pack=pack, sha256=sha256, seed=params.seed, copies=params.augment.copies, recipe=recipe
        )
        for pack, sha256 in sources.select("pack", "sha256").unique(maintain_order=True).iter_rows()
        if params.augment.copies
    ]
    AUGMENTED_PACKS.mkdir(parents=True, exist_ok=True)
    made = map_processes(make_pack, tasks, workers=params.runtime.workers)
    packs = list(track(made, total=len(tasks), task="generate_augmentations"))
    table = augmented_table(sources, packs)
    with files.replacing(AUGMENTED) as path:
        table.write_parquet(path)
    print(f"generate_augmentations: {table.height} clips of {len(tasks)} training videos")


def training_videos(splits: pl.DataFrame, folds: list[int]) -> pl.DataFrame:
    """The videos that train in at least one of the cells."""
    trains = pl.any_horizontal(split_in_fold(pl.col("fold"), cell) == TRAIN for cell in folds)
    return splits.filter(trains).select("video_path")


def augmented_table(sources: pl.DataFrame, packs: list[pl.DataFrame]) -> pl.DataFrame:
    """A row an augmented clip, with its parent's path, content hash, label and group."""
    copies = pl.concat(packs) if packs else sources.clear()
    parents = sources.select("video_path", "sha256", "label", "group")
    columns = [name for name in copies.columns if name not in parents.columns]
    return parents.join(
        copies.select("sha256", *columns), on="sha256", how="inner", maintain_order="left"
    ).with_columns(copy=pl.col("clip"))


def make_pack(task: Task) -> pl.DataFrame:
    """Write the augmented copies of one video; return where they lie."""
    recipe = {
        "transform": TRANSFORM_VERSION,
        "source": task.pack,
        "seed": task.seed,
        "copies": task.copies,
        **asdict(task.recipe),
    }
    name = f"{pack_key(task.sha256, recipe)}.npy"
    (clip,) = read_pack(PACKS / task.pack)
    copies = np.stack(
        [
            augment_clip(clip, task.recipe, seed=task.seed, video_sha256=task.sha256, copy=copy)
            for copy in range(task.copies)
        ]
    )
    files.write_bytes(AUGMENTED_PACKS / name, pack_bytes(copies))
    return pack_rows(name, copies).with_columns(sha256=pl.lit(task.sha256))


if __name__ == "__main__":
    run_stage("generate_augmentations", main)
