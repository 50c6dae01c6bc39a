"""The Fake Video Corpus, an index of addresses as its authors published it, through the stages.

Two tables, 380 originals and their near-duplicates, in cascades of one content: labels are mixed
within cascades, addresses are repeated, and cascades overlap. Figures are counted here by other
means: with csv and sets.
"""

import csv
import hashlib
import shutil
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from tests.support.clone import ROOT, run_stage, set_params
from video.index import table as tables
from video.index.rows import Columns, read_index
from video.splitting.groups import effective_groups, linked_groups
from video.splitting.splits import assign_splits
from video.synthesis.encoding import encode_video

TABLES = ROOT.parent / "shared/real/fvc_metadata"

pytestmark = pytest.mark.skipif(
    not TABLES.is_dir(), reason=f"the tables of the Fake Video Corpus are not at {TABLES}"
)

COLUMNS = Columns(path="video_url", label="label", group="cascade_id")
LABELS = ["fake", "real", "uncertain", "debunked", "parody"]


@dataclass(frozen=True, kw_only=True)
class Row:
    number: int  # in the index, from 1
    cascade: str
    address: str
    label: str


def read_table(name: str) -> list[dict[str, str]]:
    with (TABLES / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    """Return both tables as one."""
    return [
        Row(
            number=number,
            cascade=item["cascade_id"],
            address=item["video_url"],
            label=item["label"],
        )
        for number, item in enumerate(read_table("FVC.csv") + read_table("FVC_dup.csv"), start=1)
    ]


def write_index(path: Path, rows: Iterable[Row], **columns: dict[int, str]) -> None:
    """Write the rows under the corpus's own names, with further columns by row number."""
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["cascade_id", "video_url", "label", *columns])
        for row in rows:
            values = [column[row.number] for column in columns.values()]
            writer.writerow([row.cascade, row.address, row.label, *values])


def make_project(root: Path, labels: Sequence[str], **changes: dict[str, Any]) -> Path:
    shutil.copy2(ROOT / "params.yaml", root)
    (root / "data/fvc").mkdir(parents=True)
    data = {"index": "data/fvc/index.csv", "root": "data/fvc", "labels": list(labels)}
    names = {f"{key}_column": name for key, name in vars(COLUMNS).items()}
    set_params(root, {"data": data | names} | changes)
    return root


def write_video(path: Path, seed: int) -> None:
    """Write a second of noise that no other seed gives."""
    noise = np.random.default_rng(seed)
    tiles = noise.integers(0, 256, (12, 6, 8, 3), dtype=np.uint8)
    frames = [np.kron(tile, np.ones((8, 8, 1), np.uint8)) for tile in tiles]
    path.parent.mkdir(parents=True, exist_ok=True)
    encode_video(path, frames, codec="h264", fps=12, quality=50)


def partition(names: Iterable[Iterable[str]]) -> list[set[int]]:
    """Join rows, by position, that share a name; a row has any number of names."""
    components: list[tuple[set[str], set[int]]] = []
    for position, found in enumerate(names):
        own, members, apart = set(found), {position}, []
        for component in components:
            if component[0] & own:
                own |= component[0]
                members |= component[1]
            else:
                apart.append(component)
        components = [*apart, (own, members)]
    return sorted((members for _, members in components), key=min)


def grouped(groups: Sequence[str]) -> list[set[int]]:
    return partition([group] for group in groups)


# --- no video at hand --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def missing(tmp_path_factory: pytest.TempPathFactory, rows: list[Row]) -> tuple[int, str, Path]:
    """Run load_data on the corpus without a video; return exit code, output and directory."""
    root = make_project(tmp_path_factory.mktemp("missing"), LABELS)
    write_index(root / "data/fvc/index.csv", rows)
    return *run_stage("load_data", cwd=root), root


def test_every_row_without_its_video_is_missing_once(
    missing: tuple[int, str, Path], rows: list[Row]
) -> None:
    quarantine = pl.read_csv(missing[2] / "data/quarantine.csv")

    assert len(rows) == 380 + 5_199
    assert quarantine["row"].to_list() == [row.number for row in rows]
    assert quarantine["video_path"].to_list() == [row.address for row in rows]
    assert set(quarantine["verdict"]) == {"missing"}


def test_a_repeated_address_is_told_beside_the_missing_file(
    missing: tuple[int, str, Path], rows: list[Row]
) -> None:
    quarantine = pl.read_csv(missing[2] / "data/quarantine.csv")
    by_address = defaultdict(list)
    for row in rows:
        by_address[row.address].append(row)
    repeated = [group for group in by_address.values() if len(group) > 1]
    # Of rows with one label the first stays.
    told = {
        row.number for group in repeated for row in (group if len(labels(group)) > 1 else group[1:])
    }

    found = quarantine.filter(pl.col("reason").str.contains("same file"))["row"].to_list()

    assert (len(repeated), sum(map(len, repeated)), len(told)) == (6, 13, 9)
    assert found == sorted(told)


