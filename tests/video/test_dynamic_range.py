"""Light of high dynamic range is shown with the values that it has in standard range."""

import hashlib
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.reformatter import ColorPrimaries, Colorspace, ColorTrc

from tests.support.clone import ROOT
from video.source import dynamic_range
from video.source.decoding import read_frames

CASES = ROOT.parent / "shared" / "cases"


def shown(path: Path) -> list[float]:
    clip = read_frames(path, [0], height=24, width=32, fit="crop", timing=None).clip
    return [float(value) for value in np.median(clip[0], axis=(0, 1))]


def encoded(path: Path, yuv: tuple[int, int, int], trc: ColorTrc, *, primaries: int = 9) -> Path:
    """Encode one picture of one color, given in 10 bits of limited range, matrix of BT.2020."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"qp": "1"})
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p10le"
        context = stream.codec_context
        context.color_trc, context.color_primaries = int(trc), primaries
        context.colorspace, context.color_range = int(Colorspace.BT2020), 1
        frame = av.VideoFrame(64, 48, "yuv420p10le")
        for plane, value in zip(frame.planes, yuv, strict=True):
            plane.update(np.full(plane.buffer_size // 2, value, "<u2").tobytes())
        frame.pts, frame.time_base = 0, Fraction(1, 10)
        container.mux([*stream.encode(frame), *stream.encode(None)])
    return path


def pq_code(light: float) -> int:
    """Return the 10-bit code of gray light in cd/m² (SMPTE ST 2084)."""
    power = (light / 10_000) ** (2610 / 16384)
    signal = (3424 / 4096 + 2413 / 128 * power) / (1 + 2392 / 128 * power)
    return round(64 + 876 * signal ** (2523 / 32))


@pytest.mark.parametrize("light", [0, 1, 20, 101.5, 203, 1000])
def test_gray_light_of_pq_has_the_value_of_a_display_of_203_candela(
    tmp_path: Path, light: float
) -> None:
    path = encoded(tmp_path / "pq.mp4", (pq_code(light), 512, 512), ColorTrc.SMPTE2084)

    assert shown(path) == pytest.approx([255 * min(1, light / 203) ** (1 / 2.4)] * 3, abs=2.5)


@pytest.mark.parametrize(("signal", "light"), [(0, 0), (0.5, 50.7), (0.75, 203), (1, 1000)])
def test_gray_light_of_hlg_has_the_value_of_a_display_of_203_candela(
    tmp_path: Path, signal: float, light: float
) -> None:
    """ITU-R BT.2408: 75 % of HLG is the reference white, 203 of 1,000 cd/m²."""
    code = round(64 + 876 * signal)
    path = encoded(tmp_path / "hlg.mp4", (code, 512, 512), ColorTrc.ARIB_STD_B67)

    assert shown(path) == pytest.approx([255 * min(1, light / 203) ** (1 / 2.4)] * 3, abs=2.5)


@pytest.mark.parametrize("color", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0)])
def test_a_color_of_bt_709_in_pq_and_bt_2020_is_that_color(
    tmp_path: Path, color: tuple[int, int, int]
) -> None:
    to_bt2020 = np.array(
        [[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]]
    )
    red, green, blue = ((pq_code(max(0, 100 * x)) - 64) / 876 for x in to_bt2020 @ color)
    luma = 0.2627 * red + 0.6780 * green + 0.0593 * blue
    chroma = ((blue - luma) / 1.8814, (red - luma) / 1.4746)
    yuv = round(64 + 876 * luma), *(round(512 + 896 * x) for x in chroma)
    path = encoded(tmp_path / "color.mp4", (yuv[0], yuv[1], yuv[2]), ColorTrc.SMPTE2084)

    light = [203 * (value / 255) ** 2.4 for value in shown(path)]
    assert light == pytest.approx([100 * x for x in color], abs=4)


def test_a_picture_of_standard_range_in_the_same_matrix_keeps_its_values(tmp_path: Path) -> None:
    yuv = (64 + 438, 512, 512)
    path = encoded(tmp_path / "sdr.mp4", yuv, ColorTrc.BT709, primaries=ColorPrimaries.BT709)

    assert shown(path) == pytest.approx([127.5] * 3, abs=1.5)


def test_the_tables_have_the_same_bytes_everywhere() -> None:
    tables = (
        dynamic_range._pq_light(),
        dynamic_range._hlg_light(),
        dynamic_range._hlg_gains(),
        dynamic_range._levels().astype(np.int64),
    )
    digest = hashlib.sha256(b"".join(table.astype("<i8").tobytes() for table in tables))

    assert digest.hexdigest() == "589dc60d0d9d54ae5dbcb046102b43b959eacd9c133e200d3bf1d473d3352ddf"


@pytest.mark.skipif(not CASES.is_dir(), reason=f"the small inputs are not at {CASES}")
def test_the_same_bars_in_pq_look_as_in_standard_range() -> None:
    clips = [
        read_frames(CASES / name, [0], height=96, width=160, fit="crop", timing=None).clip[0]
        for name in ("sdr.mp4", "hdr_pq.mp4")
    ]
    sdr, hdr = (clip.astype(int) for clip in clips)

    # The gray bar, and all of it: the colors of sdr.mp4 are tagged with another matrix than theirs.
    assert np.abs(sdr[20:50, 4:16] - hdr[20:50, 4:16]).max() <= 6
    assert np.median(np.abs(sdr - hdr)) <= 8
