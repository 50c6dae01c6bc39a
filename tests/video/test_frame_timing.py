"""Skipping frames saves time and changes no byte; where it is in doubt, it is not done."""

import csv
import pickle
import random
import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import polars as pl
import pytest

from mlops.files.atomic import content_hash
from tests.support.clone import ROOT, run_stage, set_params
from video.clips.frames import uniform_indices
from video.source.container import FrameTiming, frame_timing
from video.source.decoding import Reading, read_frames
from video.source.facts import video_table
from video.source.inspection import inspect_video

SHARED = Path(__file__).parents[3] / "shared"
TORTURE = SHARED / "torture"
SCFD = SHARED / "real/scfd"
needs_torture = pytest.mark.skipif(
    not TORTURE.is_dir(), reason="the collection of odd video files is not beside this checkout"
)

NUM_FRAMES = 60

# Suffix, encoder and its options: closed and open groups of pictures, with and without frames
# that no other refers to, key frames everywhere.
KINDS: dict[str, tuple[str, str, dict[str, str]]] = {
    "h264 b-frames": (".mp4", "libx264", {"g": "12", "bf": "3"}),
    "h264 one group": (".mp4", "libx264", {"g": "250", "bf": "2"}),
    "h264 open groups": (".mkv", "libx264", {"x264-params": "keyint=10:bframes=3:open-gop=1"}),
    "h264 transport": (".ts", "libx264", {"x264-params": "keyint=10:bframes=3:open-gop=1"}),
    "h264 refresh": (".mp4", "libx264", {"x264-params": "keyint=10:intra-refresh=1:bframes=0"}),
    "h264 fields": (".mp4", "libx264", {"flags": "+ildct+ilme", "g": "12", "bf": "2"}),
    "hevc open groups": (".mp4", "libx265", {"x265-params": "keyint=10:open-gop=1:log-level=0"}),
    "vp9": (".webm", "libvpx-vp9", {"g": "12", "deadline": "realtime", "cpu-used": "8"}),
    "mpeg4 b-frames": (".mp4", "mpeg4", {"g": "12", "bf": "2"}),
    "mpeg2": (".ts", "mpeg2video", {"g": "12", "bf": "2"}),
    "mjpeg": (".mov", "mjpeg", {}),
}


def encoded(path: Path, kind: str) -> Path:
    """Encode a moving, noisy texture, in which no frame is like another."""
    suffix, encoder, options = KINDS[kind]
    path = path.with_suffix(suffix)
    generator = np.random.default_rng(0)
    texture = np.kron(generator.integers(0, 256, (20, 30, 3), np.uint8), np.ones((8, 8, 1)))
    with av.open(str(path), "w") as container:
        stream = container.add_stream(encoder, rate=10, options=options)
        stream.height, stream.width = 64, 96
        stream.pix_fmt = "yuvj420p" if encoder == "mjpeg" else "yuv420p"
        for number in range(NUM_FRAMES):
            moved = np.roll(texture, (number, 3 * number), (0, 1))[:64, :96]
            noisy = moved + generator.normal(0, 12, moved.shape)
            picture = av.VideoFrame.from_ndarray(noisy.clip(0, 255).astype(np.uint8))
            picture.pts, picture.time_base = number, Fraction(1, 10)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return path


def timing_of(path: Path) -> FrameTiming | None:
    return frame_timing(asdict(inspect_video(path)))


def proven_timing(path: Path) -> FrameTiming:
    timing = timing_of(path)
    assert timing is not None
    return timing


def reading(path: Path, indices: Sequence[int], timing: FrameTiming | None) -> Reading:
    return read_frames(path, indices, height=40, width=48, fit="crop", timing=timing)


def assert_same_bytes(path: Path, indices: Sequence[int], timing: FrameTiming | None) -> Reading:
    """Read the frames, and check that they are those of the sequential decode."""
    skipping = reading(path, indices, timing)
    np.testing.assert_array_equal(skipping.clip, reading(path, indices, None).clip)
    return skipping


def doubt_about(path: Path, timing: FrameTiming) -> str:
    indices = uniform_indices(NUM_FRAMES, 8)
    taken = assert_same_bytes(path, indices, timing)
    # The sequential decode stops at the last frame that is wanted.
    assert taken.num_decoded == indices[-1] + 1
    return taken.doubt


# --- the same bytes ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_any_choice_of_frames_is_the_same_with_and_without_skipping(
    tmp_path: Path, kind: str
) -> None:
    path = encoded(tmp_path / "video", kind)
    timing = timing_of(path)
    generator = random.Random(kind)
    choices = [[number] for number in range(0, NUM_FRAMES - 1, 7)]
    choices += [sorted(generator.choices(range(NUM_FRAMES - 1), k=k)) for k in (2, 3, 8, 40)]

    for indices in choices:
        assert_same_bytes(path, indices, timing)


