"""Sound files of rare kinds are read as such; a file that cannot be read costs its own row."""

import csv
import shutil
import struct
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

from tests.support.clone import ROOT, run_stage, set_params
from video.source.container import frame_crc32, frame_timing
from video.source.decoding import read_frames
from video.source.inspection import inspect_video
from video.synthesis.encoding import encode_video

SHARED = ROOT.parent / "shared"
# Ogg Theora of 13 slots, of which two show the frame before them again: their packets are empty.
REPEATED = ROOT / "tests/support/data/repeated.ogv"

NUM_FRAMES = 12
HEIGHT, WIDTH = 36, 40

Picture = NDArray[np.uint8]


def pictures(num_frames: int = NUM_FRAMES) -> list[Picture]:
    """Draw colored tiles, no two pictures alike; the upper left corner is white."""
    tiles = np.random.default_rng(0).integers(0, 200, (num_frames, 9, 10, 3), np.uint8)
    tiles[:, :3, :3] = 255
    return [np.kron(tile, np.ones((4, 4, 1), np.uint8)) for tile in tiles]


def encoded(path: Path) -> Path:
    """Encode a video whose packets are all key frames."""
    encode_video(path, pictures(), codec="mjpeg", fps=10, quality=90)
    return path


def video_stream(
    container: av.container.OutputContainer, encoder: str, pixel_format: str
) -> av.VideoStream:
    stream = container.add_stream(encoder, rate=10)
    assert isinstance(stream, av.VideoStream)
    stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, pixel_format
    return stream


def encode(
    container: av.container.OutputContainer, stream: av.VideoStream, frames: Sequence[av.VideoFrame]
) -> None:
    for number, frame in enumerate(frames):
        picture = frame.reformat(format=stream.pix_fmt)
        picture.pts, picture.time_base = number, Fraction(1, 10)
        container.mux(stream.encode(picture))
    container.mux(stream.encode(None))


def rgb_frames() -> list[av.VideoFrame]:
    return [av.VideoFrame.from_ndarray(picture) for picture in pictures()]


def replaced(path: Path, *changes: tuple[bytes, bytes]) -> Path:
    """Overwrite every occurrence of some bytes of a file."""
    content = path.read_bytes()
    for old, new in changes:
        assert old in content
        assert len(old) == len(new)
        content = content.replace(old, new)
    path.write_bytes(content)
    return path


def chunk(name: bytes, content: bytes) -> bytes:
    return name + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)


def write_avi(
    path: Path,
    chunks: Sequence[bytes],
    *,
    fourcc: bytes = b"MJPG",
    bits: int = 24,
    bottom_up: bool = False,
    palette: bytes = b"",
    lost: Collection[int] = (),
) -> Path:
    """Write an AVI file of one stream; an empty chunk is a picture that the recorder dropped.

    `lost` are overwritten with zeros, as on a bad disk: the index at the end still lists them.
    """
    height = HEIGHT if bottom_up or fourcc.strip(b"\0") else -HEIGHT
    sizes = (len(chunks), 0, 1, max(map(len, chunks)), WIDTH, HEIGHT)
    avih = struct.pack("<14I", 100_000, 0, 0, 0x10, *sizes, 0, 0, 0, 0)
    strh = struct.pack(
        "<4s4sIHHIIIIIIIIhhhh", b"vids", fourcc, 0, 0, 0, 0, 1, 10, 0, len(chunks), sizes[3], 0, 0,
        *(0, 0, WIDTH, HEIGHT),
    )  # fmt: skip
    colors = len(palette) // 4
    strf = struct.pack(
        "<IiiHH4sIiiII", 40, WIDTH, height, 1, bits, fourcc, sizes[3], 0, 0, colors, 0
    )
    stream = chunk(b"LIST", b"strl" + chunk(b"strh", strh) + chunk(b"strf", strf + palette))
    movi, index = b"movi", b""
    for number, content in enumerate(chunks):
        index += struct.pack("<4sIII", b"00dc", 16, len(movi), len(content))
        whole = chunk(b"00dc", content)
        movi += bytes(len(whole)) if number in lost else whole
    header = chunk(b"LIST", b"hdrl" + chunk(b"avih", avih) + stream)
    body = header + chunk(b"LIST", movi) + chunk(b"idx1", index)
    path.write_bytes(chunk(b"RIFF", b"AVI " + body))
    return path


