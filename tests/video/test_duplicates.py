"""Near-duplicates are found by what they show; the reference is a direct comparison of pairs."""

from itertools import combinations
from pathlib import Path

import numpy as np

from video.source.inspection import inspect_video
from video.splitting.duplicates import Pair, near_duplicates
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


def random_words(generator: np.random.Generator, num_hashes: int) -> Words:
    words: Words = generator.integers(0, 2**64, 2 * num_hashes, dtype=np.uint64).tolist()
    return words


def with_noise(words: Words, generator: np.random.Generator, share: float) -> Words:
    flips = np.packbits(generator.random((len(words), 64)) < share, axis=1).view(np.uint64)
    noisy: Words = (np.array(words, np.uint64) ^ flips[:, 0]).tolist()
    return noisy


def plain_distance(one: Words, other: Words) -> float:
    def hashes(words: Words) -> list[int]:
        whole = [high << 64 | low for high, low in zip(words[::2], words[1::2], strict=True)]
        return [whole[i * len(whole) // 16] for i in range(16)]

    a, b = hashes(one), hashes(other)
    there = sum(min((x ^ y).bit_count() for y in b) for x in a)
    back = sum(min((x ^ y).bit_count() for x in a) for y in b)
    return min(there, back) / 2048


def test_the_pairs_are_those_of_a_direct_comparison() -> None:
    generator = np.random.default_rng(0)
    fingerprints: list[Words] = []
    for _ in range(60):
        original = random_words(generator, int(generator.integers(1, 33)))
        fingerprints.append(original)
        for share in (0.05, 0.15, 0.19, 0.21, 0.3):
            fingerprints.append(with_noise(original, generator, share))
    expected = {
        (a, b): plain_distance(fingerprints[a], fingerprints[b])
        for a, b in combinations(range(len(fingerprints)), 2)
    }

    found = near_duplicates(fingerprints, max_distance=DISTANCE)

    close = {pair: distance for pair, distance in expected.items() if distance <= DISTANCE}
    assert {(pair.first, pair.second): pair.distance for pair in found} == close
    assert found == sorted(found, key=lambda pair: (pair.first, pair.second))


def test_a_part_of_a_video_is_a_near_duplicate_of_the_whole() -> None:
    whole = random_words(np.random.default_rng(0), 16)

    assert near_duplicates([whole, whole[12:]], max_distance=0.0) == [
        Pair(first=0, second=1, distance=0.0)
    ]


def test_videos_without_hashes_are_duplicates_of_none() -> None:
    words = random_words(np.random.default_rng(0), 4)

    assert near_duplicates([[], words, [], words], max_distance=DISTANCE) == [
        Pair(first=1, second=3, distance=0.0)
    ]
    assert near_duplicates([[], []], max_distance=DISTANCE) == []
    assert near_duplicates([], max_distance=DISTANCE) == []


def test_one_pair_among_six_thousand_videos_is_found() -> None:
    words = np.random.default_rng(0).integers(0, 2**64, (6000, 64), dtype=np.uint64)
    words[5999] = words[17]

    found = near_duplicates(words.tolist(), max_distance=DISTANCE)

    assert [(pair.first, pair.second) for pair in found] == [(17, 5999)]


def test_of_many_videos_alike_every_pair_is_found() -> None:
    words = random_words(np.random.default_rng(0), 4)

    found = near_duplicates([words] * 200, max_distance=DISTANCE)

    assert [(pair.first, pair.second) for pair in found] == list(combinations(range(200), 2))


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
