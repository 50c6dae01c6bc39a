"""Near-duplicates are found by what they show; the reference is a direct comparison of pairs."""

from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support.fingerprints import without_windows
from video.source.inspection import inspect_video
from video.splitting.duplicates import Pair, near_duplicates, orientations
from video.splitting.fingerprints import (
    WORDS_PER_HASH,
    fingerprint,
    hash_distances,
    hashes,
)
from video.synthesis.files import write_video
from video.synthesis.plan import SampleRecipe, plan_sample

DISTANCE = 0.2  # split.near_duplicate_distance of params.yaml

RECIPE = SampleRecipe(
    num_scenes=6,
    versions_per_scene=4,
    tampered_share=0.4,
    mixed_scene_share=0.5,
    min_duration_sec=2.0,
    max_duration_sec=3.0,
    tampered_time_share=0.67,
    region_area_share=0.33,
    noise_sigma=8.0,
)

Words = list[int]

FULL = 2**64 - 1  # a mask: contrast everywhere


def random_words(generator: np.random.Generator, num_hashes: int) -> Words:
    words = np.full((num_hashes, WORDS_PER_HASH), FULL, np.uint64)
    words[:, :2] = generator.integers(0, 2**64, (num_hashes, 2), dtype=np.uint64)
    return without_windows(words)


def with_noise(words: Words, generator: np.random.Generator, share: float) -> Words:
    noisy = hashes(words).whole.copy()
    flips = np.packbits(generator.random((len(noisy), 2, 64)) < share, axis=2)
    noisy[:, :2] ^= flips.view(np.uint64)[..., 0]
    return without_windows(noisy)


