"""Odd, damaged and rare files of public test suites go through the stages: each has its verdict.

The collection's manifest says what three other readers (PyAV, OpenCV and ffprobe, each in a plain
loop) make of every file.
"""

import csv
from pathlib import Path

import polars as pl
import pytest

from tests.support.clone import copy_repository, dvc, set_params

TORTURE = Path(__file__).parents[3] / "shared" / "torture"

pytestmark = pytest.mark.skipif(
    not TORTURE.is_dir(), reason="the collection of odd video files is not beside this checkout"
)

USABLE = ("ok", "truncated", "damaged")
INDEX = Path("data/index.csv")

# Files that get another verdict than `plain_verdict`, or of which the readers see different
# numbers of frames, with the verdict and why.
TOLD_APART = {
    # OpenCV's wheel has no decoder for AV1.
    "fate/av1-1-b10-23-film_grain-50.mp4": ("ok", "AV1"),
    "fate/av1-1-b8-03-sizeup.mp4": ("ok", "AV1"),
    "fate/av1-1-b8-22-svc-L2T1.mp4": ("ok", "AV1"),
    "fate/non_uniform_tiling.mp4": ("ok", "AV1"),
    "fate/switch_frame.mp4": ("ok", "AV1"),
    "mp4parse/av1-clearkey-cbcs-video.mp4": ("ok", "AV1, encrypted in a way that no reader sees"),
    "torchcodec/av1_video.mkv": ("ok", "AV1"),
    "torchcodec/testsrc2_av1_10bit.mp4": ("ok", "AV1"),
    # An empty packet stops PyAV's plain loop.
    "fate/demo.mp4": ("truncated", "cut off after 45 of 1,319 frames"),
    # ffprobe and this program go on after an error, PyAV's plain loop does not.
    "fate/displaymatrix.mp4": ("truncated", "cut off inside its last packet"),
    "fate/white_zombie_scrunch-part.mp4": ("truncated", "cut off inside its last packet"),
    "mp4parse/no_timescale.mp4": ("damaged", "an error after frame 7"),
    # It ends inside a packet of 188 bytes, which no reader says.
    "fate/mpeg2_field_encoding.mp4": ("truncated", "cut off at a round number of bytes"),
    # PyAV reads metadata strictly unless told otherwise; the manifest was made so.
    "fate/svq3_watermark.mp4": ("ok", "a title that is not UTF-8"),
    # The frames that do not come are hidden by an edit list, which the manifest does not record.
    "fate/mov_neg_first_pts_discard.mp4": ("ok", "15 of 30 frames are hidden"),
    "fate/mov_stream_shorter_than_movie.mp4": ("ok", "24 of 48 frames are hidden"),
    # 9 of the 39 slots are empty, which the manifest does not record.
    "fuzzcorpus/xvid.avi": ("ok", "the recorder dropped frames"),
    # Every frame comes, and the decoder flags some as corrupt, which the manifest does not record.
    "derived/bitflip_997.mp4": ("damaged", "flipped bytes"),
    "fate/C0023S01.mp4": ("damaged", "a slice that ends too early"),
    "fate/empty_edit_5s.mp4": ("damaged", "blocks that do not decode"),
    "fate/mov-frag-encrypted.mp4": ("damaged", "encrypted: blocks that do not decode"),
    "fate/roundup997.mp4": ("damaged", "blocks that do not decode"),
    "mediabunny/no-aud.ts": ("damaged", "blocks of its last frame do not decode"),
    # Matroska states no number of frames but a duration, of which most is missing.
    "fate/1242-small.mkv": ("truncated", "12 of some 31,900 frames"),
    "fate/rv30.mp4": ("truncated", "109 of some 40,400 frames"),
    "fate/RRSF49-short.mp4": ("truncated", "107 of some 27,400 frames"),
    "fate/direct-bff.mkv": ("truncated", "11 of some 250 frames"),
}


def manifest() -> dict[str, dict[str, str]]:
    with (TORTURE / "manifest.csv").open(encoding="utf-8", newline="") as file:
        return {row["file"]: row for row in csv.DictReader(file)}


def frames(row: dict[str, str], reader: str) -> int:
    return int(row[reader] or 0)


def plain_verdict(row: dict[str, str]) -> str:
    """Judge a file by the numbers of the manifest alone.

    The container's number of frames may be 2 or 2 % too high, as many encoders write it.
    """
    decoded, declared = frames(row, "pyav_frames"), frames(row, "pyav_declared")
    if decoded == 0:
        return "no_video" if row["ffprobe_rc"] == "0" else "unreadable"
    if declared - decoded > max(2, 0.02 * declared):
        return "truncated"
    return "damaged" if row["pyav_error"] else "ok"


def write_index(root: Path, names: list[str]) -> None:
    """Write an index of the files; those of one content have one label."""
    contents = {name: row["sha256"] for name, row in manifest().items()}
    with (root / INDEX).open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["video_path", "label", "dup_group"])
        writer.writerows([name, "ab"[int(contents[name], 16) % 2], ""] for name in names)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Load all files in a new repository; return it and the stage's output."""
    root = tmp_path_factory.mktemp("odd")
    copy_repository(root)
    (root / "data/torture").symlink_to(TORTURE)
    data = {"index": INDEX.as_posix(), "root": "data/torture", "labels": ["a", "b"]}
    accept = {
        "accept": list(USABLE),
        "min_frames": 1,
        "max_quarantined": 1.0,
        "time_limit_sec": 60.0,
    }
    set_params(root, {"data": data, "load_data": accept})
    write_index(root, list(manifest()))
    return root, dvc("repro", "load_data", cwd=root)