def test_thousands_of_missing_videos_stop_the_stage_in_few_lines(
    missing: tuple[int, str, Path],
) -> None:
    code, output, _ = missing

    form, *lines = [line for line in output.splitlines() if line.startswith("load_data: ")]
    assert code == 1
    assert form.startswith("load_data: data/fvc/index.csv: 5579 rows, UTF-8, fields separated by")
    assert "Traceback" not in output
    assert "to be unusable, got 5579 of 5579 (100.0%)" in lines[0]
    empty = ", ".join(f"'{label}'" for label in LABELS)
    assert lines[1].endswith(
        f"got none of {empty}; mend the rows or remove the class from data.labels"
    )
    assert "data/fvc/index.csv row 1: missing: video_path 'https://www.youtube.com/" in lines[2]
    assert "load_data: and 5567 more like this" in lines
    assert lines[-1] == "load_data: all rows are named in data/quarantine.csv"
    assert len(lines) + 1 == len(output.splitlines()) < 30


# --- groups: the address stands for the content ------------------------------------------------


def table_of(rows: Sequence[Row]) -> pl.DataFrame:
    """Return the rows as `read_index` does, with a hash of the address for that of the video."""
    content = ["cascade_id,video_url,label"]
    content += [f"{row.cascade},{row.address},{row.label}" for row in rows]
    names = list(vars(COLUMNS).values())
    table = read_index(tables.read_table("\n".join(content).encode(), names), COLUMNS)
    assert table.height == len(rows)
    digests = [hashlib.sha256(row.address.encode()).hexdigest() for row in rows]
    return table.with_columns(sha256=pl.Series(digests))


def names_of(row: Row) -> list[str]:
    return [row.address, f"cascade {row.cascade}"] if row.cascade else [row.address]


def test_cascades_that_share_an_address_are_one_group(rows: list[Row]) -> None:
    shared = defaultdict(set)
    for row in rows:
        shared[row.address].add(row.cascade)
    expected = partition(map(names_of, rows))

    assert len({row.cascade for row in rows}) == 380
    assert sorted(len(item) for item in shared.values() if len(item) > 1) == [2, 2, 3]
    assert len(expected) == 376
    assert grouped(effective_groups(table_of(rows))) == expected
    # From the index alone, whose rows for one file are rejected but for the first.
    linked = linked_groups(table_of(rows), {}).to_list()
    assert None not in linked
    assert grouped(linked) == expected


def test_originals_without_a_cascade_are_groups_of_their_own(rows: list[Row]) -> None:
    rows = [replace(row, cascade="") if row.number <= 380 else row for row in rows]
    expected = partition(map(names_of, rows))

    assert len({row.cascade for row in rows}) == 1 + 322
    assert len(expected) == 380 + 322 - 4
    assert grouped(effective_groups(table_of(rows))) == expected


def corpus_with_groups(rows: list[Row]) -> pl.DataFrame:
    videos = table_of(rows)
    return videos.with_columns(group=pl.Series(effective_groups(videos)))


def split(videos: pl.DataFrame) -> pl.DataFrame:
    return assign_splits(videos, test_share=0.2, num_folds=4, rebalance=7)


def test_the_corpus_grows_without_moving_a_video(rows: list[Row]) -> None:
    videos = corpus_with_groups(rows)
    known = videos.sample(fraction=0.9, seed=0)

    before, after = split(known), split(videos)

    moved = before.join(after, on="row").filter(pl.col("fold").ne_missing(pl.col("fold_right")))
    assert moved.is_empty()


def test_no_group_of_the_corpus_is_in_two_parts(rows: list[Row]) -> None:
    part = pl.col("fold").fill_null(-1).n_unique().alias("parts")

    parts = split(corpus_with_groups(rows)).group_by("group").agg(part)

    assert parts["parts"].max() == 1


# --- some videos at hand -----------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Partial:
    """The corpus with the videos of some rows, after load_data and create_splits."""

    root: Path
    usable: list[Row]
    loaded: str
    split: str


@pytest.fixture(scope="module")
def partial(tmp_path_factory: pytest.TempPathFactory, rows: list[Row]) -> Partial:
    """Build what a user would have: one column of files, and two classes of the five.

    Four rows of some 40 cascades and all repeated addresses are at hand.
    """
    taken = rows_at_hand(rows)
    root = make_project(
        tmp_path_factory.mktemp("partial"),
        ["fake", "real"],
        load_data={"max_quarantined": 1.0},
        split={"num_folds": 3, "rebalance": "auto"},
    )
    set_params(root, {"data": {"path_column": "file"}})
    names = {row.number: f"videos/{row.cascade}_{row.number}.mp4" for row in rows}
    write_index(root / "data/fvc/index.csv", rows, file=names)
    seeds = {row.address: row.number for row in taken}
    for row in taken:
        write_video(root / "data/fvc" / names[row.number], seeds[row.address])
    loaded, divided = (run_stage(stage, cwd=root) for stage in ("load_data", "create_splits"))
    assert (loaded[0], divided[0]) == (0, 0), loaded[1] + divided[1]
    known = [row for row in taken if row.label in ("fake", "real")]
    return Partial(root=root, usable=known, loaded=loaded[1], split=divided[1])