def plain_distance(one: Words, other: Words) -> float:
    """Return the distance as the pictures are, of 128 bits with contrast and 8 of prior."""

    def spread(words: Words) -> list[int]:
        whole = [int(word[0]) << 64 | int(word[1]) for word in hashes(words).whole]
        return [whole[i * len(whole) // 16] for i in range(16)]

    a, b = spread(one), spread(other)
    there = sum(min((x ^ y).bit_count() for y in b) for x in a)
    back = sum(min((x ^ y).bit_count() for x in a) for y in b)
    return (min(there, back) / 16 + 4) / 136


SAME = 4 / 136  # the distance of equal hashes with contrast everywhere


def test_the_pairs_are_those_of_a_direct_comparison() -> None:
    """All up to 0.1, and of bits that know nothing of pictures most of those up to 0.2."""
    generator = np.random.default_rng(0)
    fingerprints: list[Words] = []
    for _ in range(60):
        original = random_words(generator, int(generator.integers(1, 33)))
        fingerprints.append(original)
        for share in (0.05, 0.1, 0.15, 0.17, 0.19, 0.3):
            fingerprints.append(with_noise(original, generator, share))
    expected = {
        (a, b): plain_distance(fingerprints[a], fingerprints[b])
        for a, b in combinations(range(len(fingerprints)), 2)
    }

    found = near_duplicates(fingerprints, max_distance=DISTANCE)

    close = {pair: distance for pair, distance in expected.items() if distance <= DISTANCE}
    distances = {(pair.first, pair.second): pair.distance for pair in found}
    assert distances == pytest.approx({pair: close[pair] for pair in distances})
    assert distances.keys() >= {pair for pair, distance in close.items() if distance <= 0.1}
    assert len(distances) >= 0.9 * len(close)
    assert {pair.shown for pair in found} == {"as it is"}
    assert found == sorted(found, key=lambda pair: (pair.first, pair.second))


def test_a_fingerprint_of_another_version_is_refused() -> None:
    words = random_words(np.random.default_rng(0), 4)

    with pytest.raises(
        ValueError, match=r"expected 608 words .* got 607 in all; run load_data again"
    ):
        near_duplicates([words, words[: len(words) - 17]], max_distance=DISTANCE)


def test_a_bit_with_contrast_in_one_picture_alone_counts_half() -> None:
    one = np.array([0xFF00, 0, 0xFFFF, 0], np.uint64)
    other = np.array([0xF0, 0, 0xFF, 0], np.uint64)

    # 8 bits with contrast in both, 4 of them differ; 8 in one alone; 8 of prior.
    assert hash_distances(one, other) == (4 + 8 / 2 + 4) / (16 + 8)
    assert hash_distances(other, one) == hash_distances(one, other)


def test_a_part_of_a_video_is_a_near_duplicate_of_the_whole() -> None:
    whole = random_words(np.random.default_rng(0), 16)
    part = whole[6 * WORDS_PER_HASH :]

    for videos in ([whole, part], [part, whole]):
        assert near_duplicates(videos, max_distance=DISTANCE) == [
            Pair(first=0, second=1, distance=round(SAME, 9))
        ]


def test_videos_without_hashes_are_duplicates_of_none() -> None:
    words = random_words(np.random.default_rng(0), 4)

    assert near_duplicates([[], words, [], words], max_distance=DISTANCE) == [
        Pair(first=1, second=3, distance=round(SAME, 9))
    ]
    assert near_duplicates([[], []], max_distance=DISTANCE) == []
    assert near_duplicates([], max_distance=DISTANCE) == []


def test_one_pair_among_two_thousand_videos_is_found() -> None:
    generator = np.random.default_rng(0)
    fingerprints = [random_words(generator, 16) for _ in range(2000)]
    fingerprints[1999] = fingerprints[17]

    found = near_duplicates(fingerprints, max_distance=DISTANCE)

    assert [(pair.first, pair.second) for pair in found] == [(17, 1999)]


def test_of_many_videos_alike_every_pair_is_found() -> None:
    words = random_words(np.random.default_rng(0), 4)

    found = near_duplicates([words] * 200, max_distance=DISTANCE)

    assert [(pair.first, pair.second) for pair in found] == list(combinations(range(200), 2))


# --- pictures ------------------------------------------------------------------------------------

Frames = NDArray[np.uint8]


def scene(seed: int) -> Frames:
    """Make smooth moving texture, uint8 of shape (frames, 64, 64)."""
    generator = np.random.default_rng(seed)
    fields = [generator.integers(30, 226, (6, 6), dtype=np.uint8) for _ in range(2)]
    first, last = (cv2.resize(each, (64, 64), interpolation=cv2.INTER_CUBIC) for each in fields)
    return np.stack([cv2.addWeighted(first, 1 - k / 8, last, k / 8, 0) for k in range(8)])


def words_of(frames: Frames) -> Words:
    noisy = frames + np.random.default_rng(0).normal(0, 0.7, frames.shape)
    pictures = np.clip(np.rint(noisy), 0, 255).astype(np.uint8)
    return list(fingerprint(pictures))


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize(
    ("turns", "negative"), [(0, False), (1, False), (2, False), (3, False), (0, True)]
)
def test_a_copy_turned_mirrored_or_negative_is_found(
    turns: int, mirrored: bool, negative: bool
) -> None:
    frames = scene(0)
    copy = np.rot90(frames, turns, axes=(1, 2))
    copy = copy[:, :, ::-1] if mirrored else copy
    copy = 255 - copy if negative else copy

    words = words_of(frames), words_of(copy)
    (pair,) = near_duplicates(words, max_distance=DISTANCE)

    assert pair.distance < 0.08
    assert ("negative" in pair.shown) == negative
    assert ("mirrored" in pair.shown) == mirrored
    assert (pair.shown == "as it is") == (not turns and not mirrored and not negative)
    one, other = (hashes(each).whole for each in words)
    as_shown = dict(orientations(other))[pair.shown]
    assert hash_distances(one, as_shown).mean() < 0.08


def framed(frames: Frames, level: int) -> Frames:
    return np.pad(frames, ((0, 0), (8, 8), (6, 6)), constant_values=level)


def beside(frames: Frames, other: Frames) -> Frames:
    return np.concatenate([other, frames], axis=2)


def turned(frames: Frames, angle_deg: float) -> Frames:
    matrix = cv2.getRotationMatrix2D((32, 32), angle_deg, 1.0)
    return np.stack([cv2.warpAffine(frame, matrix, (64, 64)) for frame in frames])


def fitted(frames: Frames) -> Frames:
    return np.stack([cv2.resize(each, (64, 64), interpolation=cv2.INTER_AREA) for each in frames])


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        (lambda frames: frames[:, 6:58, 6:58], "middle 80 % of one"),
        (lambda frames: frames[:, :52, :52], "top left 80 % of one"),
        (lambda frames: framed(frames, 255), "picture inside of its border of one"),
        (lambda frames: framed(frames, 90), "picture inside of its border of one"),
        (lambda frames: framed(frames, 255)[:, :, ::-1], "picture inside of its border of one, "),
        (lambda frames: beside(frames, scene(7)), "right half of one"),
        (lambda frames: np.concatenate([frames, scene(7)], axis=1), "top half of one"),
        (lambda frames: np.pad(frames, ((0, 0), (0, 0), (8, 0)))[:, :, :64], "left nine tenths"),
        (lambda frames: turned(frames, 8), "turned by 8 degrees of one"),
    ],
)
def test_a_copy_that_holds_a_part_or_lies_in_a_frame_is_found(
    change: Callable[[Frames], Frames], shown: str
) -> None:
    originals = [scene(seed) for seed in range(6)]
    copies = [fitted(change(frames)) for frames in originals]

    found = near_duplicates(
        [words_of(frames) for frames in originals + copies], max_distance=DISTANCE
    )

    pairs = {(pair.first, pair.second): pair.shown for pair in found}
    own = [pairs[number, number + 6] for number in range(6) if (number, number + 6) in pairs]
    assert len(own) >= 5
    assert sum(shown in each for each in own) >= 4
    assert all(pair.second == pair.first + 6 for pair in found if pair.first < 6 <= pair.second)


