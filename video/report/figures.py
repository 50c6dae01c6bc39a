"""Figures of the report: pure functions from numbers and frames to SVG text and images.

The SVGs are for inline use in an HTML page: their colors are variables of the page's style
(`--ink`, `--muted`, `--line`, `--card`, `--train`, `--val`, `--hit`, `--miss`), so that one drawing
suits a light and a dark page. The same arguments give the same bytes.
"""

import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

import cv2
import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

Image = NDArray[np.uint8]
Limits = tuple[float, float]

_FRAME_HEIGHT_PX = 128  # approximate: sharp when shown at half of it
_FRAMES_PER_LINE = 8
_GAP_PX = 2
_GAP_GRAY = 128  # seen on white and on black
_JPEG_QUALITY = 90

# matplotlib needs colors that it can parse: these are replaced by the page's in its output.
_STAND_INS = {
    "#000001": "var(--ink)",
    "#000002": "var(--muted)",
    "#000003": "var(--line)",
    "#000004": "var(--card)",
    "#000005": "var(--train)",
    "#000006": "var(--val)",
}
_MUTED, _LINE, _CARD = "#000002", "#000003", "#000004"
_COLOR_OF = {"train": "#000005", "val": "#000006"}

_LOG_SCALE_RATIO = 100.0  # beyond it, one diverging run would press all the others flat


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One quantity of one run over its epochs."""

    part: Literal["train", "val"]
    epochs: Sequence[int]
    values: Sequence[float]  # as many as epochs; NaN leaves a gap in the line
    marked_epoch: int | None  # gets a marker when it is among the epochs
    tag: str  # written inside that marker, one or two characters; "" for none


def curves_svg(curves: Sequence[Curve], *, y_limits: Limits | None, description: str) -> str:
    """Draw a line chart: train dashed, val solid, a marker on each marked epoch.

    y_limits come from `shared_limits`, so that charts side by side can be compared; the axis is
    logarithmic if their ratio is large. Without a finite value a note replaces the empty axis.
    """
    # rcdefaults: a user's own matplotlibrc must not change the bytes.
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": description})
        figure = Figure(figsize=(5.4, 2.9), layout="constrained")
        figure.patch.set_alpha(0.0)
        axes = figure.add_subplot()
        _style_axes(axes)
        for curve in curves:
            _draw_line(axes, curve)
        for curve in curves:
            _draw_best(axes, curve)
        if y_limits is None:
            axes.text(
                0.5, 0.5, "no finite value", ha="center", color=_MUTED, transform=axes.transAxes
            )
            axes.set_yticks([])
        else:
            if _wants_log(y_limits):
                axes.set_yscale("log")
            axes.set_ylim(_with_margin(y_limits))
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return _for_inline_use(text.getvalue(), description)


def shared_limits(curves: Sequence[Curve]) -> Limits | None:
    """Return the min and max of the finite values of all curves; None if there are none."""
    finite = [value for curve in curves for value in curve.values if math.isfinite(value)]
    return (min(finite), max(finite)) if finite else None


def _wants_log(limits: Limits) -> bool:
    low, high = limits
    return low > 0 and high / low > _LOG_SCALE_RATIO


def _with_margin(limits: Limits) -> Limits:
    low, high = limits
    if _wants_log(limits):
        return low / 1.3, high * 1.3
    # A run of equal values still needs an axis of some height.
    margin = 0.07 * (high - low) or max(0.05 * abs(high), 0.01)
    return low - margin, high + margin


def _style_axes(axes: Axes) -> None:
    axes.set_facecolor("none")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(_LINE)
    axes.grid(axis="y", color=_LINE, linewidth=0.8)
    axes.tick_params(colors=_MUTED, labelsize=10, length=0, pad=5, which="both")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
    axes.set_xlabel("epoch", color=_MUTED, fontsize=10)


def _draw_line(axes: Axes, curve: Curve) -> None:
    axes.plot(
        curve.epochs,
        curve.values,
        color=_COLOR_OF[curve.part],
        linestyle=(0, (4, 2)) if curve.part == "train" else "solid",
        linewidth=1.2 if curve.tag else 1.8,
        # A lone epoch, or one between two NaN, is a point: a line would not show it.
        marker="o",
        markersize=3.2 if len(curve.epochs) <= 3 or _has_gap(curve) else 0,
        zorder=3,
    )


def _has_gap(curve: Curve) -> bool:
    return not all(math.isfinite(value) for value in curve.values)


def _draw_best(axes: Axes, curve: Curve) -> None:
    at = dict(zip(curve.epochs, curve.values, strict=True))
    if curve.marked_epoch is None or not math.isfinite(at.get(curve.marked_epoch, math.nan)):
        return
    x, y = curve.marked_epoch, at[curve.marked_epoch]
    color = _COLOR_OF[curve.part]
    size = 12 if curve.tag else 8
    axes.plot(
        [x], [y], marker="o", markersize=size, color=_CARD, markeredgecolor=color,
        markeredgewidth=1.6, zorder=4, clip_on=False,
    )  # fmt: skip
    if curve.tag:
        axes.annotate(
            curve.tag, (x, y), color=color, fontsize=8, fontweight="bold", ha="center",
            va="center_baseline", zorder=5, parse_math=False, annotation_clip=False,
        )  # fmt: skip


def _for_inline_use(svg: str, description: str) -> str:
    """Turn matplotlib's SVG document into an element for a page that holds others like it."""
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    # A style element would apply to the whole page.
    body = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", body, flags=re.DOTALL)
    body = re.sub(r"<!--.*?-->", "", body, flags=re.DOTALL)
    body = body.replace("xlink:href=", "href=")
    body = re.sub(r"font-family: [^;\"]*;? ?", "", body)
    body = body.replace("<g/>", "")
    # Ids of groups repeat in every drawing; only referenced ones are needed, and these are hashes
    # of their content and the description.
    used = set(re.findall(r"(?:href=\"#|url\(#)([^\")]+)", body))
    body = re.sub(r' id="([^"]*)"', lambda m: m[0] if m[1] in used else "", body)
    for stand_in, color in _STAND_INS.items():
        body = body.replace(stand_in, color)
    box = re.search(r'viewBox="[^"]*"', body)
    if box is None:
        raise RuntimeError("matplotlib wrote an SVG without a viewBox")
    body = re.sub(r"<svg[^>]*>", _svg_tag("curves", box[0], description), body, count=1)
    return re.sub(r"\s*\n\s*", "\n", body).strip()


