"""Copies that the near-duplicate search finds, and unrelated videos that it links.

    python -m benchmarks.near_duplicates INDEX [--videos 20]

INDEX is a CSV with the columns video_path (relative to it) and group, of real videos. Of one video
of each group a copy of every kind is made (H.264, at most 400 pixels wide) and compared with its
original; the originals are compared with each other; and so are drawn videos whose pictures are
mostly flat. Prints the tables of docs/defending_a_score.md.
"""

import argparse
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import polars as pl
from numpy.typing import NDArray

from mlops.processes.progress import track
from mlops.stage import run_command
from video.source.inspection import inspect_video
from video.splitting.duplicates import near_duplicates
from video.synthesis.encoding import encode_video

DISTANCE = 0.2  # split.near_duplicate_distance of params.yaml
MAX_WIDTH = 400
NUM_FLAT = 40

Picture = NDArray[Any]  # uint8 of shape (height, width, 3)
Words = Sequence[int]


def main() -> None:
    arguments = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    arguments.add_argument("index", type=Path)
    arguments.add_argument("--videos", type=int, default=20)
    options = arguments.parse_args()
    index = pl.read_csv(options.index)
    paths = [options.index.parent / name for name in index["video_path"]]
    words = [
        inspect_video(path).fingerprint
        for path in track(paths, total=len(paths), task="inspection")
    ]
    report_false_links(words, index["group"].to_list())
    firsts = index.with_row_index().group_by("group", maintain_order=True).first()
    chosen = firsts["index"].to_list()[: options.videos]
    report_copies([paths[i] for i in chosen], [words[i] for i in chosen])
    report_flat()


def report_false_links(words: Sequence[Words], groups: Sequence[str]) -> None:
    pairs = near_duplicates(words, max_distance=0.3)
    apart = [pair.distance for pair in pairs if groups[pair.first] != groups[pair.second]]
    count = sum(one != other for number, one in enumerate(groups) for other in groups[number + 1 :])
    print(
        f"pairs of different groups: {count:,}, linked {sum(d <= DISTANCE for d in apart)}, "
        f"closest {min(apart, default=1.0):.3f}"
    )


def report_copies(paths: Sequence[Path], originals: Sequence[Words]) -> None:
    print(f"| copy | found of {len(paths)} | mostly through |\n| --- | --- | --- |")
    decoded = [frames_of(path) for path in paths]
    for name, change in COPIES.items():
        shown: Counter[str] = Counter()
        for (frames, fps), original in zip(decoded, originals, strict=True):
            copy = fingerprint([change(frame) for frame in frames], fps)
            found = near_duplicates([original, copy], max_distance=DISTANCE)
            shown.update(pair.shown.removesuffix(" of one") for pair in found)
        ((mostly, _),) = shown.most_common(1) or [("", 0)]
        print(f"| {name} | {shown.total()} | {mostly} |", flush=True)


def report_flat() -> None:
    print(f"| pictures | linked of {NUM_FLAT * (NUM_FLAT - 1) // 2} pairs | copies found |")
    print("| --- | --- | --- |")
    for name, draw in FLAT.items():
        generator = np.random.default_rng(0)
        videos = [draw(generator) for _ in range(NUM_FLAT)]
        originals = [fingerprint(frames, 10) for frames in videos]
        copies = [fingerprint(frames, 10, quality=20) for frames in videos]
        links = near_duplicates(originals, max_distance=DISTANCE)
        found = sum(
            bool(near_duplicates(pair, max_distance=DISTANCE))
            for pair in zip(originals, copies, strict=True)
        )
        print(f"| {name} | {len(links)} | {found} of {NUM_FLAT} |", flush=True)