def slide(generator: np.random.Generator) -> Frames:
    """Draw lines of words, black on white, that stay for a whole video."""
    page = np.full((240, 320), 255, np.uint8)
    for line in range(generator.integers(3, 8)):
        text = "".join(generator.choice(list("abcdefghijklmnop  "), generator.integers(8, 26)))
        cv2.putText(page, text, (20, 40 + 25 * line), cv2.FONT_HERSHEY_SIMPLEX, 0.6, 0, 1)
    return np.repeat(cv2.resize(page, (64, 64), interpolation=cv2.INTER_AREA)[None], 4, axis=0)


def digit(generator: np.random.Generator) -> Frames:
    """Draw a digit that moves over white."""
    place, speed = generator.uniform([0, 55], [260, 235]), generator.uniform(-24, 24, 2)
    text, pages = str(generator.integers(10)), []
    for number in range(8):
        page = np.full((240, 320), 255, np.uint8)
        x, y = np.clip(place + speed * number, [0, 55], [260, 235]).astype(int)
        cv2.putText(page, text, (int(x), int(y)), cv2.FONT_HERSHEY_SIMPLEX, 2.4, 0, 6)
        pages.append(cv2.resize(page, (64, 64), interpolation=cv2.INTER_AREA))
    return np.stack(pages)


def dark(generator: np.random.Generator) -> Frames:
    """Draw a night picture: a texture of two or three levels above black."""
    levels = generator.normal(3, 1, (6, 8)).astype(np.float32)
    page = cv2.resize(levels, (64, 64), interpolation=cv2.INTER_CUBIC)
    return np.stack([np.clip(page + 0.2 * k, 0, 255).astype(np.uint8) for k in range(8)])


@pytest.mark.parametrize("make", [slide, digit, dark])
def test_flat_pictures_are_linked_to_their_copies_and_not_to_others(
    make: Callable[[np.random.Generator], Frames],
) -> None:
    generator = np.random.default_rng(1)
    videos = [make(generator) for _ in range(40)]
    originals = [fingerprint(video) for video in videos]
    copies = [words_of(video) for video in videos]

    links = near_duplicates(originals, max_distance=DISTANCE)
    found = sum(
        bool(near_duplicates(pair, max_distance=DISTANCE))
        for pair in zip(originals, copies, strict=True)
    )

    assert len(links) <= 0.01 * 780
    assert found >= 38


def test_the_versions_of_a_scene_of_the_sample_are_near_duplicates(tmp_path: Path) -> None:
    videos = [video for video in plan_sample(0, RECIPE) if video.fault == "none"]
    for video in videos:
        write_video(video, tmp_path)
    paths = [tmp_path / video.video_path for video in videos]
    found = near_duplicates(
        [inspect_video(path).fingerprint for path in paths], max_distance=DISTANCE
    )

    scenes = [video.scene for video in videos]
    close = {(pair.first, pair.second) for pair in found}
    authentic = {
        (a, b)
        for a, b in combinations(range(len(videos)), 2)
        if scenes[a] == scenes[b] and {videos[a].label, videos[b].label} == {"authentic"}
    }
    assert all(scenes[a] == scenes[b] for a, b in close)
    assert len(authentic & close) >= 0.9 * len(authentic) > 0
