"""Batches hold each clip once, in an order that is a function of seed and epoch."""

import threading
from collections.abc import Generator, Iterable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

from video.clips.loading import NUM_BUFFERS, REQUIRED, Batch, ClipSet, batch_rows
from video.clips.packs import Clips, PackError, pack_bytes, pack_rows
from video.clips.prefetch import Prefetched

LABELS = ["fake", "real"]


@pytest.fixture
def clips() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (7, 2, 4, 5, 3), dtype=np.uint8)


@pytest.fixture
def table(tmp_path: Path, clips: NDArray[np.uint8]) -> pl.DataFrame:
    """Write seven clips of seven videos, four in one pack and three in another."""
    packs = []
    for name, held in (("a.npy", clips[:4]), ("b.npy", clips[4:])):
        (tmp_path / name).write_bytes(pack_bytes(held))
        packs.append(pack_rows(name, held))
    return pl.concat(packs).with_columns(
        pl.Series("video_path", [f"{i}.mp4" for i in range(7)]),
        pl.Series("sha256", [f"{i:064x}" for i in range(7)]),
        pl.Series("label", ["real", "fake", "fake", "real", "fake", "fake", "fake"]),
        pl.Series("group", [f"g{i}" for i in range(7)]),
    )


@pytest.fixture
def clip_set(tmp_path: Path, table: pl.DataFrame) -> ClipSet:
    return ClipSet(table, [tmp_path] * table.height, LABELS)


# --- items -------------------------------------------------------------------------------------


def test_the_clips_of_a_video_and_those_of_each_copy_are_an_item(
    tmp_path: Path, table: pl.DataFrame
) -> None:
    several = table.with_columns(
        pl.Series("video_path", ["a", "a", "b", "b", "a", "a", "b"]),
        pl.Series("copy", [None, None, None, None, 0, 0, 0]),
    )
    clip_set = ClipSet(several, [tmp_path] * 7, LABELS)

    assert clip_set.items == [[0, 1], [2, 3], [4, 5], [6]]
    assert clip_set.item_targets.tolist() == [1, 0, 0, 0]
    means = clip_set.mean_over_items(np.arange(14, dtype=float).reshape(7, 2))
    assert means.tolist() == [[1, 2], [5, 6], [9, 10], [12, 13]]


def test_of_single_clips_the_probabilities_stay_what_they_are(clip_set: ClipSet) -> None:
    probabilities = np.random.default_rng(0).random((7, 2))

    np.testing.assert_array_equal(clip_set.mean_over_items(probabilities), probabilities)


# --- batches -----------------------------------------------------------------------------------


def test_a_single_row_left_over_joins_the_batch_before_it(clip_set: ClipSet) -> None:
    order = [6, 0, 3, 1, 5, 2, 4]

    batches = [list(batch.rows) for batch in clip_set.batches(order, 3)]

    assert batches == [[6, 0, 3], [1, 5, 2, 4]]


def test_batches_cover_each_row_once_and_the_last_is_smaller() -> None:
    assert batch_rows([6, 0, 3, 1, 5], 3) == [[6, 0, 3], [1, 5]]
    assert batch_rows([2], 3) == [[2]]
    assert batch_rows([2, 0], 1) == [[2], [0]]
    assert batch_rows([], 3) == []


def test_a_batch_holds_the_clips_of_its_rows(clip_set: ClipSet, clips: NDArray[np.uint8]) -> None:
    for batch in clip_set.batches([6, 0, 3, 1, 5, 2, 4], 3):
        np.testing.assert_array_equal(batch.clips, clips[list(batch.rows)], strict=True)


def test_a_batch_holds_the_labels_of_its_rows(clip_set: ClipSet) -> None:
    (batch,) = clip_set.batches([3, 1, 0], 8)

    assert batch.labels.tolist() == [1, 0, 1]


def test_a_row_asked_for_twice_is_read_twice(clip_set: ClipSet, clips: NDArray[np.uint8]) -> None:
    np.testing.assert_array_equal(clip_set.read([5, 5]), clips[[5, 5]])


