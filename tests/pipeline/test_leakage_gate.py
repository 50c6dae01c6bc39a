"""Leaks planted into the data of a finished pipeline: training or evaluation stops and names them.

The scripts run as DVC runs them, behind its back: nothing has noticed that the data changed.
"""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from tests.support.clone import CELL, completed, options
from video.splitting.fingerprints import WORDS_PER_HASH
from video.splitting.splits import TEST, TRAIN, VAL

SPLITS, CLIPS, AUGMENTED = "data/splits.parquet", "data/clips.parquet", "data/augmented.parquet"


class Data:
    """The data of a finished pipeline, to plant a leak into."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def table(self, name: str) -> pl.DataFrame:
        return pl.read_parquet(self.root / name)

    def write(self, name: str, table: pl.DataFrame) -> None:
        table.write_parquet(self.root / name)

    def videos(self, split: str) -> list[str]:
        return self.table(SPLITS).filter(split=split)["video_path"].to_list()

    def row(self, name: str, video: str) -> pl.DataFrame:
        return self.table(name).filter(video_path=video).head(1)

    def add(self, name: str, row: pl.DataFrame) -> None:
        self.write(name, pl.concat([self.table(name), row]))

    def replace(self, name: str, video: str, **values: str) -> None:
        """Give the rows of a video other values."""
        here = pl.col("video_path") == video
        self.write(
            name,
            self.table(name).with_columns(
                pl.when(here).then(pl.lit(value)).otherwise(column).alias(column)
                for column, value in values.items()
            ),
        )

    def stopped(self, stage: str) -> str:
        """Run the stage, which must fail for the user's fault; return its output."""
        command = (sys.executable, "-m", f"stages.{stage}", *options(CELL))
        result = completed(*command, cwd=self.root)
        output = result.stdout + result.stderr
        assert result.returncode == 1, output
        assert "Traceback" not in output
        return output


@pytest.fixture
def data(finished: Path, tmp_path: Path) -> Data:
    """Copy what the scripts read, without repository or cache."""
    for name in ("stages", "video", "mlops", "models"):
        shutil.copytree(finished / name, tmp_path / name)
    shutil.copy2(finished / "params.yaml", tmp_path)
    leave = shutil.ignore_patterns("generated_sample")
    shutil.copytree(finished / "data", tmp_path / "data", ignore=leave)
    return Data(tmp_path)


@pytest.mark.parametrize(("stage", "split"), [("train", VAL), ("evaluate", TEST)])
def test_the_same_file_under_another_name(data: Data, stage: str, split: str) -> None:
    original = data.videos(TRAIN)[0]
    held_out = data.row(SPLITS, data.videos(split)[0])
    for name in (SPLITS, CLIPS, AUGMENTED):
        data.add(name, data.row(name, original).with_columns(video_path=pl.lit("renamed.mp4")))
    data.replace(SPLITS, "renamed.mp4", group="another")
    fold = pl.when(video_path="renamed.mp4").then(held_out["fold"][0]).otherwise("fold")
    data.write(SPLITS, data.table(SPLITS).with_columns(fold=fold))

    output = data.stopped(stage)

    assert "share the sha256" in output
    assert "'renamed.mp4'" in output
    assert f"'{original}'" in output


@pytest.mark.parametrize("stage", ["train", "evaluate"])
def test_the_same_pictures_in_another_file(data: Data, stage: str) -> None:
    original, copy = data.videos(TRAIN)[0], data.videos(TEST)[0]
    pictures = data.row(CLIPS, original)
    data.replace(CLIPS, copy, pack=pictures["pack"][0], clip_sha256=pictures["clip_sha256"][0])

    output = data.stopped(stage)

    assert f"test and train share the clip_sha256 {pictures['clip_sha256'][0]}" in output
    assert f"'{copy}' and '{original}'" in output


def alike(fingerprint: list[int]) -> list[int]:
    """Return hashes as after another encoding: one bit of the second word differs in each."""
    return [
        word ^ 1 if place % WORDS_PER_HASH == 1 else word for place, word in enumerate(fingerprint)
    ]


@pytest.mark.parametrize(("stage", "split"), [("train", VAL), ("evaluate", TEST)])
def test_the_same_pictures_encoded_anew(data: Data, stage: str, split: str) -> None:
    original, copy = data.videos(TRAIN)[0], data.videos(split)[0]
    table = data.table(CLIPS)
    (known,) = data.row(CLIPS, original)["fingerprint"].to_list()
    values = [
        alike(known) if path == copy else fingerprint
        for path, fingerprint in table.select("video_path", "fingerprint").iter_rows()
    ]
    column = pl.Series("fingerprint", values, dtype=table.schema["fingerprint"])
    data.write(CLIPS, table.with_columns(column))

    output = data.stopped(stage)

    assert "show the same pictures" in output
    assert f"'{original}'" in output
    assert f"'{copy}'" in output
    assert "at a distance of 0.0" in output