def _svg_tag(name: str, attributes: str, description: str) -> str:
    label = escape(description)
    return f'<svg class="{name}" {attributes} role="img" aria-label="{label}">'


def confusion_svg(
    confusion: Sequence[Sequence[int]], labels: Sequence[str], *, description: str
) -> str:
    """Draw a matrix of counts with their share of the row, which is the true class.

    The diagonal has one color and all mistakes another, with the square root of the share as
    opacity, so that small shares of mistakes are visible. With more than twelve classes the numbers
    are only in the tooltips.
    """
    num = len(labels)
    if len(confusion) != num or any(len(row) != num for row in confusion):
        shape = [len(row) for row in confusion]
        raise ValueError(f"confusion: expected {num} rows of {num} counts, got rows of {shape}")
    wide, high = (
        (118, 70) if num <= 2 else (92, 60) if num <= 4 else (62, 46) if num <= 12 else (24, 24)
    )
    names = [_shortened(label) for label in labels]
    longest_px = max((len(name) for name in names), default=0) * 7
    upright = longest_px <= wide - 4
    left = longest_px + 34
    top = 44 if upright else 32 + round(0.75 * longest_px)
    width = left + num * wide + (4 if upright else round(0.6 * longest_px))
    height = top + num * high + 4

    size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    parts = [
        _svg_tag("confusion", size, description),
        _text(left + num * wide / 2, 14, "predicted", "axis"),
        _text(12, top + num * high / 2, "true", "axis", turn=-90),
    ]
    for index, name in enumerate(names):
        x, y = left + (index + 0.5) * wide, top + (index + 0.5) * high
        if upright:
            parts.append(_text(x, top - 10, name, "label"))
        else:
            parts.append(_text(x, top - 8, name, "label start", turn=-45))
        parts.append(_text(left - 10, y + 4, name, "label end"))
    for row, counts in enumerate(confusion):
        for column, count in enumerate(counts):
            parts += _square(
                (left + column * wide, top + row * high, wide, high),
                count=count,
                total=sum(counts),
                true=labels[row],
                predicted=labels[column],
                with_numbers=num <= 12,
            )
    return "\n".join([*parts, "</svg>"])