def test_clips_may_lie_in_several_directories(
    tmp_path: Path, table: pl.DataFrame, clips: NDArray[np.uint8]
) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "b.npy").rename(tmp_path / "other" / "b.npy")

    clip_set = ClipSet(table, [tmp_path] * 4 + [tmp_path / "other"] * 3, LABELS)

    np.testing.assert_array_equal(clip_set.read(range(7)), clips)


def test_a_clip_swapped_on_disk_is_refused_with_its_pack(
    tmp_path: Path, clip_set: ClipSet, clips: NDArray[np.uint8]
) -> None:
    (tmp_path / "b.npy").write_bytes(pack_bytes(clips[:3]))

    assert len(clip_set.read([0, 1, 2, 3])) == 4
    with pytest.raises(PackError, match=r"b\.npy: expected a clip with sha256"):
        clip_set.read([0, 4])


def test_a_clip_is_verified_once(
    tmp_path: Path, clip_set: ClipSet, clips: NDArray[np.uint8]
) -> None:
    clip_set.read(range(7))
    (tmp_path / "b.npy").write_bytes(pack_bytes(clips[:3]))

    np.testing.assert_array_equal(clip_set.read([4]), clips[:1])


def test_a_refused_clip_is_refused_again(
    tmp_path: Path, clip_set: ClipSet, clips: NDArray[np.uint8]
) -> None:
    (tmp_path / "b.npy").write_bytes(pack_bytes(clips[:3]))

    for _ in range(2):
        with pytest.raises(PackError):
            clip_set.read([4])


def test_a_batch_is_augmented_clip_by_clip(clip_set: ClipSet, clips: NDArray[np.uint8]) -> None:
    (batch,) = clip_set.batches([5, 2], 8, lambda clip, row, _: clip ^ np.uint8(row))

    np.testing.assert_array_equal(batch.clips[0], clips[5] ^ np.uint8(5))
    np.testing.assert_array_equal(batch.clips[1], clips[2] ^ np.uint8(2))


@pytest.mark.parametrize("first", range(3))
def test_augmentation_is_told_how_often_a_clip_came_before(clip_set: ClipSet, first: int) -> None:
    told = []

    def augment(clip: Clips, row: int, repeat: int) -> Clips:
        told.append((row, repeat))
        return clip

    order = [5, 2, 5, 5, 2, 0]
    list(clip_set.batches(order, 2, augment, first=first, share=lambda size: slice(size - 1, size)))

    assert told == [(2, 0), (5, 2), (0, 0)][first:]


@pytest.mark.parametrize("first", range(5))
def test_a_cursor_gives_the_batches_that_are_left(
    clip_set: ClipSet, clips: NDArray[np.uint8], first: int
) -> None:
    order = [6, 0, 3, 1, 5, 2, 4]

    batches = clip_set.batches(order, 2, first=first)

    found = [(list(batch.rows), batch.clips.copy()) for batch in batches]
    assert [rows for rows, _ in found] == [[6, 0], [3, 1], [5, 2, 4]][first:]
    for rows, read in found:
        np.testing.assert_array_equal(read, clips[rows])


def test_nothing_before_the_cursor_is_read(tmp_path: Path, clip_set: ClipSet) -> None:
    (tmp_path / "b.npy").unlink()

    (batch,) = clip_set.batches([6, 5, 3, 1], 2, first=1)

    assert batch.rows == [3, 1]


def test_a_batch_stays_as_it_is_while_the_buffers_last(
    clip_set: ClipSet, clips: NDArray[np.uint8]
) -> None:
    batches = clip_set.batches(range(7), 1)
    held = [next(batches) for _ in range(NUM_BUFFERS)]
    for batch in held:
        np.testing.assert_array_equal(batch.clips, clips[batch.rows])

    later = next(batches)

    assert np.shares_memory(later.clips, held[0].clips)
    np.testing.assert_array_equal(held[1].clips, clips[held[1].rows])


