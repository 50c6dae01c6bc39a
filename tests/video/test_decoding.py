"""Real video files: exact frames, upright pictures, a verdict for every file."""

import struct
import wave
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from av.video.reformatter import Interpolation
from numpy.typing import NDArray

from video.source.container import decoder_versions
from video.source.decoding import read_frames
from video.source.inspection import inspect_video
from video.synthesis.encoding import CodecName, encode_video

TORTURE = Path(__file__).parents[3] / "shared" / "torture"
needs_torture = pytest.mark.skipif(
    not TORTURE.is_dir(), reason="the collection of odd video files is not beside this checkout"
)

Picture = NDArray[np.uint8]
CODECS: list[CodecName] = ["h264", "mpeg4", "vp9", "mjpeg"]
NUM_FRAMES = 20
STEP = 10  # brightness from one frame to the next, more than any codec blurs


def gray_frames(
    num_frames: int = NUM_FRAMES, *, height: int = 48, width: int = 64
) -> list[Picture]:
    """Draw frames of even brightness, 20 + 10 i for frame i."""
    return [
        np.full((height, width, 3), 20 + STEP * number, np.uint8) for number in range(num_frames)
    ]


def noisy_frames(num_frames: int = 60) -> list[Picture]:
    """Draw frames that no codec can shrink to nothing, so that cutting bytes cuts frames."""
    generator = np.random.default_rng(0)
    tiles = generator.integers(0, 256, (num_frames, 6, 8, 3), dtype=np.uint8)
    return [np.kron(tile, np.ones((8, 8, 1), np.uint8)) for tile in tiles]


def write(path: Path, frames: Sequence[Picture], codec: CodecName = "h264") -> Path:
    encode_video(path, frames, codec=codec, fps=10, quality=90)
    return path


def remuxed(
    source: Path, target: Path, *, rotation: int = 0, hidden_sec: int = 0, **options: str
) -> Path:
    """Remux with the index at the front, a display matrix, or a start that is hidden."""
    with av.open(str(source)) as given, av.open(str(target), "w", options=options) as made:
        (stream,) = given.streams.video
        copy = made.add_stream_from_template(stream)
        if rotation:
            copy.set_display_rotation(rotation)
        for packet in given.demux(stream):
            if packet.dts is not None and packet.pts is not None:
                hidden = int(hidden_sec / packet.time_base)
                packet.pts, packet.dts = packet.pts - hidden, packet.dts - hidden
                packet.stream = copy
                made.mux(packet)
    return target


def cut(path: Path, share: float) -> Path:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    return path


def numbers_of(clip: Picture) -> list[int]:
    """Return the numbers of the frames of `gray_frames` that a clip shows."""
    return [round((float(picture.mean()) - 20) / STEP) for picture in clip]


def bars(picture: Picture) -> tuple[int, int, int, int]:
    """Count black rows above and below, black columns left and right."""
    rows, columns = picture.max((1, 2)) > 0, picture.max((0, 2)) > 0
    return (
        int(rows.argmax()),
        int(rows[::-1].argmax()),
        int(columns.argmax()),
        int(columns[::-1].argmax()),
    )


# --- frames ------------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", CODECS)
def test_the_frames_read_are_the_frames_asked_for(tmp_path: Path, codec: CodecName) -> None:
    path = write(tmp_path / "video", gray_frames(), codec)

    clip = read_frames(
        path, [0, 1, 7, 12, 19], height=24, width=32, fit="letterbox", timing=None
    ).clip

    assert numbers_of(clip) == [0, 1, 7, 12, 19]


@needs_torture
@pytest.mark.parametrize(
    ("name", "height"), [("mediabunny/cursed-vfr.mp4", 44), ("mediabunny/edts.mp4", 54)]
)
def test_indices_count_decoded_frames_whatever_the_timestamps_say(name: str, height: int) -> None:
    with av.open(str(TORTURE / name)) as container:
        decoded = [
            frame.reformat(
                width=96,
                height=height,
                format="rgb24",
                src_colorspace="ITU709",
                interpolation=Interpolation.AREA
                | Interpolation.ACCURATE_RND
                | Interpolation.BITEXACT
                | Interpolation.FULL_CHR_H_INT,
            ).to_ndarray()
            for frame in container.decode(video=0)
        ]
    indices = list(range(0, len(decoded), 5))

    clip = read_frames(
        TORTURE / name, indices, height=height, width=96, fit="letterbox", timing=None
    ).clip

    np.testing.assert_array_equal(clip, np.stack([decoded[index] for index in indices]))