def _square(
    place: tuple[int, int, int, int],
    *,
    count: int,
    total: int,
    true: str,
    predicted: str,
    with_numbers: bool,
) -> list[str]:
    x, y, wide, high = place
    share = count / total if total else 0.0
    percent = f"{100 * share:.1f} %" if total else "–"
    color = "hit" if true == predicted else "miss"
    tip = escape(f"true {true}, predicted {predicted}: {count} of {total} ({percent})")
    box = f'x="{x + 1}" y="{y + 1}" width="{wide - 2}" height="{high - 2}" rx="4"'
    parts = [
        f"<g><title>{tip}</title>",
        f'<rect class="cell" {box}/>',
        f'<rect {box} fill="var(--{color})" fill-opacity="{math.sqrt(share):.3f}"/>',
    ]
    if with_numbers:
        middle = x + wide / 2
        tone = "count" if count else "count none"
        parts.append(_text(middle, y + high / 2 - 1, f"{count:,}", tone))
        parts.append(_text(middle, y + high / 2 + 15, percent, "share" if count else "share none"))
    return [*parts, "</g>"]


def _text(x: float, y: float, text: str, name: str, *, turn: int = 0) -> str:
    rotation = f' transform="rotate({turn} {x:g} {y:g})"' if turn else ""
    return f'<text class="{name}" x="{x:g}" y="{y:g}"{rotation}>{escape(text)}</text>'


def _shortened(label: str, limit: int = 16) -> str:
    return label if len(label) <= limit else label[: limit - 1] + "…"


def strip_image(frames: Image) -> Image:
    """Tile frames side by side, in lines of equal length, up to eight.

    frames: uint8 RGB of shape (frames, height, width, 3), as the model saw them. Small ones are
    enlarged by a whole factor, so that pixels stay square; large ones are averaged down.
    """
    shown = _shown(_checked(frames, "frames"))
    num_lines = math.ceil(len(shown) / _FRAMES_PER_LINE)
    return _tile(shown, columns=math.ceil(len(shown) / num_lines))


def contact_sheet(clips: Sequence[Image]) -> Image:
    """Stack clips, one line of frames each: a clip and its augmented copies.

    clips: equal shapes, each as `strip_image` takes them; of more than eight frames, eight are
    shown, evenly spaced.
    """
    if not clips or len({clip.shape for clip in clips}) != 1:
        shapes = [clip.shape for clip in clips]
        raise ValueError(f"clips: expected one or more clips of equal shape, got {shapes}")
    num = min(len(_checked(clips[0], "clips[0]")), _FRAMES_PER_LINE)
    chosen = np.linspace(0, len(clips[0]) - 1, num).round().astype(int)
    rows = [_shown(_checked(clip, f"clips[{i}]")[chosen]) for i, clip in enumerate(clips)]
    return _tile(np.concatenate(rows), columns=num)


def jpeg_bytes(image: Image) -> bytes:
    """Encode uint8 RGB of shape (height, width, 3), with chroma at full resolution."""
    options = [
        cv2.IMWRITE_JPEG_QUALITY,
        _JPEG_QUALITY,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
    ]
    _, encoded = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)
    return encoded.tobytes()


def _checked(frames: Image, name: str) -> Image:
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or 0 in frames.shape:
        raise ValueError(
            f"{name}: expected uint8 of shape (frames, height, width, 3), none of them 0,"
            f" got {frames.dtype} of shape {frames.shape}"
        )
    return frames


def _shown(frames: Image) -> Image:
    height, width = frames.shape[1:3]
    factor = max(1, _FRAME_HEIGHT_PX // height)
    if factor > 1:
        return frames.repeat(factor, axis=1).repeat(factor, axis=2)
    if height <= 1.5 * _FRAME_HEIGHT_PX:
        return frames
    size = (max(1, round(width * _FRAME_HEIGHT_PX / height)), _FRAME_HEIGHT_PX)
    smaller = [cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in frames]
    return np.stack(smaller).astype(np.uint8, copy=False)


def _tile(frames: Image, *, columns: int) -> Image:
    num, height, width = frames.shape[:3]
    lines = math.ceil(num / columns)
    sheet = np.full(
        (lines * (height + _GAP_PX) - _GAP_PX, columns * (width + _GAP_PX) - _GAP_PX, 3),
        _GAP_GRAY,
        dtype=np.uint8,
    )
    for index, frame in enumerate(frames):
        y, x = (index // columns) * (height + _GAP_PX), (index % columns) * (width + _GAP_PX)
        sheet[y : y + height, x : x + width] = frame
    return sheet
