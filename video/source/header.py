"""Metadata of a file beside its pictures: container, colors, sound, the program that wrote it.

No decision of the pipeline depends on it. The metadata baseline learns from it, so that a class
that a file's making gives away is noticed.
"""

from collections.abc import Mapping
from typing import Any

import av

from video.source.container import is_mirrored, pixel_aspect

# Of the container, then of the stream. Not the time of recording, which no two videos share.
_WRITERS = ("major_brand", "compatible_brands", "encoder", "software", "handler_name", "vendor_id")


def header_facts(
    container: av.container.InputContainer,
    stream: av.VideoStream,
    frame: av.VideoFrame | None,
) -> dict[str, Any]:
    """Return the fields of `VideoFacts` from `container` on; `frame` is the first one."""
    contexts: list[Any] = [of.codec_context for of in container.streams.audio]
    audio = next((context for context in contexts if context is not None), None)
    return {
        "container": container.format.name,
        "profile": stream.codec_context.profile or "",
        "color_tags": _color_tags(stream.codec_context),
        "interlaced": frame is not None and frame.interlaced_frame,
        "mirrored": frame is not None and is_mirrored(frame),
        "pixel_aspect": float(pixel_aspect(stream)),
        "time_base": str(stream.time_base),
        "written_by": "; ".join([*_values(container.metadata), *_values(stream.metadata)]),
        "num_streams": len(container.streams),
        "audio_codec": audio.name if audio else "",
        "audio_rate": audio.sample_rate or 0 if audio else 0,
        "audio_channels": audio.layout.nb_channels if audio else 0,
    }


def _color_tags(context: av.VideoCodecContext) -> str:
    """Return range, matrix, primaries and transfer by FFmpeg's numbers."""
    tags = (context.color_range, context.colorspace, context.color_primaries, context.color_trc)
    return " ".join(str(int(tag)) for tag in tags)


def _values(tags: Mapping[str, str]) -> list[str]:
    found = {name.lower(): value for name, value in tags.items()}
    return [found[name].strip() for name in _WRITERS if name in found]