def test_an_index_asked_for_twice_gives_the_frame_twice(tmp_path: Path) -> None:
    path = write(tmp_path / "video.mp4", gray_frames(3))

    clip = read_frames(
        path, [0, 1, 1, 1, 2, 2], height=24, width=32, fit="letterbox", timing=None
    ).clip

    assert numbers_of(clip) == [0, 1, 1, 1, 2, 2]


def test_an_index_beyond_the_end_is_refused_with_its_number(tmp_path: Path) -> None:
    path = write(tmp_path / "video.mp4", gray_frames(3))

    with pytest.raises(ValueError, match=r"video\.mp4: expected a frame 3, the video ends before"):
        read_frames(path, [0, 3], height=24, width=32, fit="letterbox", timing=None)


def test_frames_of_a_file_without_pictures_are_refused(tmp_path: Path) -> None:
    path = write_silence(tmp_path / "sound.wav")

    with pytest.raises(ValueError, match=r"sound\.wav: expected a video stream, found none"):
        read_frames(path, [0], height=24, width=32, fit="letterbox", timing=None)


@pytest.mark.parametrize("codec", CODECS)
def test_the_same_file_gives_the_same_bytes_twice(tmp_path: Path, codec: CodecName) -> None:
    path = write(tmp_path / "video", noisy_frames(5), codec)

    first, second = (
        read_frames(path, [0, 2, 4], height=31, width=45, fit="letterbox", timing=None).clip
        for _ in range(2)
    )

    assert first.tobytes() == second.tobytes()


def test_colors_come_in_the_order_red_green_blue(tmp_path: Path) -> None:
    red = np.zeros((48, 64, 3), np.uint8)
    red[..., 0] = 200
    path = write(tmp_path / "video.mp4", [red] * 2)

    picture = read_frames(path, [1], height=24, width=32, fit="letterbox", timing=None).clip[0]

    assert np.abs(picture.astype(int) - [200, 0, 0]).max() <= 6