@pytest.fixture(scope="module")
def videos(project: tuple[Path, str]) -> pl.DataFrame:
    return pl.read_parquet(project[0] / "data/videos.parquet")


@pytest.fixture(scope="module")
def verdicts(project: tuple[Path, str], videos: pl.DataFrame) -> dict[str, str]:
    """Return the verdict of every file, from the usable videos and the quarantine."""
    quarantine = pl.read_csv(project[0] / "data/quarantine.csv")
    rows = [
        row
        for table in (videos, quarantine)
        for row in table.select("video_path", "verdict").iter_rows()
    ]
    assert len(rows) == len(dict(rows))
    return dict(rows)


def test_every_odd_file_has_a_verdict_and_none_stops_the_stage(
    project: tuple[Path, str], verdicts: dict[str, str]
) -> None:
    assert len(manifest()) == 164
    assert verdicts.keys() == manifest().keys()
    assert set(verdicts.values()) == {*USABLE, "no_video", "unreadable"}
    usable = sum(verdict in USABLE for verdict in verdicts.values())
    assert (
        f"load_data: 164 videos decoded, 0 known; {usable} usable, {164 - usable} rows in "
        "data/quarantine.csv" in project[1]
    )


def test_the_verdicts_are_those_that_other_readers_suggest(verdicts: dict[str, str]) -> None:
    expected = {name: plain_verdict(row) for name, row in manifest().items()}
    expected |= {name: verdict for name, (verdict, _) in TOLD_APART.items()}

    assert verdicts == expected


def test_every_file_that_readers_disagree_on_is_accounted_for(verdicts: dict[str, str]) -> None:
    readers = ("pyav_frames", "opencv_frames", "ffprobe_count_frames")
    disputed = {
        name
        for name, row in manifest().items()
        if len({frames(row, reader) for reader in readers}) > 1
        or verdicts[name] != plain_verdict(row)
    }

    assert disputed == TOLD_APART.keys()


def test_every_usable_odd_file_has_the_frames_and_the_content_of_the_manifest(
    videos: pl.DataFrame,
) -> None:
    rows = manifest() | {}
    rows["fate/svq3_watermark.mp4"]["pyav_frames"] = "10"  # as the two other readers count
    rows["fate/demo.mp4"]["pyav_frames"] = "45"  # as ffprobe counts
    rows["fate/displaymatrix.mp4"]["pyav_frames"] = "33"  # as ffprobe counts
    rows["fate/white_zombie_scrunch-part.mp4"]["pyav_frames"] = "65"  # as ffprobe counts
    rows["mp4parse/no_timescale.mp4"]["pyav_frames"] = "170"  # as ffprobe counts

    differing = [
        (name, num_frames)
        for name, num_frames, sha256 in videos.select(
            "video_path", "num_frames", "sha256"
        ).iter_rows()
        if (num_frames, sha256) != (frames(rows[name], "pyav_frames"), rows[name]["sha256"])
    ]

    assert videos.height > 100
    assert differing == []


@pytest.mark.parametrize(
    ("name", "verdict"),
    [
        ("derived/truncated_50pct.mp4", "unreadable"),
        ("derived/avi_truncated_50pct.avi", "truncated"),
        ("derived/bitflip_997.mp4", "damaged"),
        ("derived/trailing_garbage.mp4", "ok"),
        ("derived/mp4_noext", "ok"),
        ("derived/avi_no_index.avi", "ok"),
        ("derived/name with spaces, ünïcødé 视频 #1.mp4", "ok"),
        ("torchcodec/sine_mono_s16.wav", "no_video"),
        ("decord/flipping_a_pancake.mkv", "ok"),
    ],
)
def test_an_odd_file_gets_the_verdict_that_fits_its_story(
    verdicts: dict[str, str], name: str, verdict: str
) -> None:
    assert verdicts[name] == verdict


def test_every_usable_odd_file_gives_a_clip(
    project: tuple[Path, str], videos: pl.DataFrame
) -> None:
    root = project[0]
    contents = videos["sha256"].n_unique()

    output = dvc("repro", "create_dataset", cwd=root)

    assert f"create_dataset: {contents} videos decoded, 0 packs reused" in output
    clips = pl.read_parquet(root / "data/clips.parquet")
    assert clips["video_path"].to_list() == videos["video_path"].to_list()


def test_an_index_in_another_order_decodes_no_odd_file_again(project: tuple[Path, str]) -> None:
    root = project[0]
    before = pl.read_parquet(root / "data/videos.parquet")
    write_index(root, list(manifest())[::-1])

    output = dvc("repro", "load_data", cwd=root)

    assert "load_data: 0 videos decoded, 164 known; " in output
    after = pl.read_parquet(root / "data/videos.parquet")
    assert after.drop("row").reverse().equals(before.drop("row"))