def test_a_table_without_fingerprints_cannot_pass(data: Data) -> None:
    data.write(CLIPS, data.table(CLIPS).drop("fingerprint"))

    assert "expected a column fingerprint" in data.stopped("evaluate")


IDENTITY = ("video_path", "sha256", "label", "group")


def test_augmented_copies_of_a_test_video(data: Data) -> None:
    parent = data.videos(TEST)[0]
    facts = data.row(CLIPS, parent).select(IDENTITY).row(0)
    planted = data.row(AUGMENTED, data.videos(TRAIN)[0])
    data.add(AUGMENTED, renamed(planted, facts))

    assert f"expected none of a test video, got those of '{parent}'" in data.stopped("train")


def test_a_video_of_a_fold_without_augmented_copies(data: Data) -> None:
    video = data.videos(TRAIN)[0]
    data.write(AUGMENTED, data.table(AUGMENTED).filter(pl.col("video_path") != video))

    assert f"of the folds or of none, got none of '{video}' in fold 1" in data.stopped("train")


def test_a_validation_videos_augmented_copy_as_that_of_a_training_video(data: Data) -> None:
    claimed, parent = data.videos(TRAIN)[0], data.videos(VAL)[0]
    facts = data.row(CLIPS, claimed).select(IDENTITY).row(0)
    copy = data.row(AUGMENTED, parent)
    data.add(AUGMENTED, renamed(copy, facts))

    output = data.stopped("train")

    assert f"train and val share the clip_sha256 {copy['clip_sha256'][0]}" in output
    assert f"'{claimed}' and '{parent}'" in output


def renamed(row: pl.DataFrame, facts: tuple[str, ...]) -> pl.DataFrame:
    """Return the row under the IDENTITY of another video."""
    return row.with_columns(
        pl.lit(value, dtype=row.schema[name]).alias(name)
        for name, value in zip(IDENTITY, facts, strict=True)
    )


def test_an_augmented_copy_of_a_held_out_video_under_a_training_videos_name(data: Data) -> None:
    claimed, parent = data.videos(TRAIN)[0], data.videos(VAL)[0]
    data.replace(AUGMENTED, claimed, sha256=data.row(CLIPS, parent)["sha256"][0])

    output = data.stopped("train")

    assert f"got '{claimed}' with content" in output
    assert f"that content as '{parent}'" in output


@pytest.mark.parametrize(
    ("stage", "table"),
    [("train", SPLITS), ("train", CLIPS), ("train", AUGMENTED), ("evaluate", SPLITS)],
)
def test_a_table_without_its_groups(data: Data, stage: str, table: str) -> None:
    data.write(table, data.table(table).drop("group"))

    name = {SPLITS: "splits", CLIPS: "clips", AUGMENTED: "augmented copies"}[table]
    told = f"{stage}: {name}: expected a column group, without it nothing is proven"
    assert told in data.stopped(stage)


@pytest.mark.parametrize("stage", ["train", "evaluate"])
def test_a_video_in_two_folds(data: Data, stage: str) -> None:
    video = data.videos(TRAIN)[0]
    row = data.row(SPLITS, video)
    data.add(SPLITS, row.with_columns(fold=pl.lit(0, row.schema["fold"]), split=pl.lit(VAL)))

    assert f"got '{video}' in fold 1 and in fold 0" in data.stopped(stage)


@pytest.mark.parametrize("stage", ["train", "evaluate"])
def test_a_video_that_the_splits_do_not_know(data: Data, stage: str) -> None:
    video = data.videos(TEST)[0]
    data.write(SPLITS, data.table(SPLITS).filter(pl.col("video_path") != video))

    assert f"the splits have no '{video}'" in data.stopped(stage)


def swap(first: Path, second: Path) -> None:
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)


def truncate(pack: Path, _: Path) -> None:
    pack.write_bytes(pack.read_bytes()[:-1])


def remove(pack: Path, _: Path) -> None:
    pack.unlink()


@pytest.mark.parametrize(
    ("stage", "split", "harm"),
    [
        ("train", TRAIN, swap),
        ("train", VAL, truncate),
        ("evaluate", TEST, swap),
        ("evaluate", TEST, remove),
    ],
)
def test_a_pack_changed_on_disk(
    data: Data, stage: str, split: str, harm: Callable[[Path, Path], None]
) -> None:
    other = VAL if split != VAL else TEST
    packs = [data.row(CLIPS, data.videos(part)[0])["pack"][0] for part in (split, other)]
    harm(*(data.root / "data/clips" / name for name in packs))

    output = data.stopped(stage)

    harmed = packs if harm is swap else packs[:1]
    assert any(f"{stage}: data/clips/{name}: expected" in output for name in harmed)
    assert "make it again" in output