def decodable() -> list[str]:
    if not TORTURE.is_dir():
        return []
    with (TORTURE / "manifest.csv").open(encoding="utf-8", newline="") as file:
        return [row["file"] for row in csv.DictReader(file) if int(row["pyav_frames"] or 0)]


@needs_torture
@pytest.mark.parametrize("name", decodable())
def test_odd_files_give_the_same_bytes_with_and_without_skipping(name: str) -> None:
    facts = inspect_video(TORTURE / name)
    timing = frame_timing(asdict(facts))
    if timing is None:
        # Without timing there is one way of reading, and it is tested elsewhere.
        return
    last = facts.num_frames - 1
    for indices in (uniform_indices(last + 1, 16), [last // 3, last // 3, last // 2 + 1, last]):
        assert_same_bytes(TORTURE / name, sorted({min(index, last) for index in indices}), timing)


@pytest.mark.skipif(not SCFD.is_dir(), reason=f"the real clips are not at {SCFD}")
@pytest.mark.parametrize("kind", ["fight", "noFight"])
def test_real_clips_give_the_same_bytes_and_cause_no_doubt(kind: str) -> None:
    paths = sorted((SCFD / kind).iterdir())[::3]
    assert len(paths) == 50
    doubts = []
    for path in paths:
        timing = proven_timing(path)
        taken = assert_same_bytes(path, uniform_indices(len(timing.pts), 16), timing)
        doubts.append(taken.doubt)
    assert set(doubts) == {""}


# --- fewer frames ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "max_decoded"),
    [
        ("h264 b-frames", 30),
        ("h264 one group", 40),
        ("h264 open groups", 30),
        ("mpeg4 b-frames", 30),
        ("vp9", 40),
        ("mjpeg", 4),
    ],
)
def test_four_frames_of_sixty_cost_few_decoded_frames(
    tmp_path: Path, kind: str, max_decoded: int
) -> None:
    path = encoded(tmp_path / "video", kind)
    timing = proven_timing(path)

    taken = reading(path, [7, 22, 37, 52], timing)

    assert taken.doubt == ""
    assert 4 <= taken.num_decoded <= max_decoded
    assert reading(path, [7, 22, 37, 52], None).num_decoded == 53


def test_a_frame_late_in_the_file_is_decoded_from_the_key_frame_before_it(tmp_path: Path) -> None:
    path = encoded(tmp_path / "video", "h264 b-frames")
    timing = proven_timing(path)
    key = timing.pts.index(timing.key_pts[-1])
    assert key > 40

    taken = reading(path, [key], timing)

    assert (taken.doubt, taken.num_decoded) == ("", 1)


# --- doubts ------------------------------------------------------------------------------------


def test_without_timing_every_frame_is_decoded(tmp_path: Path) -> None:
    taken = reading(encoded(tmp_path / "video", "h264 b-frames"), [5, 50], None)

    assert (taken.doubt, taken.num_decoded) == ("no timing was proven", 51)


def test_a_picture_that_differs_from_the_record_is_a_doubt(tmp_path: Path) -> None:
    path = encoded(tmp_path / "video", "h264 b-frames")
    timing = proven_timing(path)
    changed = replace(timing, crc32=tuple(crc ^ 1 for crc in timing.crc32))

    assert doubt_about(path, changed) == "frame 3 has another CRC-32 than recorded"


def test_a_key_frame_that_is_none_is_a_doubt(tmp_path: Path) -> None:
    """Decoding that begins in the middle of a group gives wrong pictures under the right pts."""
    path = encoded(tmp_path / "video", "mpeg4 b-frames")
    timing = proven_timing(path)

    assert doubt_about(path, replace(timing, key_pts=timing.pts))


def test_a_recorded_pts_that_no_frame_has_is_a_doubt(tmp_path: Path) -> None:
    path = encoded(tmp_path / "video", "h264 b-frames")
    timing = proven_timing(path)
    shifted = replace(timing, pts=tuple(pts + 1 for pts in timing.pts))

    assert doubt_about(path, shifted) == "pts 0 comes after 0"


def test_a_frame_that_does_not_come_is_a_doubt(tmp_path: Path) -> None:
    path = encoded(tmp_path / "video", "h264 b-frames")
    timing = proven_timing(path)
    later = replace(timing, pts=(*timing.pts[:-1], timing.pts[-1] + 1))

    taken = assert_same_bytes(path, [40, 59], later)

    assert taken.doubt == "frame 59 does not come"


@needs_torture
def test_a_decoder_that_reads_its_options_once_gives_no_doubt() -> None:
    path = TORTURE / "torchcodec/av1_video.mkv"
    timing = proven_timing(path)

    assert assert_same_bytes(path, [50, 123], timing).doubt == ""


def test_a_record_of_another_stream_is_a_doubt(tmp_path: Path) -> None:
    path = encoded(tmp_path / "video", "h264 b-frames")

    other = replace(proven_timing(path), stream_index=1)

    assert doubt_about(path, other) == "stream 0, recorded 1"


@pytest.mark.parametrize("kept", [0, 20])
def test_a_record_that_is_too_short_is_a_doubt(tmp_path: Path, kept: int) -> None:
    path = encoded(tmp_path / "video", "h264 b-frames")
    timing = proven_timing(path)

    assert doubt_about(path, replace(timing, crc32=timing.crc32[:kept]))
    assert doubt_about(path, replace(timing, pts=timing.pts[:kept]))
    assert doubt_about(path, replace(timing, pts=timing.pts[:kept], crc32=timing.crc32[:kept]))


def test_a_record_of_another_file_is_a_doubt(tmp_path: Path) -> None:
    path = encoded(tmp_path / "one", "h264 b-frames")
    other = encoded(tmp_path / "other", "mjpeg")

    assert doubt_about(path, proven_timing(other))


def test_bytes_flipped_after_the_inspection_are_a_doubt(tmp_path: Path) -> None:
    path = encoded(tmp_path / "video", "mpeg4 b-frames")
    timing = proven_timing(path)
    content = bytearray(path.read_bytes())
    for place in range(len(content) // 4, len(content) * 3 // 4, 997):
        content[place] ^= 0xFF
    path.write_bytes(content)

    assert doubt_about(path, timing)


def test_a_frame_beyond_the_end_is_refused_as_without_timing(tmp_path: Path) -> None:
    path = encoded(tmp_path / "video", "h264 b-frames")

    with pytest.raises(ValueError, match="expected a frame 60, the video ends before it"):
        reading(path, [0, 60], proven_timing(path))


# --- what is recorded --------------------------------------------------------------------------


def test_every_frame_has_its_pts_and_key_frames_are_those_encoded(tmp_path: Path) -> None:
    facts = inspect_video(encoded(tmp_path / "video", "h264 b-frames"))

    assert facts.timing_proven
    assert (facts.stream_index, facts.num_corrupt_frames) == (0, 0)
    # B-frames: a packet may lie before those of earlier frames.
    assert facts.packet_pts != facts.frame_pts
    assert sorted(facts.packet_pts) == list(facts.frame_pts)
    step = facts.frame_pts[1]
    assert facts.frame_pts == tuple(number * (step or 0) for number in range(60))
    assert facts.key_frame_pts[0] == 0
    assert len(facts.key_frame_pts) >= 5
    assert len(set(facts.frame_crc32)) == 60


def test_gradual_refresh_offers_no_place_to_begin_but_the_first(tmp_path: Path) -> None:
    facts = inspect_video(encoded(tmp_path / "video", "h264 refresh"))

    assert facts.key_frame_pts == (0,)


@needs_torture
@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("derived/avi_no_index.avi", "packets without pts"),
        ("fate/frame_size_change.mp4", "pictures of several sizes"),
        ("fate/mpeg2_field_encoding.mp4", "two packets a frame"),
        ("fate/mov-1elist-ends-last-bframe.mp4", "an edit list hides a frame"),
        ("derived/bitflip_997.mp4", "frames flagged corrupt"),
    ],
)
def test_a_file_that_could_mislead_is_never_skipped_in(name: str, why: str) -> None:
    facts = inspect_video(TORTURE / name)

    assert facts.num_frames > 0
    assert not facts.timing_proven, why
    assert facts.frame_crc32 == ()


