"""Segments of long files go through the data stages as videos, and stay with their file."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from tests.support.clone import copy_repository, run_stage, set_params
from tests.support.encoded import Making, write_video
from video.source.decoding import read_frames

NUM_FILES = 9
SPANS = ((0.0, 1.2), (1.2, 2.6), (2.6, 4.0))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a clone whose index names three segments of each of nine videos of 4 s."""
    root = tmp_path_factory.mktemp("segments")
    copy_repository(root)
    (root / "data/mine").mkdir()
    making = Making(suffix="mp4", fps=10, num_frames=40)
    lines = ["video_path,label,dup_group,start_sec,end_sec"]
    for number in range(NUM_FILES):
        path = write_video(root / f"data/mine/{number}", making, seed=number)
        for part, (start, end) in enumerate(SPANS):
            label = ("authentic", "tampered")[(number + part) % 2]
            lines.append(f"{path.name},{label},,{start},{end if part < 2 else ''}")
    (root / "data/mine.csv").write_text("\n".join(lines) + "\n")
    set_params(
        root,
        {
            "data": {"index": "data/mine.csv", "root": "data/mine"},
            "split": {"num_folds": 2},
            "clips": {"frames": 3, "height": 16, "width": 16, "per_video": 2},
        },
    )
    for stage in ("load_data", "create_splits", "create_dataset"):
        code, output = run_stage(stage, cwd=root)
        assert code == 0, output
        if stage == "load_data":
            assert "group 'dup_group', segments by start_sec and end_sec" in output
            assert "9 videos decoded, 0 known; 27 usable" in output
    return root


def test_segments_of_one_file_are_in_one_part(root: Path) -> None:
    splits = pl.read_parquet(root / "data/splits.parquet")

    assert splits.height == NUM_FILES * len(SPANS) == splits["sha256"].n_unique()
    files = splits.with_columns(file=pl.col("video_path").str.split("#").list.first())
    of_file = files.group_by("file").agg(pl.col("fold").n_unique(), pl.col("group").n_unique())
    assert set(of_file.select("fold", "group").rows()) == {(1, 1)}
    assert files["fold"].n_unique() == 3  # test is null


def test_packs_hold_the_frames_of_the_segments(root: Path) -> None:
    clips = pl.read_parquet(root / "data/clips.parquet")

    assert clips.height == NUM_FILES * len(SPANS) * 2
    for number in (0, NUM_FILES - 1):
        table = clips.filter(pl.col("video_path") == f"{number}.mp4#t=1.2,2.6", clip=1)
        [row] = table.iter_rows(named=True)
        packed = np.load(root / "data/clips" / row["pack"])
        # 14 frames from frame 12 on, of which the second clip takes every second of 6.
        indices = [12 + (2 * i + 1) * 14 // 12 for i in (1, 3, 5)]
        path = root / "data/mine" / f"{number}.mp4"
        frames = read_frames(path, indices, height=16, width=16, fit="letterbox", timing=None)
        assert np.array_equal(packed[1], frames.clip)


def test_a_changed_border_makes_one_other_pack(root: Path) -> None:
    """Packs are reused by their names, which are the keys of their contents."""
    before = set(pl.read_parquet(root / "data/clips.parquet")["pack"])
    index = root / "data/mine.csv"
    rows = index.read_text()
    assert rows.count("3.mp4,authentic,,1.2,2.6") == 1
    index.write_text(rows.replace("3.mp4,authentic,,1.2,2.6", "3.mp4,authentic,,1.2,2.5"))

    for stage in ("load_data", "create_dataset"):
        code, output = run_stage(stage, cwd=root)
        assert code == 0, output

    after = set(pl.read_parquet(root / "data/clips.parquet")["pack"])
    assert (len(before - after), len(after - before)) == (1, 1)


def test_a_file_changed_after_its_inspection_is_refused(root: Path) -> None:
    write_video(root / "data/mine/4", Making(suffix="mp4", fps=10, num_frames=40), seed=77)
    for pack in (root / "data/clips").iterdir():
        pack.unlink()

    code, output = run_stage("create_dataset", cwd=root)

    assert code != 0
    assert "data/mine/4.mp4: expected the content that load_data verified, got another" in output
