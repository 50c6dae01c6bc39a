"""Change one video, redo one video: packs of earlier runs are reused wherever a stage runs."""

import shutil
from pathlib import Path

import numpy as np
import polars as pl

from mlops.files import content_hash
from tests.clone import dvc
from video.encoding import encode_video

LAST = ("generate_augmentations",)
TABLES = ("data/clips.parquet", "data/augmented.parquet")


def replace_video(root: Path, seed: int) -> None:
    """Give a training video another content."""
    splits = pl.read_parquet(root / "data/splits.parquet")
    shared = splits.filter(pl.col("sha256").is_duplicated())["sha256"].to_list()
    videos = splits.filter(pl.col("split") == "train", ~pl.col("sha256").is_in(shared))
    path = root / "data/mine" / videos["video_path"][seed]
    path.unlink()
    noise = np.random.default_rng(seed)
    frames = [noise.integers(0, 256, (48, 64, 3), np.uint8) for _ in range(24)]
    codec = {".avi": "mjpeg", ".webm": "vp9"}.get(path.suffix, "h264")
    encode_video(path, frames, codec=codec, fps=12, quality=50)
    dvc("add", "data/mine", cwd=root)


def counts(root: Path) -> tuple[int, int]:
    """How many packs of videos, and of augmented copies."""
    clips, copies = (pl.read_parquet(root / table)["pack"].n_unique() for table in TABLES)
    return clips, copies


def test_one_replaced_video_is_decoded_and_augmented_alone(own: Path) -> None:
    clips, copies = counts(own)
    replace_video(own, 0)
    output = dvc("repro", *LAST, cwd=own)
    assert f"create_dataset: 1 video decoded, {clips - 1} packs reused" in output
    assert f"generate_augmentations: 1 video augmented, {copies - 1} packs reused" in output
    assert "up to date" in dvc("status", "create_dataset", cwd=own)

    # What is reused is what would be made: nothing is found in a cache that is gone.
    tables = {table: content_hash(own / table) for table in (*TABLES, "data/clips")}
    shutil.rmtree(own / ".dvc/cache")
    output = dvc("repro", "--force", "--single-item", "create_dataset", *LAST, cwd=own)
    assert f"create_dataset: {clips} videos decoded, 0 packs reused" in output
    assert {table: content_hash(own / table) for table in tables} == tables


def test_a_temporary_directory_reuses_them_too(own: Path) -> None:
    clips, copies = counts(own)
    replace_video(own, 1)
    output = dvc("exp", "run", "--temp", *LAST, cwd=own)
    assert f"create_dataset: 1 video decoded, {clips - 1} packs reused" in output
    assert f"generate_augmentations: 1 video augmented, {copies - 1} packs reused" in output


def test_a_pack_damaged_in_the_cache_is_made_again(own: Path) -> None:
    clips, _ = counts(own)
    pack = next((own / "data/clips").iterdir())
    objects = [
        path
        for path in (own / ".dvc/cache/files/md5").glob("??/*")
        if path.suffix != ".dir" and path.read_bytes() == pack.read_bytes()
    ]
    before = content_hash(own / "data/clips")
    for path in objects:
        path.chmod(0o644)
        path.write_bytes(path.read_bytes()[:-1] + b"?")
        path.chmod(0o444)
    output = dvc("repro", "--force", "--single-item", "create_dataset", cwd=own)
    assert f"create_dataset: 1 video decoded, {clips - 1} packs reused" in output
    assert content_hash(own / "data/clips") == before
