"""Rows that name segments of files: their times, frames, names, groups and faults."""

from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tests.support.encoded import Making, write_video
from video.clips.frames import ClipRecipe, clip_frames
from video.index.rows import Columns, Rejection, accept_rows, check_rows, read_index
from video.index.segments import (
    named,
    segment_frames,
    segment_sha256,
    span_of,
    with_group_of_file,
    with_segments,
)
from video.index.table import read_table
from video.source.facts import VideoFacts, video_table
from video.source.inspection import inspect_video

LABELS = ["run", "sit"]
COLUMNS = Columns(path="video_path", label="label", group="group")
RECIPE = ClipRecipe(frames=4, height=8, width=8, fit="crop")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with one video of 10 s at 10 frames per second."""
    root = tmp_path_factory.mktemp("videos")
    write_video(root / "long", Making(suffix="mp4", fps=10, num_frames=100), seed=1)
    return root


def index_of(*rows: str) -> pl.DataFrame:
    header = "video_path,label,group,start_sec,end_sec"
    table = read_table("\n".join([header, *rows]).encode(), ["video_path"])
    return with_group_of_file(read_index(table, COLUMNS))


def used(root: Path, *rows: str, min_frames: int = 2) -> tuple[pl.DataFrame, list[Rejection]]:
    """Return the videos of these rows, as load_data keeps them, and the rejections."""
    index = index_of(*rows)
    kept, rejections = check_rows(index, root, LABELS)
    facts = {name: inspect_video(root / name) for name in kept["video_path"].unique()}
    kept, refused = accept_rows(kept, facts, ["ok"], min_frames)
    return with_segments(video_table(kept, facts, LABELS)), rejections + refused


def test_segments_are_videos_of_their_own_in_the_group_of_their_file(root: Path) -> None:
    videos, rejections = used(
        root, "long.mp4,run,,0,2.5", "long.mp4,sit,,2.5,6.0", "long.mp4,run,,6,"
    )

    assert not rejections
    told = ["video_path", "label", "group", "first_frame", "end_frame", "duration_sec"]
    assert videos.select(told).rows() == [
        ("long.mp4#t=0,2.5", "run", "long.mp4", 0, 25, 2.5),
        ("long.mp4#t=2.5,6", "sit", "long.mp4", 25, 60, 3.5),
        ("long.mp4#t=6", "run", "long.mp4", 60, 100, 4.0),
    ]
    assert videos["file_path"].unique().to_list() == ["long.mp4"]
    assert videos["sha256"].n_unique() == 3
    assert videos["file_sha256"].n_unique() == 1
    assert videos["num_frames"].to_list() == [100] * 3  # of the file


def test_clips_of_a_segment_are_those_of_a_file_that_holds_it_alone(root: Path) -> None:
    videos, _ = used(root, "long.mp4,run,,2.5,6.0")
    [segment] = videos.iter_rows(named=True)
    alone: dict[str, Any] = segment | {
        "first_frame": None,
        "num_frames": 35,
        "frame_pts": segment["frame_pts"][25:60],
        "end_pts": segment["frame_pts"][60],
    }

    for recipe in (RECIPE, replace(RECIPE, sampling="dense", fps=5.0, per_video=2)):
        expected = [[25 + frame for frame in clip] for clip in clip_frames(alone, recipe)]
        assert clip_frames(segment, recipe) == expected
        assert all(25 <= frame < 60 for clip in expected for frame in clip)


def test_a_row_without_times_names_the_whole_file(root: Path) -> None:
    videos, _ = used(root, "long.mp4,run,,,")
    [whole] = videos.iter_rows(named=True)
    facts = inspect_video(root / "long.mp4")

    assert (whole["video_path"], whole["sha256"]) == ("long.mp4", facts.sha256)
    assert clip_frames(whole, RECIPE) == clip_frames(vars(facts), RECIPE)


def test_a_table_without_the_columns_stays_as_it_is(root: Path) -> None:
    facts = {"long.mp4": inspect_video(root / "long.mp4")}
    table = read_table(b"video_path,label,group\nlong.mp4,run,\n", ["video_path"])
    index = read_index(table, COLUMNS)

    assert with_group_of_file(index) is index
    videos = video_table(index, facts, LABELS)
    assert with_segments(videos) is videos


@pytest.mark.parametrize(
    ("start", "end", "reason"),
    [
        ("x", "2", "start_sec: expected seconds from the start of the file, as 12.5, got 'x'"),
        ("-1", "2", "start_sec: expected seconds from the start of the file, as 12.5, got '-1'"),
        ("1", "nan", "end_sec: expected seconds from the start of the file, as 12.5, got 'nan'"),
        ("00:01", "inf", "got '00:01'; end_sec: expected seconds from the start of the file"),
        ("3", "3", "end_sec: expected more than start_sec, 3, got 3"),
        ("10", "", "expected a segment of the 10.00 s that the file lasts, got 10; mend its times"),
        ("4", "11.5", "expected a segment of the 10.00 s that the file lasts, got 4,11.5; mend"),
    ],
)
def test_a_segment_that_is_none_is_a_rejected_row(
    root: Path, start: str, end: str, reason: str
) -> None:
    videos, [rejection] = used(root, f"long.mp4,run,,{start},{end}", "long.mp4,run,,8,9")

    assert videos["video_path"].to_list() == ["long.mp4#t=8,9"]
    assert (rejection.row, rejection.verdict) == (1, "invalid")
    assert reason in rejection.reason


def test_an_end_in_whole_seconds_may_lie_a_second_beyond_the_end(root: Path) -> None:
    videos, rejections = used(root, "long.mp4,run,,8,11")

    assert not rejections
    told = ["video_path", "end_frame", "duration_sec", "end_sec"]
    assert videos.select(told).rows() == [("long.mp4#t=8,11", 100, 2.0, 10.0)]


def test_a_segment_of_few_frames_is_too_short(root: Path) -> None:
    videos, rejections = used(
        root, "long.mp4,run,,2,2.1", "long.mp4,sit,,3,3.8", "long.mp4,run,,5,5.7", min_frames=8
    )

    assert videos["video_path"].to_list() == ["long.mp4#t=3,3.8"]
    assert [(item.row, item.verdict) for item in rejections] == [(1, "too_short"), (3, "too_short")]
    assert rejections[0].reason == "it has 1 frame, expected at least 8"
    assert rejections[1].reason.startswith("it has 7 frames, expected at least 8")


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (["run,,0,2", "run,,0.0,2.00"], {2: ("duplicate", "row 1 names the same segment")}),
        (
            ["run,,0,2", "sit,,0,2"],
            {
                1: ("contradiction", "the label differs from row 2 of the same segment"),
                2: ("contradiction", "the label differs from row 1 of the same segment"),
            },
        ),
        (
            ["run,,0,4", "sit,,1,3", "sit,,5,7"],
            {
                1: ("contradiction", "the label differs from row 2, which overlaps it"),
                2: ("contradiction", "the label differs from row 1, which overlaps it"),
            },
        ),
        (
            ["run,,,", "sit,,1,3"],
            {
                1: ("contradiction", "the label differs from row 2, which overlaps it"),
                2: ("contradiction", "the label differs from row 1, which overlaps it"),
            },
        ),
        (["run,,0,4.2", "sit,,4,7"], {}),  # borders set by hand
        (["run,,0,4", "run,,1,3"], {}),  # one label
    ],
)
def test_rows_of_one_file(
    root: Path, rows: list[str], expected: dict[int, tuple[str, str]]
) -> None:
    _, rejections = check_rows(index_of(*(f"long.mp4,{row}" for row in rows)), root, LABELS)

    assert {item.row: (item.verdict, item.reason) for item in rejections} == expected


def test_of_a_file_without_times_only_the_whole_is_taken() -> None:
    timeless = vars(VideoFacts(verdict="ok", reason="", sha256="", size_bytes=1, num_frames=9))

    assert segment_frames(timeless, (Fraction(0), None)) == (0, 9)
    with pytest.raises(ValueError, match="expected the whole file, for it states no times"):
        segment_frames(timeless, (Fraction(1), None))
    rated = timeless | {"fps": 3.0}
    assert segment_frames(rated, (Fraction(1), Fraction(2))) == (3, 6)


def test_names_and_hashes_of_segments_are_kept() -> None:
    """Packs, splits and copies depend on these: another form is another data set."""
    span = span_of({"start_sec": "12", "end_sec": " 1234.5678 "})

    assert named("a b.mp4", span) == "a b.mp4#t=12,1234.5678"
    assert segment_sha256("ab", span) == (
        "031bd64ee40f1d98c9033ba133d5001e0bcb0c52eb65ffa4dbd3075ee27edab5"
    )