def jpegs(folder: Path) -> list[bytes]:
    with av.open(str(encoded(folder / "jpegs.mov"))) as container:
        return [bytes(packet) for packet in container.demux(video=0) if packet.size]


def assert_read_alike(path: Path, *, doubt: str = "") -> None:
    """Check that all three decodes (full, sequential, skipping) number the frames alike."""
    facts = inspect_video(path)
    assert (facts.verdict, facts.reason) == ("ok", "")
    timing = frame_timing(asdict(facts))
    assert timing is not None
    everything = range(facts.num_frames)
    size = {"height": HEIGHT, "width": WIDTH}
    sequential = read_frames(path, everything, **size, fit="crop", timing=None).clip
    for index in everything:
        skipping = read_frames(path, [index], **size, fit="crop", timing=timing)
        assert skipping.doubt in ("", doubt.format(index))
        np.testing.assert_array_equal(skipping.clip[0], sequential[index])


def shown(path: Path, indices: Sequence[int]) -> Picture:
    return read_frames(path, indices, height=HEIGHT, width=WIDTH, fit="crop", timing=None).clip


# --- no decoder --------------------------------------------------------------------------------


def without_decoder(folder: Path) -> dict[str, str]:
    """Write files that no decoder of FFmpeg takes; return how each codec is to be named."""
    moved = {
        "unknown.mp4": (b"HIKV", "codec unknown (codec tag HIKV / 0x564B4948)"),
        "unprintable.mov": (b"\0\xff\n1", "codec unknown (codec tag [0][255][10]1 / 0x310AFF00)"),
        "evc.mp4": (b"evc1", "codec evc (codec tag evc1 / 0x31637665)"),
        "avs3.mp4": (b"avs3", "codec avs3 (codec tag avs3 / 0x33737661)"),
    }
    for name, (tag, _) in moved.items():
        replaced(encoded(folder / name), (b"jpeg", tag))
    write_avi(folder / "camera.avi", jpegs(folder), fourcc=b"HIKV")
    matroska(folder / "unknown.mkv", [b"\0" * 9] * 3, b"V_HIKVISION")
    matroska(folder / "vfw.mkv", [b"\0" * 9] * 3, b"V_MS/VFW/FOURCC", b"HIKV")
    return {name: text for name, (_, text) in moved.items()} | {
        "camera.avi": "codec unknown (codec tag HIKV / 0x564B4948)",
        "unknown.mkv": "codec unknown;",
        "vfw.mkv": "codec unknown (codec tag HIKV / 0x564B4948)",
    }


def matroska(path: Path, blocks: Sequence[bytes], codec: bytes, fourcc: bytes = b"") -> Path:
    """Write a Matroska file of one video track."""

    def element(name: str, content: bytes) -> bytes:
        return bytes.fromhex(name) + struct.pack(">Q", len(content) | 1 << 56) + content

    bitmap = struct.pack("<IiiHH4sIiiII", 40, WIDTH, HEIGHT, 1, 24, fourcc, 0, 0, 0, 0, 0)
    head = element("4286", b"\1") + element("4282", b"matroska") + element("4287", b"\4")
    pixels = element("B0", bytes([WIDTH])) + element("BA", bytes([HEIGHT]))
    track = element("D7", b"\1") + element("73C5", b"\1") + element("83", b"\1")
    track += element("86", codec) + element("E0", pixels)
    track += element("63A2", bitmap) if fourcc else b""
    cluster = element("E7", b"\0")
    for number, content in enumerate(blocks):
        cluster += element("A3", b"\x81" + struct.pack(">hB", 100 * number, 0x80) + content)
    segment = element("1654AE6B", element("AE", track)) + element("1F43B675", cluster)
    path.write_bytes(element("1A45DFA3", head) + element("18538067", segment))
    return path