@needs_torture
def test_corrupt_frames_and_changes_of_size_are_counted() -> None:
    assert inspect_video(TORTURE / "fate/frame_size_change.mp4").num_size_changes == 99
    assert inspect_video(TORTURE / "derived/bitflip_997.mp4").num_corrupt_frames > 0


@needs_torture
def test_a_codec_with_false_key_frames_is_caught_by_its_pictures() -> None:
    """Its pts are in order and every packet calls itself a key frame, but few pictures are."""
    path = TORTURE / "fate/test.mp4"
    timing = proven_timing(path)

    taken = assert_same_bytes(path, uniform_indices(len(timing.pts), 16), timing)

    assert "CRC-32" in taken.doubt


def test_facts_survive_pickling_and_the_table(tmp_path: Path) -> None:
    path = encoded(tmp_path / "video", "h264 b-frames")
    facts = inspect_video(path)
    rows = pl.DataFrame({"video_path": ["a"], "label": ["x"]})

    video_table(rows, {"a": facts}, ["x"]).write_parquet(tmp_path / "videos.parquet")
    (row,) = pl.read_parquet(tmp_path / "videos.parquet").iter_rows(named=True)

    assert pickle.loads(pickle.dumps(facts)) == facts  # noqa: S301 - our own bytes
    assert frame_timing(row) == frame_timing(asdict(facts))