@needs_torture
@pytest.mark.parametrize("name", ["bt601_full_range.mp4", "bt709_full_range.mp4"])
def test_colors_follow_the_matrix_and_range_that_the_file_names(name: str) -> None:
    """Against ITU-R BT.601 and BT.709 written out in float64, for full-range 8-bit pictures."""
    path = TORTURE / "torchcodec" / name
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
    red_weight, blue_weight = (0.299, 0.114) if "601" in name else (0.2126, 0.0722)
    planes = frame.to_ndarray().astype(np.float64)
    quarter = (frame.height // 4, frame.width)
    luma = planes[: frame.height]
    cb, cr = (
        plane.reshape(frame.height // 2, frame.width // 2).repeat(2, 0).repeat(2, 1) - 128
        for plane in (
            planes[frame.height : frame.height + quarter[0]],
            planes[frame.height + quarter[0] :],
        )
    )
    red = luma + 2 * (1 - red_weight) * cr
    blue = luma + 2 * (1 - blue_weight) * cb
    green = (luma - red_weight * red - blue_weight * blue) / (1 - red_weight - blue_weight)
    expected = np.stack([red, green, blue], -1).clip(0, 255)

    clip = read_frames(
        path, [0], height=frame.height, width=frame.width, fit="crop", timing=None
    ).clip

    # The median, since at edges of color readers differ in how they spread the chroma.
    assert np.median(np.abs(clip[0] - expected)) < 1.0


@pytest.mark.parametrize("encoder", ["libx264", "libx265", "libvpx-vp9"])
@pytest.mark.parametrize(("color_range", "gray"), [(0, 214.2), (1, 214.2), (2, 200.0)])
def test_the_range_is_the_one_of_the_tag_also_where_the_pixel_format_names_none(
    tmp_path: Path, encoder: str, color_range: int, gray: float
) -> None:
    path = tmp_path / "video.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream(encoder, rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.color_range = color_range
        frame = av.VideoFrame(64, 48, "yuv420p")
        for plane, value in zip(frame.planes, (200, 128, 128), strict=True):
            plane.update(bytes([value]) * plane.buffer_size)
        frame.pts, frame.time_base = 0, Fraction(1, 10)
        container.mux([*stream.encode(frame), *stream.encode(None)])

    clip = read_frames(path, [0], height=24, width=32, fit="crop", timing=None).clip

    assert np.median(clip) == pytest.approx(gray, abs=1.5)


# --- geometry ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "target", "expected"),
    [
        ((48, 64), (64, 64), (8, 8, 0, 0)),  # landscape: bars above and below
        ((64, 48), (64, 64), (0, 0, 8, 8)),  # portrait: bars left and right
        ((48, 64), (24, 32), (0, 0, 0, 0)),  # the same shape: none
        ((48, 64), (33, 32), (4, 5, 0, 0)),  # an odd row goes below
        ((64, 48), (32, 33), (0, 0, 4, 5)),  # and an odd column right
        ((16, 640), (32, 32), (15, 16, 0, 0)),  # a strip keeps at least a row
    ],
)
def test_letterbox_keeps_the_whole_picture_between_centerd_bars(
    tmp_path: Path,
    source: tuple[int, int],
    target: tuple[int, int],
    expected: tuple[int, int, int, int],
) -> None:
    path = write(tmp_path / "video.mp4", [np.full((*source, 3), 200, np.uint8)])

    clip = read_frames(
        path, [0], height=target[0], width=target[1], fit="letterbox", timing=None
    ).clip

    assert bars(clip[0]) == expected


@pytest.mark.parametrize(("height", "width"), [(48, 64), (64, 48)])
def test_crop_cuts_what_sticks_out_on_two_sides_equally(
    tmp_path: Path, height: int, width: int
) -> None:
    frame = np.full((height, width, 3), 200, np.uint8)
    edge = 8  # of 64 pixels, 48 fit
    if width > height:
        frame[:, :edge] = frame[:, -edge:] = 0
    else:
        frame[:edge] = frame[-edge:] = 0
    path = write(tmp_path / "video.mp4", [frame])

    clip = read_frames(path, [0], height=48, width=48, fit="crop", timing=None).clip

    assert clip[0][2:-2, 2:-2].min() > 150


@pytest.mark.parametrize(("height", "width"), [(47, 31), (31, 47), (1, 1), (112, 112)])
def test_crop_fills_every_size_without_a_bar(tmp_path: Path, height: int, width: int) -> None:
    path = write(tmp_path / "video.mp4", [np.full((48, 64, 3), 200, np.uint8)])

    clip = read_frames(path, [0], height=height, width=width, fit="crop", timing=None).clip

    assert clip.shape == (1, height, width, 3)
    assert clip.min() > 150


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_a_rotated_video_is_read_upright(tmp_path: Path, rotation: int) -> None:
    frame = np.full((48, 64, 3), 40, np.uint8)
    frame[:24, :32] = 220  # one bright corner
    plain = write(tmp_path / "plain.mp4", [frame])
    turned = remuxed(plain, tmp_path / "turned.mp4", rotation=rotation)

    expected = np.rot90(
        read_frames(plain, [0], height=48, width=48, fit="letterbox", timing=None).clip[0],
        rotation // 90,
    )

    shown = read_frames(turned, [0], height=48, width=48, fit="letterbox", timing=None).clip[0]
    assert inspect_video(turned).rotation == rotation
    assert np.abs(shown.astype(int) - expected).max() <= 2


@needs_torture
@pytest.mark.parametrize(
    "name", ["torchcodec/nasa_13013_rotated.mp4", "decord/video_90.mov", "fate/displaymatrix.mp4"]
)
def test_a_rotated_video_looks_as_in_a_player(name: str) -> None:
    """OpenCV, like players, applies the display matrix; of the shape of pixels it knows nothing."""
    capture = cv2.VideoCapture(str(TORTURE / name))
    read, shown = capture.read()
    capture.release()
    assert read
    with av.open(str(TORTURE / name)) as container:
        aspect = float(container.streams.video[0].sample_aspect_ratio or 1)
    turned = inspect_video(TORTURE / name).rotation % 180 != 0
    across, down = (1.0, aspect) if turned else (aspect, 1.0)
    height, width = (round(n * f / 4) for n, f in zip(shown.shape[:2], (down, across), strict=True))
    shown = cv2.resize(shown[..., ::-1], (width, height), interpolation=cv2.INTER_AREA)

    clip = read_frames(
        TORTURE / name, [0], height=height, width=width, fit="crop", timing=None
    ).clip

    assert np.abs(clip[0].astype(int) - shown).mean() < 4


@pytest.mark.parametrize("turn", [0, 90, 180, 270])
@pytest.mark.parametrize("flip", ["hflip", "vflip"])
def test_a_mirrored_video_looks_as_in_a_player(tmp_path: Path, turn: int, flip: str) -> None:
    """The display matrix turns the picture, then mirrors it."""
    plain, shown = tmp_path / "plain.mp4", tmp_path / "shown.mp4"
    picture = np.zeros((48, 48, 3), np.uint8)
    picture[4:20, 8:44] = 200
    encode_video(plain, [picture] * 3, codec="h264", fps=10, quality=90)
    with av.open(str(plain)) as given, av.open(str(shown), "w") as made:
        copy = made.add_stream_from_template(given.streams.video[0])
        copy.set_display_rotation(turn, **{flip: True})
        for packet in given.demux(video=0):
            if packet.dts is not None:
                packet.stream = copy
                made.mux(packet)
    stored, mirrored = (
        read_frames(path, [1], height=48, width=48, fit="letterbox", timing=None).clip[0]
        for path in (plain, shown)
    )

    expected = np.rot90(stored, turn // 90)
    expected = expected[:, ::-1] if flip == "hflip" else expected[::-1]
    assert np.abs(mirrored.astype(int) - expected).max() <= 2


@pytest.mark.parametrize("suffix", ["avi", "mkv", "mov"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_that_exif_states_is_followed(
    tmp_path: Path, suffix: str, orientation: int
) -> None:
    """OpenCV's reader of JPEG files follows it, too."""
    picture = np.full((48, 64, 3), 40, np.uint8)
    picture[4:14, 6:50], picture[30:44, 8:16] = (220, 60, 60), (60, 220, 60)
    jpeg = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()
    entry = struct.pack(">HHHIHHI", 1, 0x112, 3, 1, orientation, 0, 0)
    exif = b"Exif\0\0MM\0*\0\0\0\x08" + entry
    jpeg = jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + jpeg[2:]
    path = tmp_path / f"video.{suffix}"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        packet = av.Packet(jpeg)
        packet.stream, packet.pts, packet.dts, packet.time_base = stream, 0, 0, Fraction(1, 10)
        container.mux(packet)
    expected = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    height, width = expected.shape[:2]

    clip = read_frames(path, [0], height=height, width=width, fit="crop", timing=None).clip

    assert inspect_video(path).verdict == "ok"
    assert np.abs(clip[0].astype(int) - expected).mean() < 2


@pytest.mark.parametrize("turn", [0, 90])
def test_pixels_that_are_no_squares_are_shown_in_their_shape(tmp_path: Path, turn: int) -> None:
    """A bright square of a display of 4:3, stored in pixels twice as wide as they are high."""
    stored = np.zeros((96, 64, 3), np.uint8)
    stored[24:72, 20:44] = 255
    plain, shown = tmp_path / "plain.mp4", tmp_path / "shown.mp4"
    encode_video(plain, [stored] * 3, codec="h264", fps=10, quality=90)
    with av.open(str(plain)) as given, av.open(str(shown), "w") as made:
        copy = made.add_stream_from_template(given.streams.video[0])
        copy.sample_aspect_ratio = Fraction(2)
        copy.set_display_rotation(turn)
        for packet in given.demux(video=0):
            if packet.dts is not None:
                packet.stream = copy
                made.mux(packet)

    height, width = (128, 96) if turn else (96, 128)
    reading = read_frames(shown, [0], height=height, width=width, fit="letterbox", timing=None)

    bright = reading.clip[0].astype(int).sum(axis=2) > 380
    assert abs(bright.any(axis=1).sum() - 48) <= 2
    assert abs(bright.any(axis=0).sum() - 48) <= 2


# --- verdicts ----------------------------------------------------------------------------------


def write_silence(path: Path) -> Path:
    with wave.open(str(path), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(bytes(8000))
    return path


@pytest.mark.parametrize("codec", CODECS)
def test_a_good_file_is_ok_with_exact_facts(tmp_path: Path, codec: CodecName) -> None:
    path = write(tmp_path / "video", gray_frames(13), codec)

    facts = inspect_video(path)

    assert (facts.verdict, facts.reason) == ("ok", "")
    assert (facts.num_frames, facts.width, facts.height, facts.fps) == (13, 64, 48, 10.0)
    assert facts.duration_sec == pytest.approx(1.3)
    assert facts.size_bytes == path.stat().st_size


INVALID = "no video file: Invalid data found when processing input"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (b"hello, this is no video\n" * 50, "no video file: Invalid data"),
        (
            b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
            f"{INVALID}; it is a web page, as a failed download leaves it: fetch it again",
        ),
        (
            b"version https://git-lfs.github.com/spec/v1\n",
            f"{INVALID}; it is a pointer of git-lfs: run git lfs pull",
        ),
        (
            b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + b"\0\0\4\0mdat" + b"\x01" * 300,
            f"{INVALID}; it is cut off, its table of contents is missing: copy it again",
        ),
    ],
    ids=["empty", "text", "html", "lfs pointer", "cut off"],
)
def test_a_file_that_is_no_video_is_unreadable(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "video.mp4"
    path.write_bytes(content)

    facts = inspect_video(path)

    assert facts.verdict == "unreadable"
    assert facts.reason.startswith(reason)


def test_a_list_of_other_files_is_unreadable(tmp_path: Path) -> None:
    write(tmp_path / "real.mp4", gray_frames(3))
    path = tmp_path / "list.mp4"
    path.write_text("ffconcat version 1.0\nfile real.mp4\n")

    facts = inspect_video(path)

    assert (facts.verdict, facts.reason) == (
        "unreadable",
        "a list of other files; name those in the index",
    )


def test_a_file_of_sound_alone_has_no_video(tmp_path: Path) -> None:
    facts = inspect_video(write_silence(tmp_path / "sound.mp4"))

    assert (facts.verdict, facts.reason) == ("no_video", "the file holds no video stream")


def test_the_cover_picture_of_a_sound_file_is_no_video(tmp_path: Path) -> None:
    path = tmp_path / "song.mp4"
    with av.open(str(path), "w") as container:
        sound = container.add_stream("aac", rate=8000)
        cover = container.add_stream("mjpeg")
        cover.width, cover.height, cover.pix_fmt = 64, 48, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        picture = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 200, np.uint8))
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        silence.sample_rate = 8000
        for stream, frame in ((cover, picture), (sound, silence)):
            container.mux([*stream.encode(frame), *stream.encode(None)])
    with av.open(str(path)) as container:
        assert len(container.streams.video) == 1

    facts = inspect_video(path)

    assert (facts.verdict, facts.reason) == ("no_video", "the file holds no video stream")


def test_an_mp4_cut_off_before_its_index_is_unreadable(tmp_path: Path) -> None:
    path = cut(write(tmp_path / "video.mp4", noisy_frames()), 0.5)

    assert inspect_video(path).verdict == "unreadable"


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_an_mp4_with_its_index_in_front_is_truncated_where_it_is_cut(
    tmp_path: Path, share: float
) -> None:
    plain = write(tmp_path / "plain.mp4", noisy_frames())
    path = cut(remuxed(plain, tmp_path / "video.mp4", movflags="faststart"), share)

    facts = inspect_video(path)

    assert facts.verdict == "truncated"
    assert facts.reason.startswith(f"{facts.num_frames} of 60 declared frames decode")


def test_frames_that_an_edit_list_hides_are_not_missed(tmp_path: Path) -> None:
    plain = write(tmp_path / "plain.mp4", noisy_frames())
    options = {"movflags": "faststart", "avoid_negative_ts": "disabled"}
    path = remuxed(plain, tmp_path / "video.mp4", hidden_sec=1, **options)

    whole, rest = inspect_video(path), inspect_video(cut(path, 0.6))

    assert (whole.verdict, whole.num_frames, whole.declared_frames) == ("ok", 50, 60)
    assert rest.verdict == "truncated"
    assert rest.reason.startswith(f"{rest.num_frames} of 50 declared frames decode")


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_an_avi_cut_off_is_truncated(tmp_path: Path, share: float) -> None:
    path = cut(write(tmp_path / "video.avi", noisy_frames(), "mpeg4"), share)

    facts = inspect_video(path)

    assert facts.verdict == "truncated"
    assert facts.num_frames < 60


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_webm_cut_off_is_truncated_although_it_states_no_number_of_frames(
    tmp_path: Path, share: float
) -> None:
    path = cut(write(tmp_path / "video.webm", noisy_frames(), "vp9"), share)

    facts = inspect_video(path)

    assert facts.declared_frames == 0
    assert facts.verdict == "truncated"
    assert facts.reason.startswith(f"{facts.num_frames} frames decode, about ")


def test_flipped_bytes_in_an_avi_are_damage(tmp_path: Path) -> None:
    path = write(tmp_path / "video.avi", noisy_frames(), "mpeg4")
    content = bytearray(path.read_bytes())
    for place in range(10_000, len(content) - 4_000, 997):
        content[place] ^= 0xFF
    path.write_bytes(content)

    assert inspect_video(path).verdict == "damaged"


def test_a_file_is_named_by_its_bytes_even_if_it_is_no_video(tmp_path: Path) -> None:
    path = tmp_path / "video.mp4"
    path.write_bytes(b"abc")

    # The SHA-256 of "abc", from FIPS 180-2.
    assert inspect_video(path).sha256 == (
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )


def test_the_versions_name_everything_that_decides_on_pixels() -> None:
    versions = decoder_versions()

    assert set(versions) == {"av", "libavcodec", "libavformat", "libswscale"}
    assert versions["av"] == av.__version__
