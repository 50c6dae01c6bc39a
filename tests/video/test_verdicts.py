"""A file that lacks frames is never ok where anything in it tells so; a sound one always is."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from tests.support.clone import ROOT
from tests.support.encoded import Making, write_video
from video.source.facts import VideoFacts
from video.source.inspection import inspect_video

CASES = ROOT.parent / "shared" / "cases"
needs_cases = pytest.mark.skipif(not CASES.is_dir(), reason=f"the small inputs are not at {CASES}")

NUM_FRAMES = 50
FPS = 25
GROUPS = {"g": "12", "bf": "2"}
FRAGMENTS = "frag_keyframe+empty_moov+default_base_moof"
HEVC = {"x265-params": "log-level=0:keyint=12"}
VP8 = {"deadline": "realtime", "cpu-used": "8"}

# Name: muxer, encoder, its options, the muxer's options, and whether the length can be known.
KINDS: dict[str, tuple[str, str, dict[str, str], dict[str, str], bool]] = {
    "h264.flv": ("flv", "libx264", GROUPS, {}, True),
    "flv1.flv": ("flv", "flv", {}, {}, True),
    "h264.ts": ("mpegts", "libx264", GROUPS, {}, False),
    "mpeg2.ts": ("mpegts", "mpeg2video", GROUPS, {}, False),
    "hevc.ts": ("mpegts", "libx265", HEVC, {}, False),
    "mpeg2.mpg": ("mpeg", "mpeg2video", GROUPS, {}, False),
    "wmv2.wmv": ("asf", "wmv2", {}, {}, True),
    "h264.asf": ("asf", "libx264", GROUPS, {}, True),
    "gif.gif": ("gif", "gif", {}, {}, True),
    "plain.mkv": ("matroska", "libx264", GROUPS, {}, True),
    "live.mkv": ("matroska", "libx264", GROUPS, {"live": "1"}, False),
    "live.webm": ("webm", "libvpx", VP8, {"live": "1"}, False),
    "fragments.mp4": ("mp4", "libx264", GROUPS, {"movflags": FRAGMENTS}, True),
    "indexed.mp4": ("mp4", "libx264", GROUPS, {"movflags": f"{FRAGMENTS}+global_sidx"}, True),
    "front.mp4": ("mp4", "libx264", GROUPS, {"movflags": "faststart"}, True),
    "raw.h264": ("h264", "libx264", GROUPS, {}, False),
    "raw.m4v": ("m4v", "mpeg4", GROUPS, {}, False),
    "raw.m2v": ("mpeg2video", "mpeg2video", GROUPS, {}, False),
    "mpeg4.avi": ("avi", "mpeg4", {}, {}, True),
    "h264.avi": ("avi", "libx264", GROUPS, {}, True),
    "vp8.ogv": ("ogg", "libvpx", VP8, {}, True),
    "vp8.ivf": ("ivf", "libvpx", VP8, {}, True),
}


def encoded(
    path: Path,
    muxer: str,
    encoder: str,
    options: dict[str, str],
    muxer_options: dict[str, str],
    *,
    times_ms: Sequence[int] | None = None,
) -> Path:
    """Encode a moving, noisy texture; at `times_ms` if given, else at FPS."""
    generator = np.random.default_rng(0)
    texture = np.kron(generator.integers(0, 256, (20, 30, 3), np.uint8), np.ones((8, 8, 1)))
    unit = Fraction(1, FPS) if times_ms is None else Fraction(1, 1000)
    with av.open(str(path), "w", format=muxer, options=muxer_options) as container:
        stream = container.add_stream(encoder, rate=FPS, options=options)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height = 96, 64
        stream.pix_fmt = "rgb8" if encoder == "gif" else "yuv420p"
        stream.bit_rate = 4_000_000
        stream.codec_context.thread_count = 1
        if times_ms is not None:
            stream.time_base = stream.codec_context.time_base = unit
        for number, pts in enumerate(times_ms or range(NUM_FRAMES)):
            moved = np.roll(texture, (number, 3 * number), (0, 1))[:64, :96]
            noisy = moved + generator.normal(0, 12, moved.shape)
            picture = av.VideoFrame.from_ndarray(noisy.clip(0, 255).astype(np.uint8))
            picture.pts, picture.time_base = pts, unit
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return path


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("whole")
    return {name: encoded(folder / name, *kind[:4]) for name, kind in KINDS.items()}


def damaged(path: Path, target: Path, begin: float, share: float, fill: str) -> VideoFacts:
    """Inspect a copy without a part of its bytes, or with zeros or noise in their place."""
    content = path.read_bytes()
    first, last = int(begin * len(content)), int((begin + share) * len(content))
    noise = np.random.default_rng(1).bytes(last - first)
    patch = {"hole": b"", "zeros": bytes(last - first), "noise": noise}[fill]
    copy = target / path.name
    copy.write_bytes(content[:first] + patch + content[last:])
    return inspect_video(copy)


# --- what is missing ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", KINDS)
def test_a_whole_file_is_ok_and_says_whether_its_length_is_known(
    whole: dict[str, Path], name: str
) -> None:
    facts = inspect_video(whole[name])

    assert (facts.verdict, facts.reason, facts.num_frames) == ("ok", "", NUM_FRAMES)
    assert facts.length_known == KINDS[name][-1]
    assert (facts.fps, facts.duration_sec) == pytest.approx((FPS, NUM_FRAMES / FPS))


@pytest.mark.parametrize("begin", [0.33, 0.52, 0.81])
@pytest.mark.parametrize("name", KINDS)
def test_a_file_cut_off_is_not_ok(
    whole: dict[str, Path], tmp_path: Path, name: str, begin: float
) -> None:
    facts = damaged(whole[name], tmp_path, begin, 1 - begin, "hole")

    assert facts.verdict != "ok", facts
    assert facts.reason
    assert facts.num_frames < NUM_FRAMES


@pytest.mark.parametrize("begin", [0.3, 0.5, 0.7])
@pytest.mark.parametrize("fill", ["hole", "zeros", "noise"])
@pytest.mark.parametrize("name", KINDS)
def test_a_file_without_a_tenth_of_its_bytes_in_the_middle_is_not_ok(
    whole: dict[str, Path], tmp_path: Path, name: str, fill: str, begin: float
) -> None:
    facts = damaged(whole[name], tmp_path, begin, 0.1, fill)

    assert facts.verdict != "ok", facts
    assert facts.reason


def test_a_cut_raw_stream_of_hevc_has_a_length_that_is_not_known(tmp_path: Path) -> None:
    path = encoded(tmp_path / "raw.hevc", "hevc", "libx265", HEVC, {})

    facts = damaged(path, tmp_path, 0.5, 0.5, "hole")

    assert (facts.verdict, facts.length_known) == ("ok", False)


def boxes(content: bytes) -> list[bytes]:
    parts = []
    while content:
        size = int.from_bytes(content[:4], "big")
        parts.append(content[:size])
        content = content[size:]
    return parts


@pytest.mark.parametrize(
    ("name", "kept", "verdict", "said"),
    [
        ("indexed.mp4", slice(0, 7), "truncated", "more are in the duration that the header"),
        ("fragments.mp4", slice(0, 6), "ok", ""),  # nothing says that there were more
    ],
)
def test_fragments_missing_at_the_end_show_in_what_the_index_says(
    whole: dict[str, Path], tmp_path: Path, name: str, kept: slice, verdict: str, said: str
) -> None:
    path = tmp_path / name
    path.write_bytes(b"".join(boxes(whole[name].read_bytes())[kept]))

    facts = inspect_video(path)

    assert facts.verdict == verdict
    assert said in facts.reason
    assert facts.length_known == (verdict != "ok")


def test_a_fragment_missing_in_the_middle_shows_in_the_numbers_of_the_others(
    whole: dict[str, Path], tmp_path: Path
) -> None:
    parts = boxes(whole["fragments.mp4"].read_bytes())
    assert [part[4:8] for part in parts[4:6]] == [b"moof", b"mdat"]
    path = tmp_path / "hole.mp4"
    path.write_bytes(b"".join(parts[:4] + parts[6:]))

    facts = inspect_video(path)

    assert (facts.verdict, facts.reason) == (
        "damaged",
        "the file has a hole: fragment 2 is missing",
    )


@pytest.mark.parametrize(
    ("box", "place", "value"),
    [
        (b"stts", 12, b"\0\0\xff\xff"),  # the duration of a frame
        (b"stts", 8, b"\0\0\0\0"),  # the number of frames that last so long
        (b"mdhd", 12, b"\0\0\0\x40"),  # the units per second of the track
        (b"mdhd", 12, b"\0\0\2\0"),
    ],
)
def test_a_damaged_table_of_times_that_hides_most_frames_is_damage(
    whole: dict[str, Path], tmp_path: Path, box: bytes, place: int, value: bytes
) -> None:
    content = whole["front.mp4"].read_bytes()
    at = content.index(box) + 4 + place
    path = tmp_path / "times.mp4"
    path.write_bytes(content[:at] + value + content[at + 4 :])

    facts = inspect_video(path)

    assert facts.verdict == "damaged"
    assert facts.num_hidden_frames > NUM_FRAMES / 2
    assert f"an edit list hides {facts.num_hidden_frames} of" in facts.reason


def test_frames_after_one_that_does_not_decode_are_counted(
    whole: dict[str, Path], tmp_path: Path
) -> None:
    path = tmp_path / "error.mp4"
    content = bytearray(whole["front.mp4"].read_bytes())
    with av.open(str(whole["front.mp4"])) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        place, size = packets[0].pos or 0, packets[0].size
    content[place : place + size] = b"\xff" * size
    path.write_bytes(content)

    facts = inspect_video(path)

    assert facts.verdict in ("truncated", "damaged")
    assert facts.num_frames >= NUM_FRAMES - 14  # from the second key frame on
    assert "Invalid data" in facts.reason


def test_a_damaged_size_that_no_memory_can_hold_is_damage(
    whole: dict[str, Path], tmp_path: Path
) -> None:
    content = bytearray(whole["vp8.ivf"].read_bytes())
    first_bytes = int.from_bytes(content[32:36], "little")
    second = 32 + 12 + first_bytes
    content[second : second + 4] = b"\xf0\xff\xff\x7f"
    path = tmp_path / "size.ivf"
    path.write_bytes(content)

    facts = inspect_video(path)

    assert facts.verdict == "truncated"
    assert facts.reason.startswith(f"{facts.num_frames} of 50 declared frames decode")


# --- what is sound -----------------------------------------------------------------------------

SCREEN_MS = [*range(0, 990, 33), *range(1990, 10_000, 1000)]
# A phone: no two frames as far apart as the two before, some left out.
PHONE_MS = np.cumsum([33, 34, 32, 33, 66, 33, 31, 35, 33, 33] * 5).tolist()
LATE_MS = [5000 + 40 * number for number in range(NUM_FRAMES)]
MUXERS = {"mkv": "matroska", "mp4": "mp4", "flv": "flv", "ts": "mpegts"}


@pytest.mark.parametrize("suffix", MUXERS)
@pytest.mark.parametrize(
    ("times_ms", "duration_sec"),
    [(SCREEN_MS, 10.0), (PHONE_MS, 1.8), (LATE_MS, 2.0)],
    ids=["screen", "phone", "late"],
)
def test_frames_at_uneven_times_or_with_a_late_start_are_sound_and_last_as_shown(
    tmp_path: Path, suffix: str, times_ms: list[int], duration_sec: float
) -> None:
    path = tmp_path / f"video.{suffix}"
    encoded(path, MUXERS[suffix], "libx264", {"bf": "0"}, {}, times_ms=times_ms)

    facts = inspect_video(path)

    assert (facts.verdict, facts.reason, facts.num_frames) == ("ok", "", len(times_ms))
    # How long the last frame is shown, not every container says.
    assert facts.duration_sec == pytest.approx(
        duration_sec, abs=0.06 if times_ms != SCREEN_MS else 1
    )
    assert facts.fps * facts.duration_sec == pytest.approx(facts.num_frames)


@pytest.mark.parametrize("suffix", ["mkv", "flv"])
def test_a_last_picture_shown_for_long_is_no_missing_end(tmp_path: Path, suffix: str) -> None:
    """Containers without durations of frames state it in the header alone."""
    source = tmp_path / "source.mp4"
    encoded(source, "mp4", "libx264", {"bf": "0"}, {}, times_ms=SCREEN_MS)
    path = tmp_path / f"video.{suffix}"
    with av.open(str(source)) as given, av.open(str(path), "w") as made:
        copy = made.add_stream_from_template(given.streams.video[0])
        packets = [packet for packet in given.demux(video=0) if packet.size]
        packets[-1].duration = round(1 / packets[-1].time_base)
        for packet in packets:
            packet.stream = copy
            made.mux(packet)

    facts = inspect_video(path)
    shorter = tmp_path / f"cut.{suffix}"
    shorter.write_bytes(path.read_bytes()[: round(0.9 * path.stat().st_size)])

    assert (facts.verdict, facts.num_frames) == ("ok", len(SCREEN_MS))
    assert inspect_video(shorter).verdict == "truncated"


def test_a_live_recording_with_sound_states_no_duration(tmp_path: Path) -> None:
    making = Making(suffix="mkv", num_frames=NUM_FRAMES, audio_rate=8000)
    with av.open(str(write_video(tmp_path / "source", making, seed=0))) as given:
        path = tmp_path / "live.mkv"
        with av.open(str(path), "w", options={"live": "1"}) as made:
            copies = [made.add_stream_from_template(stream) for stream in given.streams]
            for packet in given.demux():
                if packet.size:
                    packet.stream = copies[packet.stream.index]
                    made.mux(packet)

    facts = inspect_video(path)

    assert (facts.verdict, facts.num_frames, facts.length_known) == ("ok", NUM_FRAMES, False)


def test_sound_that_begins_late_is_read_past(tmp_path: Path) -> None:
    """FFmpeg looks for streams in the first 5 MB."""
    path = tmp_path / "late.mpg"
    generator = np.random.default_rng(0)
    with av.open(str(path), "w", format="mpeg") as container:
        options = {"qmin": "1", "qmax": "2"}
        stream = container.add_stream("mpeg2video", rate=FPS, options=options)
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        stream.bit_rate = 60_000_000
        for number in range(90):
            noise = generator.integers(0, 256, (240, 320, 3), np.uint8)
            picture = av.VideoFrame.from_ndarray(noise)
            picture.pts, picture.time_base = number, Fraction(1, FPS)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    sound = b"\0\0\1\xc0\0\x6c\x80\x80\x05\x21\0\1\0\1\xff\xfd\x10\4" + bytes(96)
    content = path.read_bytes()
    place = content.index(b"\0\0\1\xba", 5_600_000)
    path.write_bytes(content[:place] + 4 * sound + content[place:])
    with av.open(str(path)) as container:
        assert len(container.streams) == 1

    facts = inspect_video(path)

    assert (facts.verdict, facts.num_frames) == ("ok", 90)


def test_fragments_of_one_frame_each_out_of_order_are_sound(tmp_path: Path) -> None:
    movflags = "dash+frag_every_frame+empty_moov"
    path = encoded(tmp_path / "video.mp4", "mp4", "libx264", GROUPS, {"movflags": movflags})

    assert inspect_video(path).verdict == "ok"


@pytest.mark.parametrize("suffix", MUXERS)
def test_open_groups_of_pictures_are_sound(tmp_path: Path, suffix: str) -> None:
    options = {"x264-params": "keyint=10:bframes=3:open-gop=1"}
    path = encoded(tmp_path / f"video.{suffix}", MUXERS[suffix], "libx264", options, {})

    assert inspect_video(path).verdict == "ok"


def test_a_video_too_long_by_its_times_is_too_long(tmp_path: Path) -> None:
    path = encoded(
        tmp_path / "screen.mkv", "matroska", "libx264", {"bf": "0"}, {}, times_ms=SCREEN_MS
    )

    assert inspect_video(path, max_duration_sec=10.5).verdict == "ok"
    assert inspect_video(path, max_duration_sec=5).verdict == "too_long"


# --- the main track ----------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
@pytest.mark.parametrize(("frames", "side"), [(1, 64), (5, 64), (50, 16)])
def test_a_preview_before_the_video_is_not_taken_for_it(
    tmp_path: Path, suffix: str, frames: int, side: int
) -> None:
    path = tmp_path / f"video.{suffix}"
    with av.open(str(path), "w") as container:
        tracks = [
            (container.add_stream("libx264", rate=FPS), *of) for of in ((side, frames), (64, 50))
        ]
        for stream, size, _ in tracks:
            stream.width, stream.height, stream.pix_fmt = size, size, "yuv420p"
        for stream, size, count in tracks:
            for number in range(count):
                picture = av.VideoFrame.from_ndarray(np.full((size, size, 3), number, np.uint8))
                picture.pts, picture.time_base = number, Fraction(1, FPS)
                container.mux(stream.encode(picture))
            container.mux(stream.encode(None))

    facts = inspect_video(path)

    assert (facts.verdict, facts.num_frames, facts.width, facts.stream_index) == ("ok", 50, 64, 1)


# --- the right values of the small inputs ------------------------------------------------------


@needs_cases
@pytest.mark.parametrize(
    ("name", "verdict", "num_frames", "duration_sec"),
    [
        ("plain.avi", "ok", 50, 2.0),
        ("palette.mkv", "ok", 13, 0.52),
        ("bottom_up.avi", "ok", 10, 0.4),
        ("dropped_frames.avi", "ok", 40, 2.0),
        ("repeated_frames.ogv", "ok", 89, 2.0),
        ("cut_half.ts", "damaged", 23, None),
        ("hole.ts", "damaged", 43, None),
        ("fragments_cut.mp4", "truncated", 50, None),
        ("vfr_screen.mkv", "ok", 40, 10.033),
        ("preview_track_first.mp4", "ok", 50, 2.0),
        ("matrix_ycgco.mp4", "ok", 5, 0.5),
        ("no_decoder.avi", "unreadable", 0, None),
    ],
)
def test_a_small_input_has_its_right_value(
    name: str, verdict: str, num_frames: int, duration_sec: float | None
) -> None:
    facts = inspect_video(CASES / name)

    assert (facts.verdict, facts.num_frames) == (verdict, num_frames)
    if duration_sec is not None:
        assert facts.duration_sec == pytest.approx(duration_sec)
        assert facts.length_known


@needs_cases
@pytest.mark.parametrize("name", ["cut_half.ts", "hole.ts"])
def test_of_a_transport_stream_the_length_is_not_known(name: str) -> None:
    assert not inspect_video(CASES / name).length_known
