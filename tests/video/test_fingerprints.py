"""Hashes of what a video shows: the same for the same pictures, whatever the file they are in."""

from pathlib import Path

import av
import cv2
import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

from video.source.facts import video_table
from video.source.fingerprint import MAX_HASHES, Fingerprint
from video.source.inspection import inspect_video
from video.splitting.fingerprints import (
    WORDS_PER_HASH,
    fingerprint,
    hashes,
    pack_bits,
    picture_hashes,
    unpack_bits,
)
from video.splitting.windows import WINDOWS
from video.synthesis.encoding import encode_video

Picture = NDArray[np.uint8]


def scene(seed: int, *, height: int = 64, width: int = 96) -> Picture:
    """Draw a smooth texture of several hundred grays, RGB."""
    coarse = np.random.default_rng(seed).integers(30, 226, (6, 8), dtype=np.uint8)
    gray = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.repeat(gray[:, :, None], 3, axis=2)


def hashes_of(path: Path, frames: list[Picture]) -> NDArray[np.uint64]:
    encode_video(path, frames, codec="h264", fps=10, quality=60)
    return shown_by(path)


def shown_by(path: Path) -> NDArray[np.uint64]:
    words = inspect_video(path).fingerprint
    return hashes(words).whole if words else np.zeros((0, WORDS_PER_HASH), np.uint64)


def distance(first: NDArray[np.uint64], second: NDArray[np.uint64]) -> float:
    return float(np.bitwise_count((first[0] ^ second[0])[:2]).sum() / 128)


class Counted(Fingerprint):
    """Keeps the numbers of frames in place of their pictures."""

    def __init__(self, expected_frames: int = 0) -> None:
        super().__init__(expected_frames)
        self.scaled = 0

    def _small(self, frame: int) -> NDArray[np.uint8]:  # type: ignore[override]
        self.scaled += 1
        return np.array(frame)


def kept(num_frames: int, expected_frames: int = 0) -> tuple[list[int], int]:
    counted = Counted(expected_frames)
    for number in range(num_frames):
        counted.add(number)  # type: ignore[arg-type]
    return [int(number) for number in counted._pictures], counted.scaled


@pytest.mark.parametrize("num_frames", [1, 3, 4, 5, 63, 127, 128, 129, 300, 1000, 4096, 4097])
def test_the_frames_kept_are_evenly_spread_over_the_whole_video(num_frames: int) -> None:
    numbers, _ = kept(num_frames)
    step = numbers[1] if len(numbers) > 1 else num_frames

    assert numbers == list(range(0, num_frames, step))
    assert len(numbers) <= MAX_HASHES
    assert len(numbers) > MAX_HASHES // 2 or step <= 4


@pytest.mark.parametrize("num_frames", [1, 50, 128, 129, 300, 5000])
def test_a_known_length_keeps_the_same_frames_and_scales_no_others(num_frames: int) -> None:
    unknown, _ = kept(num_frames)
    known, scaled = kept(num_frames, expected_frames=num_frames)

    assert known == unknown
    assert scaled == len(known)


def test_a_header_that_promises_too_little_changes_nothing() -> None:
    assert kept(1000, expected_frames=10)[0] == kept(1000)[0]


@pytest.mark.parametrize(
    "change",
    [
        lambda frame: cv2.resize(frame, (48, 32), interpolation=cv2.INTER_AREA),
        lambda frame: cv2.resize(frame, (96, 96), interpolation=cv2.INTER_AREA),
        lambda frame: np.clip(frame * 0.8 + 30, 0, 255).astype(np.uint8),
        lambda frame: frame[2:-2, 2:-2],
        lambda frame: cv2.copyMakeBorder(frame, 24, 24, 0, 0, cv2.BORDER_CONSTANT),
        lambda frame: cv2.copyMakeBorder(frame, 0, 0, 80, 80, cv2.BORDER_CONSTANT),
    ],
    ids=["halved", "stretched", "brightened", "cropped", "letterboxed", "pillarboxed"],
)
def test_the_same_pictures_in_another_form_have_nearly_the_same_hashes(change, tmp_path) -> None:  # type: ignore[no-untyped-def]
    picture = scene(0)
    original = hashes_of(tmp_path / "a.mp4", [picture] * 6)
    changed = hashes_of(tmp_path / "b.mp4", [np.ascontiguousarray(change(picture))] * 6)

    assert distance(original, changed) < 0.15


def test_other_pictures_have_other_hashes_with_bars_or_without(tmp_path: Path) -> None:
    boxed = [cv2.copyMakeBorder(scene(seed), 0, 0, 96, 96, cv2.BORDER_CONSTANT) for seed in (0, 1)]
    plain = [hashes_of(tmp_path / f"{seed}.mp4", [scene(seed)] * 6) for seed in (0, 1)]
    pillars = [hashes_of(tmp_path / f"{n}b.mp4", [frame] * 6) for n, frame in enumerate(boxed)]

    assert distance(*plain) > 0.3
    assert distance(*pillars) > 0.3


