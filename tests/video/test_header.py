"""What a file says of itself is recorded with its facts, without another decode."""

from pathlib import Path

import av
import pytest

from tests.support.encoded import Making, write_video
from video.source.facts import VideoFacts
from video.source.inspection import inspect_video


def facts_of(tmp_path: Path, **making: object) -> VideoFacts:
    return inspect_video(write_video(tmp_path / "video", Making(**making), seed=0))


def test_container_profile_time_base_and_writer_are_recorded(tmp_path: Path) -> None:
    matroska, quicktime = facts_of(tmp_path), facts_of(tmp_path, suffix="mov")

    assert (matroska.container, quicktime.container) == (
        "matroska,webm",
        "mov,mp4,m4a,3gp,3g2,mj2",
    )
    assert (matroska.time_base, quicktime.time_base) == ("1/1000", "1/12800")
    assert (matroska.written_by, quicktime.written_by) == ("Lavf", "qt; qt; VideoHandler; FFMP")
    assert matroska.profile == "High"
    assert (matroska.color_tags, matroska.pixel_aspect) == ("0 2 2 2", 1.0)
    assert (matroska.interlaced, matroska.mirrored) == (False, False)


def test_sound_is_recorded_with_codec_rate_and_channels(tmp_path: Path) -> None:
    sound, silent = facts_of(tmp_path, audio_rate=44100), facts_of(tmp_path)

    assert (sound.num_streams, sound.audio_codec, sound.audio_rate) == (2, "aac", 44100)
    assert sound.audio_channels == 2
    assert (silent.num_streams, silent.audio_codec, silent.audio_rate) == (1, "", 0)


@pytest.mark.parametrize(("suffix", "encoder"), [("avi", "mpeg4"), ("ts", "libx264")])
def test_a_file_that_names_no_writer_says_nothing(
    tmp_path: Path, suffix: str, encoder: str
) -> None:
    assert facts_of(tmp_path, suffix=suffix, encoder=encoder).written_by == ""


def test_colors_are_those_of_the_stream(tmp_path: Path) -> None:
    path = tmp_path / "tagged.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        context = stream.codec_context
        context.color_range, context.colorspace = 1, 9
        context.color_primaries, context.color_trc = 9, 16
        container.mux(stream.encode(av.VideoFrame(48, 32, "yuv420p")))
        container.mux(stream.encode(None))

    assert inspect_video(path).color_tags == "1 9 9 16"
