"""Packs of sampled frames, one per usable video; packs of earlier runs are reused."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from mlops.errors import PipelineError, described
from mlops.files import atomic
from mlops.inputs import StageInputs
from mlops.params import section_as
from mlops.processes.progress import counted, track
from mlops.recorded.reuse import EarlierFiles
from mlops.stage import run_stage
from mlops.workers.pool import Executor, map_tasks
from stages.params import read_params
from stages.paths import CLIPS, PACKS, VIDEOS
from video.clips.frames import DECODING_VERSION, ClipRecipe, clip_frames
from video.clips.packs import PACK_NAME, pack_bytes, pack_key, pack_rows, parse_pack
from video.source.container import FrameTiming, decoder_versions, frame_timing
from video.source.decoding import read_clips

EARLIER = EarlierFiles("create_dataset", PACK_NAME)


@dataclass(frozen=True, kw_only=True)
class Task:
    """One video to decode into one pack, named by what makes it."""

    path: Path
    sha256: str
    num_frames: int
    frames: list[list[int]]  # of each clip
    timing: FrameTiming | None
    recipe: ClipRecipe
    pack: str


def main(inputs: StageInputs) -> None:
    params = read_params()
    recipe = section_as(params.clips, ClipRecipe)
    videos = pl.read_parquet(VIDEOS)
    tasks = [
        Task(
            path=Path(params.data.root) / row["video_path"],
            sha256=row["sha256"],
            num_frames=row["num_frames"],
            frames=clip_frames(row, recipe),
            timing=frame_timing(row),
            recipe=recipe,
            pack=pack_name(row["sha256"], recipe),
        )
        # Exact copies share one pack.
        for row in videos.unique("sha256", maintain_order=True).iter_rows(named=True)
    ]
    found = [reuse_pack(task) for task in tasks]
    missing = [task for task, rows in zip(tasks, found, strict=True) if rows is None]
    made = map_tasks(make_pack, missing, section_as(params.runtime, Executor))
    reused = [rows for rows in found if rows is not None]
    packs = pl.concat([*reused, *track(made, total=len(missing), task="create_dataset")])
    atomic.remove_half_written(PACKS)  # by a worker that was killed while others went on
    atomic.wait_until_listed(PACKS, {task.pack for task in tasks})
    told = videos.select("video_path", "sha256", "label", "group", "fingerprint")
    table = told.join(packs, on="sha256", how="left", maintain_order="left")
    inputs.check()
    with atomic.replacing(CLIPS) as path:
        table.write_parquet(path)
    EARLIER.clear()
    print(
        f"create_dataset: {counted(len(missing), 'video')} decoded, "
        f"{counted(len(reused), 'pack')} reused"
    )


def pack_name(sha256: str, recipe: ClipRecipe) -> str:
    decoding = {"decoding": DECODING_VERSION, "decoders": decoder_versions()}
    return f"{pack_key(sha256, decoding | recipe.in_effect())}.npy"


def reuse_pack(task: Task) -> pl.DataFrame | None:
    """Write the pack as an earlier run made it and return where its clips lie, if it is kept."""
    content = EARLIER.find(task.pack)
    if content is None:
        return None
    recipe = task.recipe
    shape = (recipe.per_video, recipe.frames, recipe.height, recipe.width, 3)
    packed = parse_pack(content, shape)
    if packed is None:
        return None
    atomic.write_bytes(PACKS / task.pack, content, durable=False)
    return pack_rows(task.pack, packed).with_columns(sha256=pl.lit(task.sha256))


def make_pack(task: Task) -> pl.DataFrame:
    """Write the pack of one video; return where its clips lie."""
    if atomic.content_hash(task.path) != task.sha256:
        raise PipelineError(
            f"{task.path}: expected the content that load_data verified, got another; run "
            "dvc repro, which verifies it again"
        )
    packed = read_pack(task)
    atomic.write_bytes(PACKS / task.pack, pack_bytes(packed))
    EARLIER.keep(PACKS / task.pack)
    return pack_rows(task.pack, packed).with_columns(sha256=pl.lit(task.sha256))


def read_pack(task: Task) -> NDArray[np.uint8]:
    """Sample the clips of one video; raise `PipelineError` with its path if that fails."""
    try:
        return read_clips(task.path, task.frames, task.recipe, task.timing)
    except MemoryError:
        raise  # of the machine
    except Exception as error:
        raise PipelineError(
            f"{task.path}: expected clips of the {task.num_frames} frames that load_data decoded, "
            f"got {described(error)}; take its row out of the index, and report the error, with "
            "the file"
        ) from error


if __name__ == "__main__":
    run_stage("create_dataset", main)
