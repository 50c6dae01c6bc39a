"""Packs of sampled frames, one per usable video; packs of earlier runs are reused."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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

PARTS_AT_ONCE = 64  # segments of a file: their clips are in memory together


@dataclass(frozen=True, kw_only=True)
class Part:
    """A video, the whole of a file or a segment of it, to decode into one pack."""

    sha256: str
    frames: list[list[int]]  # of each clip
    pack: str  # named by what makes it


@dataclass(frozen=True, kw_only=True)
class Task:
    """One file, and what is to be decoded of it in one pass."""

    path: Path
    sha256: str
    num_frames: int
    timing: FrameTiming | None
    recipe: ClipRecipe
    parts: Sequence[Part]


def main(inputs: StageInputs) -> None:
    params = read_params()
    recipe = section_as(params.clips, ClipRecipe)
    videos = pl.read_parquet(VIDEOS)
    # Exact copies share one pack.
    rows = videos.unique("sha256", maintain_order=True)
    parts = {row["sha256"]: part_of(row, recipe) for row in rows.iter_rows(named=True)}
    found = {sha256: reuse_pack(part, recipe) for sha256, part in parts.items()}
    reused = {sha256: table for sha256, table in found.items() if table is not None}
    missing = rows.filter(~pl.col("sha256").is_in(list(reused)))
    tasks = [
        make_task(batch, parts, Path(params.data.root), recipe)
        for of_file in missing.partition_by(content_column(rows), maintain_order=True)
        for batch in of_file.iter_slices(PARTS_AT_ONCE)
    ]
    made = map_tasks(make_packs, tasks, section_as(params.runtime, Executor))
    packs = pl.concat([*reused.values(), *track(made, total=len(tasks), task="create_dataset")])
    atomic.remove_half_written(PACKS)  # by a worker that was killed while others went on
    atomic.wait_until_listed(PACKS, {part.pack for part in parts.values()})
    told = videos.select("video_path", "sha256", "label", "group", "fingerprint")
    table = told.join(packs, on="sha256", how="left", maintain_order="left")
    inputs.check()
    with atomic.replacing(CLIPS) as path:
        table.write_parquet(path)
    EARLIER.clear()
    print(
        f"create_dataset: {counted(missing.height, 'video')} decoded, "
        f"{counted(len(reused), 'pack')} reused"
    )


def part_of(row: Mapping[str, Any], recipe: ClipRecipe) -> Part:
    sha256 = row["sha256"]
    return Part(sha256=sha256, frames=clip_frames(row, recipe), pack=pack_name(sha256, recipe))


def make_task(
    rows: pl.DataFrame, parts: Mapping[str, Part], root: Path, recipe: ClipRecipe
) -> Task:
    row = rows.row(0, named=True)
    return Task(
        path=root / row.get("file_path", row["video_path"]),
        sha256=row[content_column(rows)],
        num_frames=row["num_frames"],
        timing=frame_timing(row),
        recipe=recipe,
        parts=[parts[sha256] for sha256 in rows["sha256"]],
    )


def content_column(videos: pl.DataFrame) -> str:
    """Return the column with the hash of the file: segments have others of their own."""
    return "file_sha256" if "file_sha256" in videos.columns else "sha256"


def pack_name(sha256: str, recipe: ClipRecipe) -> str:
    decoding = {"decoding": DECODING_VERSION, "decoders": decoder_versions()}
    return f"{pack_key(sha256, decoding | recipe.in_effect())}.npy"


def reuse_pack(part: Part, recipe: ClipRecipe) -> pl.DataFrame | None:
    """Write the pack as an earlier run made it and return where its clips lie, if it is kept."""
    content = EARLIER.find(part.pack)
    if content is None:
        return None
    shape = (recipe.per_video, recipe.frames, recipe.height, recipe.width, 3)
    packed = parse_pack(content, shape)
    if packed is None:
        return None
    atomic.write_bytes(PACKS / part.pack, content, durable=False)
    return rows_of(part, packed)


def rows_of(part: Part, packed: NDArray[np.uint8]) -> pl.DataFrame:
    return pack_rows(part.pack, packed).with_columns(sha256=pl.lit(part.sha256))


def make_packs(task: Task) -> pl.DataFrame:
    """Write the packs of one file; return where their clips lie."""
    if atomic.content_hash(task.path) != task.sha256:
        raise PipelineError(
            f"{task.path}: expected the content that load_data verified, got another; run "
            "dvc repro, which verifies it again"
        )
    clips = read_file(task).reshape(len(task.parts), task.recipe.per_video, *task.recipe.shape, 3)
    for part, packed in zip(task.parts, clips, strict=True):
        atomic.write_bytes(PACKS / part.pack, pack_bytes(packed))
        EARLIER.keep(PACKS / part.pack)
    return pl.concat(rows_of(*pair) for pair in zip(task.parts, clips, strict=True))


def read_file(task: Task) -> NDArray[np.uint8]:
    """Sample the clips of one file; raise `PipelineError` with its path if that fails."""
    frames = [clip for part in task.parts for clip in part.frames]
    try:
        return read_clips(task.path, frames, task.recipe, task.timing)
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