def test_frames_without_contrast_have_no_hash(tmp_path: Path) -> None:
    black = np.zeros((48, 64, 3), np.uint8)
    frames = [black] * 8 + [scene(0, height=48, width=64)] * 8

    assert hashes_of(tmp_path / "black.mp4", [black] * 8).shape == (0, WORDS_PER_HASH)
    assert hashes_of(tmp_path / "half.mp4", frames).shape == (2, WORDS_PER_HASH)


def test_a_hash_is_what_a_few_lines_of_comparisons_give() -> None:
    """Where cells are whole pixels: 72 of them, cut into 8 and 9."""
    pictures = np.random.default_rng(0).integers(25, 256, (3, 72, 72), dtype=np.uint8)
    wide = pictures.reshape(3, 8, 9, 9, 8).mean((2, 4))
    tall = pictures.reshape(3, 9, 8, 8, 9).mean((2, 4))
    expected = []
    for index in range(3):
        right = [wide[index, y, x + 1] - wide[index, y, x] for y in range(8) for x in range(8)]
        below = [tall[index, y + 1, x] - tall[index, y, x] for y in range(8) for x in range(8)]
        bits = [[int(step > 1) for step in steps] for steps in (right, below)]
        masks = [[int(abs(step) > 1) for step in steps] for steps in (right, below)]
        expected.append([sum(b << (63 - i) for i, b in enumerate(w)) for w in bits + masks])

    assert picture_hashes(pictures).tolist() == expected


def test_fingerprints_are_stored_as_unsigned_words(tmp_path: Path) -> None:
    encode_video(tmp_path / "a.mp4", [scene(0)] * 6, codec="h264", fps=10, quality=60)
    encode_video(
        tmp_path / "b.mp4", [np.zeros_like(scene(0))] * 6, codec="h264", fps=10, quality=60
    )
    facts = {name: inspect_video(tmp_path / name) for name in ("a.mp4", "b.mp4")}
    rows = pl.DataFrame({"video_path": list(facts), "label": ["x", "y"]})
    table = video_table(rows, facts, ["x", "y"])

    assert table.schema["fingerprint"] == pl.List(pl.UInt64)
    assert [tuple(words) for words in table["fingerprint"]] == [
        fact.fingerprint for fact in facts.values()
    ]


def test_the_contrast_of_a_dark_picture_counts_by_its_own_range() -> None:
    """Cells less than a level apart count alone, and are flat beside bright ones."""
    coarse = np.random.default_rng(0).integers(0, 9, (6, 8), dtype=np.uint8)
    dark = cv2.resize(coarse, (64, 64), interpolation=cv2.INTER_AREA) // 4
    dark = dark.astype(np.uint8)
    bright = dark.copy()
    bright[:8] = 255

    num_bits = [
        np.bitwise_count(picture_hashes(each[None])[0, 2:]).sum() for each in (dark, bright)
    ]

    assert num_bits[0] > 64 > num_bits[1]


def test_a_fingerprint_holds_hashes_of_four_pictures_windows_evenly_spread() -> None:
    pictures = np.stack([scene(seed)[:, :64, 0] for seed in range(8)]).astype(np.uint8)
    flat = np.full((1, 64, 64), 128, np.uint8)

    found = hashes(fingerprint(np.concatenate([pictures, flat])))

    assert found.whole.tolist() == picture_hashes(pictures).tolist()
    names = list(WINDOWS)
    left = found.windows[names.index("left half")]
    assert left.tolist() == picture_hashes(pictures[[0, 2, 4, 6], :, :32]).tolist()
    assert fingerprint(flat) == ()


def test_packed_bits_come_back() -> None:
    bits = np.random.default_rng(0).random((5, 4, 8, 8)) < 0.5

    assert np.array_equal(unpack_bits(pack_bits(bits)), bits)


@pytest.mark.parametrize("turn", [90, 180, 270])
def test_a_video_is_hashed_as_it_is_shown(tmp_path: Path, turn: int) -> None:
    stored, shown = tmp_path / "stored.mp4", tmp_path / "shown.mp4"
    turned = np.ascontiguousarray(np.rot90(scene(0), turn // 90))
    upright = hashes_of(tmp_path / "upright.mp4", [turned] * 6)
    encode_video(stored, [scene(0)] * 6, codec="h264", fps=10, quality=60)
    with av.open(str(stored)) as given, av.open(str(shown), "w") as made:
        copy = made.add_stream_from_template(given.streams.video[0])
        copy.set_display_rotation(turn)
        for packet in given.demux(video=0):
            if packet.dts is not None:
                packet.stream = copy
                made.mux(packet)

    assert distance(upright, shown_by(shown)) < 0.02