def test_the_columns_have_one_type_whether_or_not_a_timing_is_proven(tmp_path: Path) -> None:
    proven = inspect_video(encoded(tmp_path / "video", "h264 b-frames"))
    (tmp_path / "empty.mp4").touch()
    empty = inspect_video(tmp_path / "empty.mp4")
    rows = pl.DataFrame({"video_path": ["a"], "label": ["x"]})

    tables = [video_table(rows, {"a": facts}, ["x"]) for facts in (proven, empty)]

    assert tables[0].schema == tables[1].schema


# --- the stage ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sampled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run load_data and create_dataset on two videos in which all frames are key frames."""
    root = tmp_path_factory.mktemp("sampled")
    shutil.copy2(ROOT / "params.yaml", root)
    folder = root / "data/mine"
    folder.mkdir(parents=True)
    data = {"index": "data/mine/index.csv", "root": "data/mine"}
    set_params(root, {"data": data, "clips": {"frames": 4, "height": 40, "width": 48}})
    (folder / "index.csv").write_text(
        "video_path,label,dup_group\none.mov,authentic,\ntwo.mov,tampered,\n"
    )
    for name in ("one", "two"):
        encoded(folder / name, "mjpeg")
    with (folder / "two.mov").open("ab") as stream:
        stream.write(b"\0\0\0\x08free")  # another content with the same pictures
    for stage in ("load_data", "create_dataset"):
        code, output = run_stage(stage, cwd=root)
        assert code == 0, output
    return root


@pytest.fixture
def project(sampled: Path, tmp_path: Path) -> Path:
    return shutil.copytree(sampled, tmp_path / "project")


def clips_of(project: Path) -> list[str]:
    return pl.read_parquet(project / "data/clips.parquet")["clip_sha256"].to_list()


def rewrite(project: Path, *changes: pl.Expr) -> None:
    """Change the row of the first video in what load_data found."""
    path = project / "data/videos.parquet"
    table = pl.read_parquet(path)
    table[:1].with_columns(*changes).vstack(table[1:]).write_parquet(path)


def spoil_all_but(path: Path, kept: Sequence[int]) -> None:
    """Overwrite the packets of all other frames by what no decoder takes for a picture."""
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        places = [(packet.pos, packet.size) for packet in packets]
    content = bytearray(path.read_bytes())
    for number, (start, size) in enumerate(places):
        if number not in kept:
            content[start : start + size] = b"\xff" * size
    path.write_bytes(content)


def test_create_dataset_reads_no_frame_that_the_recorded_timing_lets_it_skip(
    project: Path,
) -> None:
    before = clips_of(project)
    path = project / "data/mine/one.mov"
    spoil_all_but(path, uniform_indices(NUM_FRAMES, 4))
    # As if load_data had found these bytes sound.
    rewrite(project, pl.lit(content_hash(path)).alias("sha256"))

    code, output = run_stage("create_dataset", cwd=project)

    assert code == 0, output
    assert clips_of(project) == before

    # Without the timing it meets them.
    rewrite(project, pl.lit(value=False).alias("timing_proven"))
    assert_names_the_video(*run_stage("create_dataset", cwd=project))


def assert_names_the_video(code: int, output: str) -> None:
    assert code == 1
    assert "create_dataset: data/mine/one.mov: expected clips of the 60 frames that " in output
    assert "Traceback" not in output


def test_create_dataset_counts_the_frames_where_the_recorded_timing_is_wrong(
    project: Path,
) -> None:
    before = clips_of(project)
    wrong = pl.col("frame_crc32").list.eval(pl.element() ^ 1)
    rewrite(project, wrong)

    code, output = run_stage("create_dataset", cwd=project)

    assert code == 0, output
    assert clips_of(project) == before

    # It did count: frames that only counting meets stop it.
    path = project / "data/mine/one.mov"
    spoil_all_but(path, uniform_indices(NUM_FRAMES, 4))
    rewrite(project, pl.lit(content_hash(path)).alias("sha256"))
    assert_names_the_video(*run_stage("create_dataset", cwd=project))
