"""A test video that comes again, encoded anew under another name and group, stays in the test."""

from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

from tests.support.clone import CELL, dvc, options, run_stage, set_params
from video.splitting.splits import TEST, TRAIN, best_rebalance
from video.synthesis.encoding import encode_video

COPY = "reposted.webm"


def frames_of(path: Path) -> Iterator[NDArray[np.uint8]]:
    """Yield the frames at three quarters of the size."""
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            smaller = {"width": frame.width * 3 // 8 * 2, "height": frame.height * 3 // 8 * 2}
            yield frame.reformat(format="rgb24", **smaller).to_ndarray()


def splits_of(root: Path) -> pl.DataFrame:
    return pl.read_parquet(root / "data/splits.parquet")


@pytest.fixture
def reposted(own: Path) -> tuple[Path, str]:
    """Add a copy of a test video to the index of a clone; return clone and video."""
    splits = splits_of(own)
    number = best_rebalance(splits, test_share=0.25, num_folds=2)
    set_params(own, {"split": {"rebalance": number}})
    original = splits.filter(
        pl.col("split") == TEST,
        ~pl.col("video_path").str.ends_with(".webm"),
        pl.col("group").is_first_distinct(),
    ).row(0, named=True)
    folder = own / "data/mine"
    frames = frames_of(folder / original["video_path"])
    encode_video(folder / COPY, frames, codec="vp9", fps=12, quality=40)
    index = pl.read_csv(folder / "index.csv", infer_schema=False)
    row = index.filter(video_path=original["video_path"]).with_columns(
        video_path=pl.lit(COPY), dup_group=pl.lit("uploads")
    )
    (folder / "index.csv").unlink()  # it may be a link into DVC's cache
    index.vstack(row).write_csv(folder / "index.csv")
    dvc("add", "data/mine", cwd=own)
    return own, original["video_path"]


def test_a_reencoded_copy_of_a_test_video_never_reaches_training(
    reposted: tuple[Path, str],
) -> None:
    root, original = reposted
    before = splits_of(root)
    known = pl.read_parquet(root / "data/inspections.parquet").height

    output = dvc("repro", "create_splits", cwd=root)

    assert f"load_data: 1 video decoded, {known} known; " in output
    splits = splits_of(root)
    roles = {
        row["video_path"]: (row["group"], row["split"])
        for row in splits.iter_rows(named=True)
        if row["video_path"] in (original, COPY)
    }
    group = roles[original][0]
    assert roles == {original: (group, TEST), COPY: (group, TEST)}
    assert splits.filter(pl.col("video_path") != COPY).equals(before)
    duplicates = pl.read_csv(root / "data/duplicates.csv")
    linked = {tuple(sorted(pair)) for pair in duplicates.select("^.*video_path$").iter_rows()}
    assert tuple(sorted((original, COPY))) in linked
    assert set(duplicates["kind"]) == {"near"}

    # Put among the training videos behind the pipeline's back, and augmented there, it is told.
    dvc("repro", "create_dataset", cwd=root)
    moved = pl.when(video_path=COPY)
    splits.with_columns(
        fold=moved.then(pl.lit(1, splits.schema["fold"])).otherwise("fold"),
        split=moved.then(pl.lit(TRAIN)).otherwise("split"),
    ).write_parquet(root / "data/splits.parquet")
    assert run_stage("generate_augmentations", cwd=root)[0] == 0
    code, output = run_stage("train", *options(CELL), cwd=root)
    assert code == 1
    assert f"test and train share the group {group}: '{original}' and '{COPY}'; run" in output

    # Under the name of another group too.
    tampered = splits_of(root).with_columns(group=moved.then(pl.lit("uploads")).otherwise("group"))
    tampered.write_parquet(root / "data/splits.parquet")
    code, output = run_stage("train", *options(CELL), cwd=root)
    assert code == 1
    assert "test and train show the same pictures: " in output
    assert f"'{original}'" in output
    assert f"'{COPY}'" in output