def fingerprint(frames: Sequence[Picture], fps: float, *, quality: int = 50) -> Words:
    even = [frame[: frame.shape[0] // 2 * 2, : frame.shape[1] // 2 * 2] for frame in frames]
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "copy.mp4"
        pictures = [np.ascontiguousarray(frame) for frame in even]
        encode_video(path, pictures, codec="h264", fps=max(1, round(fps)), quality=quality)
        return inspect_video(path).fingerprint


def frames_of(path: Path) -> tuple[list[Picture], float]:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
        fps = float(stream.average_rate or 25)
    scale = min(1.0, MAX_WIDTH / frames[0].shape[1])
    size = [round(side * scale) // 2 * 2 for side in frames[0].shape[1::-1]]
    return [cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in frames], fps


# Copies


def cropped(share: float, down: float = 0.5, right: float = 0.5) -> Callable[[Picture], Picture]:
    """Cut a part out of the picture, at the top left for 0 and at the bottom right for 1."""

    def change(frame: Picture) -> Picture:
        height, width = (round(side * share) for side in frame.shape[:2])
        top = round((frame.shape[0] - height) * down)
        left = round((frame.shape[1] - width) * right)
        return frame[top : top + height, left : left + width]

    return change


def bordered(share: float, *color: int) -> Callable[[Picture], Picture]:
    def change(frame: Picture) -> Picture:
        rows, columns = (round(side * share) for side in frame.shape[:2])
        sides = (rows, rows, columns, columns)
        return cv2.copyMakeBorder(frame, *sides, cv2.BORDER_CONSTANT, value=color)

    return change


def turned(angle_deg: float, zoom: float = 1.0) -> Callable[[Picture], Picture]:
    def change(frame: Picture) -> Picture:
        height, width = frame.shape[:2]
        matrix = cv2.getRotationMatrix2D((width / 2, height / 2), angle_deg, zoom)
        return cv2.warpAffine(frame, matrix, (width, height))

    return change


def boxed(frame: Picture) -> Picture:
    rows = round(0.15 * frame.shape[0])
    return cv2.copyMakeBorder(frame, rows, rows, 0, 0, cv2.BORDER_CONSTANT)


def with_logo(frame: Picture) -> Picture:
    picture = boxed(frame)
    place = (picture.shape[1] - 110, picture.shape[0] - 8)
    return cv2.putText(picture, "LOGO", place, cv2.FONT_HERSHEY_SIMPLEX, 1.0, (235,) * 3, 2)


def with_banner(frame: Picture) -> Picture:
    picture = frame.copy()
    picture[-frame.shape[0] // 4 :] = 255
    place = (10, picture.shape[0] - 15)
    return cv2.putText(picture, "NEWS", place, cv2.FONT_HERSHEY_SIMPLEX, 1.0, (200, 0, 0), 2)


def blurred_frame(aspect: float, down: float = 0.5) -> Callable[[Picture], Picture]:
    """Fill a screen of this aspect ratio with the picture itself, blurred and enlarged."""

    def change(frame: Picture) -> Picture:
        height, width = frame.shape[:2]
        screen = (max(height, round(width / aspect)), max(width, round(height * aspect)))
        back = cv2.GaussianBlur(cv2.resize(frame, screen[::-1]), (0, 0), 20)
        top, left = round((screen[0] - height) * down), (screen[1] - width) // 2
        back[top : top + height, left : left + width] = frame
        return back

    return change


def shifted(right: float, down: float) -> Callable[[Picture], Picture]:
    def change(frame: Picture) -> Picture:
        height, width = frame.shape[:2]
        matrix = np.array([[1, 0, right * width], [0, 1, down * height]], np.float32)
        return cv2.warpAffine(frame, matrix, (width, height))

    return change


def filmed(frame: Picture) -> Picture:
    """Show the picture on a screen that is filmed from the side."""
    height, width = frame.shape[:2]
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    seen = corners * [0.8, 0.8] + np.array(
        [[0.12, 0.10], [0.06, 0.14], [0.08, 0.06], [0.10, 0.12]], np.float32
    ) * [width, height]
    matrix = cv2.getPerspectiveTransform(corners, seen.astype(np.float32))
    return cv2.warpPerspective(frame, matrix, (width, height), borderValue=(60, 60, 60))


def equalized(frame: Picture) -> Picture:
    lab = cv2.cvtColor(frame, cv2.COLOR_RGB2LAB)
    lab[..., 0] = cv2.createCLAHE(2.0, (8, 8)).apply(lab[..., 0])
    return cv2.cvtColor(lab, cv2.COLOR_LAB2RGB)


def another(frame: Picture) -> Picture:
    """Make a picture that shows something else."""
    return np.roll(frame, frame.shape[1] // 3, axis=1)[::-1]


def beside(axis: int, *, first: bool) -> Callable[[Picture], Picture]:
    """Put the picture beside another one, below or above it with axis 0."""

    def change(frame: Picture) -> Picture:
        pictures = [frame, another(frame)]
        return np.concatenate(pictures if first else pictures[::-1], axis=axis)

    return change


def inside(share: float, down: float, right: float) -> Callable[[Picture], Picture]:
    """Put the picture, made smaller, onto another one."""

    def change(frame: Picture) -> Picture:
        picture = another(frame)
        small = cv2.resize(frame, None, fx=share, fy=share, interpolation=cv2.INTER_AREA)
        top = round((frame.shape[0] - small.shape[0]) * down)
        left = round((frame.shape[1] - small.shape[1]) * right)
        picture[top : top + small.shape[0], left : left + small.shape[1]] = small
        return picture

    return change


COPIES: dict[str, Callable[[Picture], Picture]] = {
    "encoded anew": lambda frame: frame,
    "half the size": lambda frame: cv2.resize(frame, None, fx=0.5, fy=0.5),
    "brightened by a quarter": lambda frame: np.clip(frame * 1.25, 0, 255).astype(np.uint8),
    "noise of 25 levels": lambda frame: np.clip(
        frame + np.random.default_rng(0).normal(0, 25, frame.shape), 0, 255
    ).astype(np.uint8),
    "blurred by 4 px": lambda frame: cv2.GaussianBlur(frame, (0, 0), 4),
    "contrast equalized (CLAHE)": equalized,
    "gray": lambda frame: np.repeat(frame.mean(axis=2, keepdims=True), 3, axis=2).astype(np.uint8),
    "negative": lambda frame: 255 - frame,
    "mirrored": lambda frame: frame[:, ::-1],
    "turned by 90 degrees": lambda frame: np.rot90(frame),
    "turned by 180 degrees": lambda frame: np.rot90(frame, 2),
    "turned by 3 degrees": turned(3),
    "turned by 8 degrees": turned(8),
    "turned by -6 degrees": turned(-6),
    "turned by 10 degrees": turned(10),
    "turned by 8 degrees and enlarged": turned(8, 1.25),
    "cropped to 95 %": cropped(0.95),
    "cropped to 90 %": cropped(0.9),
    "cropped to 80 %": cropped(0.8),
    "cropped to 70 %": cropped(0.7),
    "cropped to 60 %": cropped(0.6),
    "cropped to 80 % at a corner": cropped(0.8, 0, 0),
    "cropped to 80 % at the top": cropped(0.8, 0, 0.5),
    "cropped to 80 % and mirrored": lambda frame: cropped(0.8)(frame)[:, ::-1],
    "shifted by 10 %": shifted(0.1, 0),
    "shifted by 15 %": shifted(0.15, 0),
    "shifted by 10 % both ways": shifted(0.1, 0.1),
    "black bars of 15 %": boxed,
    "black bars with a logo": with_logo,
    "white border of 5 %": bordered(0.05, 255, 255, 255),
    "white border of 10 %": bordered(0.1, 255, 255, 255),
    "green border of 8 %": bordered(0.08, 0, 200, 0),
    "gray border of 12 %, mirrored": lambda frame: bordered(0.12, 128, 128, 128)(frame)[:, ::-1],
    "banner over the lowest quarter": with_banner,
    "in a blurred frame of 9:16": blurred_frame(9 / 16),
    "in a blurred frame, not in its middle": blurred_frame(9 / 16, 0.3),
    "with blurred sides to 21:9": blurred_frame(21 / 9),
    "filmed from a screen": filmed,
    "left of another": beside(1, first=True),
    "right of another": beside(1, first=False),
    "above another": beside(0, first=True),
    "below another": beside(0, first=False),
    "70 % of another, in its middle": inside(0.7, 0.5, 0.5),
    "50 % of another, in a corner": inside(0.5, 1, 1),
    "30 % of another, near a corner": inside(0.3, 0.05, 0.95),
    "darkened to 3 %": lambda frame: (frame * 0.03 + 16).astype(np.uint8),
    "darkened to 1.5 %": lambda frame: (frame * 0.015).astype(np.uint8),
}


# Flat pictures


def slide(generator: np.random.Generator) -> list[Picture]:
    page = np.full((240, 320, 3), 255, np.uint8)
    for line in range(generator.integers(3, 8)):
        text = "".join(generator.choice(list("abcdefghijklmnop  "), generator.integers(8, 26)))
        cv2.putText(page, text, (20, 40 + 25 * line), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (0,) * 3, 1)
    return [page] * 24


def digits(count: int, back: int, front: int) -> Callable[[np.random.Generator], list[Picture]]:
    def draw(generator: np.random.Generator) -> list[Picture]:
        places = generator.uniform([0, 55], [260, 235], (count, 2))
        speeds = generator.uniform(-8, 8, (count, 2))
        texts = [str(generator.integers(10)) for _ in range(count)]
        frames = []
        for number in range(24):
            page = np.full((240, 320, 3), back, np.uint8)
            for place, speed, text in zip(places, speeds, texts, strict=True):
                x, y = np.clip(place + speed * number, [0, 55], [260, 235]).astype(int)
                at = (int(x), int(y))
                cv2.putText(page, text, at, cv2.FONT_HERSHEY_SIMPLEX, 2.4, (front,) * 3, 6)
            frames.append(page)
        return frames

    return draw


def night(generator: np.random.Generator) -> list[Picture]:
    levels = generator.normal(24, 2, (6, 8)).astype(np.float32)
    page = cv2.resize(levels, (320, 240), interpolation=cv2.INTER_CUBIC)
    gray = [np.clip(page + 0.05 * number, 0, 255).astype(np.uint8) for number in range(24)]
    return [np.repeat(each[..., None], 3, axis=2) for each in gray]


FLAT: dict[str, Callable[[np.random.Generator], list[Picture]]] = {
    "slides, black on white": slide,
    "a moving digit on white": digits(1, 255, 0),
    "two moving digits on gray": digits(2, 128, 220),
    "a moving digit on black": digits(1, 0, 255),
    "two moving digits on black": digits(2, 0, 255),
    "night, a few levels of contrast": night,
}


if __name__ == "__main__":
    run_command("near_duplicates", main)