def test_clips_are_read_into_the_memory_that_the_caller_allocates(clip_set: ClipSet) -> None:
    allocated: list[Clips] = []

    def allocate(shape: tuple[int, ...]) -> Clips:
        allocated.append(np.empty(shape, np.uint8))
        return allocated[-1]

    for number, batch in enumerate(clip_set.batches(range(7), 2, allocate=allocate)):
        assert np.shares_memory(batch.clips, allocated[number % NUM_BUFFERS])
    assert [buffer.shape for buffer in allocated] == [(3, 2, 4, 5, 3)] * NUM_BUFFERS


def test_the_number_of_workers_changes_no_byte_of_augmented_clips(clip_set: ClipSet) -> None:
    threads = set()

    def augment(clip: Clips, row: int, repeat: int) -> Clips:
        threads.add(threading.current_thread().name)
        return clip ^ np.uint8(row + 1)

    def shown(workers: int) -> bytes:
        batches = clip_set.batches([6, 0, 3, 1, 5, 2, 4], 4, augment, workers=workers)
        return b"".join(batch.clips.tobytes() for batch in batches)

    alone = shown(1)
    assert threads == {threading.current_thread().name}
    assert shown(3) == alone
    assert len(threads) > 1


@pytest.mark.parametrize("first", [0, 2])
def test_batches_read_ahead_have_the_same_bytes(clip_set: ClipSet, first: int) -> None:
    def shown(batches: Iterable[Batch]) -> list[tuple[list[int], bytes, list[int]]]:
        return [(list(b.rows), b.clips.tobytes(), b.labels.tolist()) for b in batches]

    def batches() -> Generator[Batch, None, None]:
        return clip_set.batches(
            [6, 0, 3, 1, 5, 2, 4],
            1,
            lambda clip, row, _: clip ^ np.uint8(row),
            first=first,
            workers=2,
        )

    before = set(threading.enumerate())  # which may hold some of a test before
    assert shown(Prefetched(batches())) == shown(batches())
    left = set(threading.enumerate()) - before
    assert not [thread for thread in left if thread.name.startswith(("ThreadPool", "prefetch"))]


def test_a_swapped_clip_is_refused_where_it_would_have_come(
    tmp_path: Path, clip_set: ClipSet, clips: NDArray[np.uint8]
) -> None:
    (tmp_path / "b.npy").write_bytes(pack_bytes(clips[:3]))
    batches = iter(Prefetched(clip_set.batches([0, 1, 2, 5, 3], 1)))

    assert [next(batches).rows for _ in range(3)] == [[0], [1], [2]]
    with pytest.raises(PackError, match=r"b\.npy: expected a clip with sha256"):
        next(batches)


# --- refusals ----------------------------------------------------------------------------------


@pytest.mark.parametrize("column", REQUIRED)
def test_a_table_without_a_column_is_refused_with_its_name(
    tmp_path: Path, table: pl.DataFrame, column: str
) -> None:
    with pytest.raises(ValueError, match=rf"got no {column}; run the data stages again"):
        ClipSet(table.drop(column), [tmp_path] * 7, LABELS)


def test_all_missing_columns_are_named_at_once(tmp_path: Path, table: pl.DataFrame) -> None:
    with pytest.raises(ValueError, match="got no group, no pack; run"):
        ClipSet(table.drop("pack", "group"), [tmp_path] * 7, LABELS)


def test_clips_of_two_shapes_are_refused_with_both(tmp_path: Path, table: pl.DataFrame) -> None:
    mixed = table.with_columns(frames=pl.when(pl.col("clip") == 0).then(3).otherwise("frames"))

    with pytest.raises(ValueError, match=r"one shape, got \[\(2, 4, 5\), \(3, 4, 5\)\]; run"):
        ClipSet(mixed, [tmp_path] * 7, LABELS)


def test_a_table_without_clips_is_refused(tmp_path: Path, table: pl.DataFrame) -> None:
    with pytest.raises(ValueError, match="expected clips of one shape, got no clips; run"):
        ClipSet(table.clear(), [], LABELS)