def rows_at_hand(rows: list[Row]) -> list[Row]:
    cascades: dict[str, list[Row]] = defaultdict(list)
    addresses: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        cascades[row.cascade].append(row)
        addresses[row.address].append(row)
    repeated = {row for group in addresses.values() if len(group) > 1 for row in group}
    overlapping = {row.cascade for row in repeated}
    # Cascades with both classes first.
    names = sorted(cascades, key=lambda name: not {"fake", "real"} <= labels(cascades[name]))
    chosen = [*overlapping, *[name for name in names if name not in overlapping][:35]]
    firsts = {row for name in chosen for row in spread(cascades[name])}
    return sorted(repeated | firsts, key=lambda row: row.number)


def labels(rows: Iterable[Row]) -> set[str]:
    return {row.label for row in rows}


def spread(rows: list[Row]) -> list[Row]:
    """Return four rows, with as many labels as there are."""
    firsts = list({row.label: row for row in reversed(rows)}.values())[::-1]
    return (firsts + [row for row in rows if row not in firsts])[:4]


def usable_videos(partial: Partial) -> pl.DataFrame:
    return pl.read_parquet(partial.root / "data/videos.parquet")


def test_the_rows_with_a_video_and_a_known_label_are_usable(
    partial: Partial, rows: list[Row]
) -> None:
    videos = usable_videos(partial)
    quarantine = pl.read_csv(partial.root / "data/quarantine.csv")

    assert len(partial.usable) >= 100
    assert videos["row"].to_list() == [row.number for row in partial.usable]
    assert videos["video_url"].to_list() == [row.address for row in partial.usable]
    assert sorted([*videos["row"], *quarantine["row"]]) == [row.number for row in rows]
    contents = len({row.address for row in partial.usable})
    assert f"load_data: {contents} videos decoded, 0 known; " in partial.loaded


def test_mixed_and_overlapping_cascades_are_counted_and_reported(partial: Partial) -> None:
    groups = partition(map(names_of, partial.usable))
    mixed = [
        group for group in groups if len(labels(partial.usable[position] for position in group)) > 1
    ]
    of_address: dict[str, list[str]] = defaultdict(list)
    for row in partial.usable:
        of_address[row.address].append(row.cascade)
    # A copy is told where its cascade is not that of the first.
    foreign = sum(
        cascade != cascades[0] for cascades in of_address.values() for cascade in cascades
    )

    assert len(groups) == len({row.cascade for row in partial.usable}) - foreign
    assert foreign == 4
    assert (
        f"create_splits: {len(groups)} groups, {len(mixed)} of them with more than one label "
        f"({sum(map(len, mixed))} videos)" in partial.split
    )
    assert (
        f"create_splits: {foreign} copies and 0 pairs of near-duplicates that the index does not "
        "name, 0 of them with different labels" in partial.split
    )
    duplicates = pl.read_csv(partial.root / "data/duplicates.csv")
    pairs = {frozenset(pair) for pair in duplicates.select("group", "other_group").iter_rows()}
    assert pairs == {
        frozenset((cascades[0], cascade))
        for cascades in of_address.values()
        for cascade in cascades
        if cascade != cascades[0]
    }


def test_no_group_of_videos_at_hand_straddles_the_parts(partial: Partial) -> None:
    splits = pl.read_parquet(partial.root / "data/splits.parquet")
    parts = splits["fold"].fill_null(-1).to_list()
    groups = partition(map(names_of, partial.usable))

    assert splits["video_path"].to_list() == usable_videos(partial)["video_path"].to_list()
    assert grouped(splits["group"].to_list()) == groups
    assert set(parts) == {-1, 0, 1, 2}
    assert [group for group in groups if len({parts[position] for position in group}) > 1] == []


def test_an_address_as_the_path_names_a_file_below_the_root(
    tmp_path: Path, rows: list[Row]
) -> None:
    """With its colon, question mark and slashes, doubled and at the end; one is in three rows."""
    root = make_project(tmp_path, ["fake", "real"], load_data={"max_quarantined": 1.0})
    shared = [row for row in rows if row.address.endswith("FJcVcV46XBE")]
    plain = [next(row for row in rows if row.label == label) for label in ("fake", "real")]
    slashed = next(row for row in rows if "facebook" in row.address and row.label == "fake")
    taken = [*plain, slashed, *shared]
    for row in taken:
        write_video(root / "data/fvc" / f"{row.address.rstrip('/')}", row.number)
    write_index(root / "data/fvc/index.csv", taken)

    code, output = run_stage("load_data", cwd=root)

    assert code == 0, output
    videos = pl.read_parquet(root / "data/videos.parquet")
    assert slashed.address.endswith("/")
    assert videos["video_path"].to_list() == [row.address for row in (*plain, slashed, shared[0])]
    quarantine = pl.read_csv(root / "data/quarantine.csv")
    assert quarantine["verdict"].to_list() == ["duplicate"] * 2
    assert quarantine["reason"].to_list() == ["row 4 names the same file"] * 2
    assert len({row.cascade for row in shared}) == 3
    assert videos["linked_group"][3] == min(row.cascade for row in shared)