def test_files_without_a_decoder_cost_their_own_rows(tmp_path: Path) -> None:
    videos = tmp_path / "data/mine"
    videos.mkdir(parents=True)
    expected = without_decoder(videos)
    rows = dict.fromkeys(expected, "authentic") | two_good(videos)

    verdicts = loaded(tmp_path, rows)

    assert verdicts.keys() == rows.keys()
    for name, codec in expected.items():
        verdict, reason = verdicts[name]
        assert verdict == "unreadable"
        assert codec in reason
    assert {verdicts[name] for name in two_good(videos)} == {("ok", "")}


def two_good(folder: Path) -> dict[str, str]:
    """Write two good videos, one of each class; return their labels."""
    encoded(folder / "good.mov")
    encode_video(folder / "better.mp4", pictures(), codec="h264", fps=10, quality=90)
    return {"good.mov": "authentic", "better.mp4": "tampered"}


def loaded(
    root: Path, rows: dict[str, str], videos: str = "data/mine"
) -> dict[str, tuple[str, str]]:
    """Run load_data on files below `videos`; the verdict on each, with the reason."""
    shutil.copy2(ROOT / "params.yaml", root)
    data = {"index": "data/index.csv", "root": videos}
    accept = {"min_frames": 1, "max_quarantined": 1.0, "accept": ["ok", "truncated", "damaged"]}
    set_params(root, {"data": data, "load_data": accept})
    with (root / "data/index.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["video_path", "label", "dup_group"])
        writer.writerows([name, label, ""] for name, label in rows.items())
    code, output = run_stage("load_data", cwd=root)
    assert code == 0, output
    tables = (
        pl.read_parquet(root / "data/videos.parquet"),
        pl.read_csv(root / "data/quarantine.csv"),
    )
    told = [
        row
        for table in tables
        for row in table.select("video_path", "verdict", "reason").iter_rows()
    ]
    assert len(told) == len(rows)
    return {name: (verdict, reason) for name, verdict, reason in told}


def test_a_track_without_a_decoder_does_not_hide_the_one_that_has_one(tmp_path: Path) -> None:
    path = tmp_path / "two.mov"
    with av.open(str(path), "w") as container:
        streams = [
            video_stream(container, "png", "rgb24"),
            video_stream(container, "mpeg4", "yuv420p"),
        ]
        for stream in streams:
            encode(container, stream, rgb_frames())

    facts = inspect_video(replaced(path, (b"png ", b"HIKV")))

    assert (facts.verdict, facts.codec, facts.num_frames) == ("ok", "mpeg4", NUM_FRAMES)


# --- pixel formats -----------------------------------------------------------------------------


def software_formats() -> Iterator[str]:
    for name in sorted(av.video.format.names):
        try:
            av.VideoFrame(64, HEIGHT, name)
        except av.FFmpegError:
            continue  # pictures in the memory of some hardware
        yield name


def filled(name: str, width: int, padding: int, changed: int | None = None) -> av.VideoFrame:
    """Return a picture of random bytes; `padding` fills the ends of the rows.

    changed: the plane whose last byte of the top row is another.
    """
    frame = av.VideoFrame(width, HEIGHT, name)
    # Of 256 pixels, rows have no padding in any format.
    full = [plane.line_size for plane in av.VideoFrame(256, HEIGHT, name).planes]
    for number, plane in enumerate(frame.planes):
        row_bytes = full[number] * width // 256 or plane.buffer_size
        stride = plane.line_size or row_bytes
        shape = (plane.buffer_size // stride, row_bytes)
        rows = np.random.default_rng(number).integers(0, 256, shape, np.uint8)
        if number == changed:
            rows[0, -1] ^= 0xFF
        whole = np.full((len(rows), stride), padding, np.uint8)
        whole[:, :row_bytes] = rows
        plane.update(whole.tobytes())
    return frame


# The fourth byte of a pixel means nothing in these; the CRC of their rows covers three quarters.
UNUSED_BYTES = {"0bgr", "0rgb", "bgr0", "rgb0", "vuyx", "xv36be", "xv36le", "xv48be", "xv48le"}


def test_the_crc_covers_the_pixels_of_every_format_and_nothing_else() -> None:
    formats = list(software_formats())
    assert len(formats) > 200
    for name in formats:
        crcs = {frame_crc32(filled(name, 40, padding)) for padding in (0, 255)}
        assert len(crcs) == 1, name
        num_planes = len(filled(name, 40, 0).planes)
        for plane in range(num_planes if name not in UNUSED_BYTES else 0):
            assert frame_crc32(filled(name, 40, 0, changed=plane)) not in crcs, (name, plane)


def test_the_crc_of_ordinary_frames_stays() -> None:
    """Timings of earlier runs hold while video.source.facts.INSPECTION_VERSION is the same."""
    names = ["yuv420p", "yuvj420p", "nv12", "gray", "rgb24", "bgra", "yuv420p10le", "yuv444p"]
    assert [f"{frame_crc32(filled(name, 40, 0)):08x}" for name in names] == [
        *("56c2166a", "1650550d", "a0fde5e0", "e2f12920"),
        *("afcd0709", "401980e0", "2feb75c5", "36ee11bd"),
    ]


def raw(path: Path, pixel_format: str) -> Path:
    """Write uncompressed pictures, as they are in memory."""
    with av.open(str(path), "w") as container:
        encode(container, video_stream(container, "rawvideo", pixel_format), rgb_frames())
    return path


@pytest.mark.parametrize(
    "pixel_format",
    ["gray", "gray10le", "ya8", "nv12", "yuv420p10le", "yuva420p", "yuyv422", "rgb24", "rgba",
     "bgr0", "gbrp", "rgb48le", "rgb565le", "rgb8", "monow", "monob"],
)  # fmt: skip
def test_a_video_of_any_pixel_format_is_ok(tmp_path: Path, pixel_format: str) -> None:
    path = raw(tmp_path / "raw.nut", pixel_format)

    assert inspect_video(path).pixel_format == pixel_format
    assert_read_alike(path)


def paletted(number: int, palette: int = 0) -> av.VideoFrame:
    """Return a picture of 256 random colors."""
    generator = np.random.default_rng([number, palette])
    frame = av.VideoFrame(WIDTH, HEIGHT, "pal8")
    indices = np.random.default_rng(number).integers(0, 256, frame.planes[0].buffer_size, np.uint8)
    frame.planes[0].update(indices.tobytes())
    colors = generator.integers(0, 256, (256, 4), np.uint8)
    colors[:, 3] = 255
    frame.planes[1].update(colors.tobytes())
    return frame


def test_a_video_of_palettes_is_ok(tmp_path: Path) -> None:
    path = tmp_path / "palette.mov"
    with av.open(str(path), "w") as container:
        stream = video_stream(container, "png", "pal8")
        encode(container, stream, [paletted(number) for number in range(NUM_FRAMES)])

    facts = inspect_video(path)

    assert (facts.pixel_format, facts.num_frames) == ("pal8", NUM_FRAMES)
    assert_read_alike(path)
    # The same indices into other colors are another picture.
    assert frame_crc32(paletted(0)) != frame_crc32(paletted(0, palette=1))


def stored(picture: Picture, bits: int, *, bottom_up: bool) -> bytes:
    """Return the rows of a picture as an uncompressed AVI file stores them."""
    red, green, blue = np.moveaxis(picture.astype(np.uint16), -1, 0)
    pixels = {
        8: green.astype(np.uint8)[..., np.newaxis],
        16: (red >> 3 << 10 | green >> 3 << 5 | blue >> 3).astype("<u2").view(np.uint8),
        24: picture[..., ::-1],
        32: np.dstack([picture[..., ::-1], np.full((HEIGHT, WIDTH), 255, np.uint8)]),
    }[bits]
    rows = pixels.reshape(HEIGHT, -1)
    return (rows[::-1] if bottom_up else rows).tobytes()


@pytest.mark.parametrize("bits", [8, 16, 24, 32])
def test_a_bottom_up_avi_is_ok_and_the_right_way_up(tmp_path: Path, bits: int) -> None:
    palette = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 4, 1)
    palette[:, 3] = 0
    paths = [
        write_avi(
            tmp_path / f"{bottom_up}.avi",
            [stored(picture, bits, bottom_up=bottom_up) for picture in pictures()],
            fourcc=bytes(4),
            bits=bits,
            bottom_up=bottom_up,
            palette=palette.tobytes() if bits == 8 else b"",
        )
        for bottom_up in (False, True)
    ]
    with av.open(str(paths[1])) as container:
        assert next(container.decode(video=0)).planes[0].line_size < 0

    top_down, bottom_up = map(inspect_video, paths)

    assert (bottom_up.verdict, bottom_up.num_frames) == ("ok", NUM_FRAMES)
    # The palette comes with the first packet, and is missed by what begins at another one.
    lacking = "frame {} has another CRC-32 than recorded" if bits == 8 else ""
    assert_read_alike(paths[1], doubt=lacking)
    assert bottom_up.frame_crc32 == top_down.frame_crc32
    assert bottom_up.fingerprint == top_down.fingerprint
    np.testing.assert_array_equal(*(shown(path, range(NUM_FRAMES)) for path in paths))
    assert shown(paths[1], [0])[0, :6, :6].min() > 240


def retagged(source: Path, target: Path, matrix: int) -> Path:
    """Write the same pictures, with another matrix_coefficients."""
    with av.open(str(source)) as given, av.open(str(target), "w") as made:
        (stream,) = given.streams.video
        copy = made.add_stream_from_template(stream)
        tag = av.BitStreamFilterContext(f"h264_metadata=matrix_coefficients={matrix}", stream)
        for packet in given.demux(stream):
            for tagged in tag.filter(packet if packet.size else None):
                tagged.stream = copy
                made.mux(tagged)
    return target


@pytest.mark.parametrize("matrix", [8, *range(10, 18)])
def test_a_color_matrix_that_cannot_be_converted_is_read_as_bt_601_and_said(
    tmp_path: Path, matrix: int
) -> None:
    source = tmp_path / "untagged.ts"
    with av.open(str(source), "w") as container:
        encode(container, video_stream(container, "libx264", "yuv420p"), rgb_frames())
    paths = [retagged(source, tmp_path / f"{number}.ts", number) for number in (matrix, 6)]

    facts = inspect_video(paths[0])

    said = f"matrix_coefficients {matrix} cannot be converted; the colours are read as BT.601"
    assert (facts.verdict, facts.reason, facts.num_frames) == ("ok", said, NUM_FRAMES)
    assert facts.fingerprint == inspect_video(paths[1]).fingerprint
    np.testing.assert_array_equal(*(shown(path, range(NUM_FRAMES)) for path in paths))


# --- variable rate -----------------------------------------------------------------------------


def test_the_stages_sample_a_screen_recording_by_time(tmp_path: Path) -> None:
    """Of 30 frames in the first second and one a second up to 10 s, the gray tells the number."""
    videos = tmp_path / "data/mine"
    videos.mkdir(parents=True)
    times_ms = [*(round(1000 * number / 30) for number in range(30)), *range(1000, 10_001, 1000)]
    with av.open(str(videos / "screen.mkv"), "w") as container:
        stream = video_stream(container, "ffv1", "gray")
        stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        for number, pts in enumerate(times_ms):
            gray = np.full((HEIGHT, WIDTH), 5 * number, np.uint8)
            frame = av.VideoFrame.from_ndarray(gray, format="gray")
            frame.pts, frame.time_base = pts, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert loaded(tmp_path, {"screen.mkv": "authentic"} | two_good(videos))["screen.mkv"][0] == "ok"

    code, output = run_stage("create_dataset", cwd=tmp_path)

    assert code == 0, output
    clips = pl.read_parquet(tmp_path / "data/clips.parquet")
    name = clips.filter(pl.col("video_path") == "screen.mkv")["pack"].item()
    centers = np.load(tmp_path / "data/clips" / name)[0, :, 32, 32, 0]
    shown_ms = [times_ms[gray // 5] for gray in centers.tolist()]
    # At 1/16, 3/16, … of 10.0 s and the time of the last frame.
    assert shown_ms == [600, 1000, 3000, 4000, 5000, 6000, 8000, 9000]


# --- errors of the program ---------------------------------------------------------------------


def test_an_error_of_the_program_is_not_the_files_and_is_tried_again(tmp_path: Path) -> None:
    """Pictures that decode, in a format that swscale cannot convert: the fingerprint fails."""
    videos = tmp_path / "data/mine"
    videos.mkdir(parents=True)
    raw(videos / "odd.nut", "rgb4")
    rows = {"odd.nut": "authentic"} | two_good(videos)

    verdict, reason = loaded(tmp_path, rows)["odd.nut"]

    assert verdict == "internal_error"
    assert "Operation not supported (line " in reason
    assert " of video/source/fingerprint.py); an error of this program, not of the file" in reason

    # As a run leaves it that fails after its last video.
    unfinished = tmp_path / "runs/.load_data"
    unfinished.mkdir(parents=True)
    shutil.copy2(tmp_path / "data/inspections.parquet", unfinished)
    code, output = run_stage("load_data", cwd=tmp_path)
    assert code == 0, output
    assert "load_data: 1 video decoded, 2 known; " in output


# --- empty packets -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "dropped",
    [{2}, {3, 4, 5, 6, 7}, {0, 1, 2, 3}, {7, 8, 9, 10, 11}, set(range(1, 12, 2))],
    ids=["one", "a burst", "the first", "the last", "every other"],
)
def test_frames_that_a_recorder_dropped_are_not_missed(tmp_path: Path, dropped: set[int]) -> None:
    whole = jpegs(tmp_path)
    kept = [number for number in range(NUM_FRAMES) if number not in dropped]
    chunks = [content if number in kept else b"" for number, content in enumerate(whole)]
    path = write_avi(tmp_path / "dropped.avi", chunks)

    facts = inspect_video(path)

    assert (facts.verdict, facts.num_frames) == ("ok", len(kept))
    first = (facts.frame_pts[0] or 0) - kept[0]
    assert facts.frame_pts == tuple(number + first for number in kept)
    assert_read_alike(path)
    np.testing.assert_array_equal(
        shown(path, range(len(kept))), shown(tmp_path / "jpegs.mov", kept)
    )


def test_frames_lost_beside_dropped_ones_are_missed(tmp_path: Path) -> None:
    chunks = [content if number % 3 else b"" for number, content in enumerate(jpegs(tmp_path))]
    paths = [
        write_avi(tmp_path / "hole.avi", chunks, lost=range(5, 9)),
        write_avi(tmp_path / "cut.avi", chunks),
        write_avi(tmp_path / "recorder_stopped.avi", chunks),
    ]
    # After one picture, which is all that FFmpeg's own index then has.
    content = paths[1].read_bytes()
    paths[1].write_bytes(content[: content.index(chunks[2])])
    paths[2].write_bytes(content[:4] + bytes(4) + content[8 : content.index(chunks[2])])

    assert {path.stem: inspect_video(path).verdict for path in paths} == {
        "hole": "truncated",
        "cut": "truncated",
        "recorder_stopped": "truncated",
    }


def test_frames_that_theora_repeats_are_read_once(tmp_path: Path) -> None:
    with av.open(str(REPEATED)) as container:
        sizes = [packet.size for packet in container.demux(video=0)][:-1]
    assert sizes.count(0) == 2

    facts = inspect_video(REPEATED)

    assert (facts.verdict, facts.num_frames) == ("ok", len(sizes) - 2)
    assert facts.frame_pts == tuple(number for number, size in enumerate(sizes) if size)
    assert_read_alike(REPEATED)


def test_empty_samples_of_a_mov_are_read_past(tmp_path: Path) -> None:
    path = encoded(tmp_path / "video.mov")
    content = bytearray(path.read_bytes())
    place = content.index(b"stsz") + 16
    sizes = struct.unpack_from(f">{NUM_FRAMES}I", content, place)
    # The samples lie one behind the other: one takes in the bytes of the next, which is left empty.
    for number in (4, 8):
        joined = sizes[number - 1] + sizes[number]
        struct.pack_into(">2I", content, place + 4 * (number - 1), joined, 0)
    path.write_bytes(content)

    assert inspect_video(path).num_frames == NUM_FRAMES - 2
    assert_read_alike(path)


def not_coded(number: int) -> bytes:
    """Return an MPEG-4 picture "not coded" of a video with 10 frames a second."""
    bits = f"01{'1' * (number % 10 == 0)}01{number % 10:04b}10"
    bits += "0" + "1" * (-len(bits) % 8 - 1)
    return b"\0\0\1\xb6" + int(bits, 2).to_bytes(len(bits) // 8, "big")


def test_pictures_that_mpeg4_does_not_code_are_not_missed(tmp_path: Path) -> None:
    encode_video(tmp_path / "whole.avi", pictures(), codec="mpeg4", fps=10, quality=90)
    with av.open(str(tmp_path / "whole.avi")) as container:
        whole = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    chunks = [
        not_coded(number) if number % 3 == 1 else content for number, content in enumerate(whole)
    ]
    path = write_avi(tmp_path / "video.avi", chunks, fourcc=b"FMP4")

    facts = inspect_video(path)

    assert (facts.verdict, facts.reason, facts.num_frames) == ("ok", "", 8)
    assert shown(path, range(8)).shape == (8, HEIGHT, WIDTH, 3)
    # Whatever else is missing counts.
    last = write_avi(tmp_path / "lost.avi", chunks, fourcc=b"FMP4", lost=range(6, 12))
    assert inspect_video(last).verdict == "truncated"


# --- all of them -------------------------------------------------------------------------------

# Of the files of shared/cases, verdict and frames.
RIGHT = {
    "no_decoder.avi": ("unreadable", 0),
    "palette.mkv": ("ok", 13),
    "bottom_up.avi": ("ok", 10),
    "dropped_frames.avi": ("ok", 40),
    "repeated_frames.ogv": ("ok", 89),
    "plain.avi": ("ok", 50),
    "base.mp4": ("ok", 10),
    "matrix_plain.mp4": ("ok", 5),
    "matrix_ycgco.mp4": ("ok", 5),
}


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"the odd video files are not at {SHARED}")
def test_one_run_reads_all_odd_files_and_none_is_an_error_of_the_program(tmp_path: Path) -> None:
    with (SHARED / "torture/manifest.csv").open(encoding="utf-8", newline="") as file:
        contents = {f"torture/{row['file']}": row["sha256"] for row in csv.DictReader(file)}
    assert len(contents) == 164
    cases = [path for path in sorted((SHARED / "cases").iterdir()) if path.suffix != ".md"]
    names = {f"cases/{path.name}": "authentic" for path in cases} | {
        name: ("authentic", "tampered")[int(sha256, 16) % 2] for name, sha256 in contents.items()
    }
    (tmp_path / "data").mkdir()

    verdicts = loaded(tmp_path, names, videos=SHARED.as_posix())

    assert verdicts.keys() == names.keys()
    assert {verdict for verdict, _ in verdicts.values()} == {
        *("ok", "truncated", "damaged", "no_video", "unreadable")
    }
    videos = pl.read_parquet(tmp_path / "data/videos.parquet")
    frames = dict(videos.select("video_path", "num_frames").iter_rows())
    for name, right in RIGHT.items():
        path = f"cases/{name}"
        assert (verdicts[path][0], frames.get(path, 0)) == right
    assert "HIKV" in verdicts["cases/no_decoder.avi"][1]
    assert "BT.601" in verdicts["cases/matrix_ycgco.mp4"][1]
