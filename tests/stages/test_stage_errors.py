"""What a user reads when the input is at fault: the stage, the place, and what to do.

The scripts run as DVC runs them, in a directory of the user's with real files.
"""

import csv
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from ruamel.yaml import YAML

from tests.support.clone import run_stage
from tests.support.live_processes import children, outliving
from video.splitting.splits import class_names
from video.synthesis.encoding import encode_video

ROOT = Path(__file__).parents[2]

Row = dict[str, str]


class Project:
    """A directory with params.yaml, videos and an index, in which single stages are run."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.videos = root / "data/mine"
        self.videos.mkdir(parents=True)
        own = {"index": "data/mine/index.csv", "root": "data/mine"}
        # One, for each takes half a second of CPU to start.
        self.write_params({"data": own, "runtime": {"workers": 1}})

    def write_params(self, changes: dict[str, Any]) -> None:
        yaml = YAML()
        path = self.root / "params.yaml"
        document = yaml.load(path if path.exists() else ROOT / "params.yaml")
        for section, values in changes.items():
            document[section].update(values)
        yaml.dump(document, path)

    def add_video(self, name: str, num_frames: int = 12, shade: int = 0) -> bytes:
        # Noise, so that most of the file is pictures, as in any real video.
        noise = np.random.default_rng(shade)
        frames = [noise.integers(0, 256, (48, 64, 3), np.uint8) for _ in range(num_frames)]
        encode_video(self.videos / name, frames, codec="h264", fps=12, quality=50)
        return (self.videos / name).read_bytes()

    def write_index(self, rows: list[Row]) -> None:
        columns = ["video_path", "label", "dup_group"]
        with (self.videos / "index.csv").open("w", newline="") as stream:
            writer = csv.DictWriter(stream, columns)
            writer.writeheader()
            writer.writerows(rows)

    def run(self, stage: str, *arguments: str) -> tuple[int, str]:
        return run_stage(stage, *arguments, cwd=self.root)

    def fail(self, stage: str, *arguments: str) -> str:
        """Run a stage that must fail for the user's fault, and give what it says."""
        code, output = self.run(stage, *arguments)
        assert code == 1, output
        assert "Traceback" not in output
        return output

    def quarantine(self) -> dict[str, str]:
        """Return verdict and reason by path."""
        table = pl.read_csv(self.root / "data/quarantine.csv")
        told = pl.concat_str("verdict", "reason", separator=": ")
        return dict(table.select("video_path", told).iter_rows())


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def row(path: str, label: str = "authentic", group: str = "") -> Row:
    return {"video_path": path, "label": label, "dup_group": group}


def two_good_rows(project: Project) -> list[Row]:
    project.add_video("a.mp4")
    project.add_video("b.mp4", shade=5)
    return [row("a.mp4", "authentic"), row("b.mp4", "tampered")]


def test_the_classes_keep_the_order_of_params_yaml(project: Project) -> None:
    project.write_index(two_good_rows(project))
    for labels in (["tampered", "authentic"], ["authentic", "tampered"]):
        project.write_params({"data": {"labels": labels}})
        assert project.run("load_data")[0] == 0
        assert class_names(pl.read_parquet(project.root / "data/videos.parquet")) == labels


def test_a_content_under_two_suffixes_is_two_contents(project: Project) -> None:
    """FFmpeg looks at the suffix too."""
    rows = two_good_rows(project)
    shutil.copy(project.videos / "a.mp4", project.videos / "a.mov")
    shutil.copy(project.videos / "a.mp4", project.videos / "copy.MP4")
    project.write_index([*rows, row("a.mov"), row("copy.MP4")])
    code, output = project.run("load_data")
    assert code == 0, output
    assert "load_data: 3 videos decoded, 0 known; 4 usable" in output


def test_groups_that_differ_in_case_alone_are_warned_of(project: Project) -> None:
    first, second = two_good_rows(project)
    project.write_index([first | {"dup_group": "cam1"}, second | {"dup_group": "Cam1 "}])
    code, output = project.run("load_data")
    assert code == 0, output
    assert "differ in case or white space alone are different groups: 'Cam1' and 'cam1'" in output


def test_a_wrong_params_yaml_stops_a_stage_before_it_works(project: Project) -> None:
    project.write_index(two_good_rows(project))
    project.write_params({"load_data": {"max_quarantined": 2}, "train": {"epochs": "ten"}})
    output = project.fail("load_data")
    assert "load_data: params.yaml: load_data.max_quarantined: expected a value <= 1" in output
    assert "load_data: params.yaml: train.epochs: expected a whole number, got str 'ten'" in output
    assert not (project.root / "data/videos.parquet").exists()


def test_an_index_that_does_not_exist_is_named(project: Project) -> None:
    assert "load_data: data/mine/index.csv: expected the index" in project.fail("load_data")


def test_a_missing_column_is_named_with_those_that_are_there(project: Project) -> None:
    (project.videos / "index.csv").write_text("video_path,label\na.mp4,authentic\n")
    output = project.fail("load_data")
    assert "data/mine/index.csv: expected a column 'dup_group', got the columns" in output
    assert "data.group_column" in output


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected a header and rows, got an empty file"),
        (b"video_path,label,dup_group\n", "expected at least one row"),
        (b"video_path,label,dup_group\n\xff.mp4,authentic,\n", "line 2: expected UTF-8, got byte"),
    ],
    ids=["empty", "header only", "not UTF-8"],
)
def test_an_index_that_is_no_table_is_refused(
    project: Project, content: bytes, message: str
) -> None:
    (project.videos / "index.csv").write_bytes(content)
    assert f"load_data: data/mine/index.csv: {message}" in project.fail("load_data").replace(
        "index.csv line", "index.csv: line"
    )


def test_every_unusable_row_is_quarantined_with_its_reason(project: Project) -> None:
    content = project.add_video("good.mp4", num_frames=40)
    (project.videos / "cut.mp4").write_bytes(content[: len(content) // 2])
    (project.videos / "page.mp4").write_text("<html>not found</html>")
    (project.videos / "empty.mp4").write_bytes(b"")
    project.write_params({"load_data": {"max_quarantined": 1}})
    project.write_index(
        [
            *two_good_rows(project),
            row("gone.mp4"),
            row("cut.mp4"),
            row("page.mp4"),
            row("empty.mp4"),
            row("../../secret.mp4"),
            row("/etc/hostname"),
            row("good.mp4", "genuine"),
            row("a.mp4", "authentic"),
        ]
    )
    code, output = project.run("load_data")
    assert code == 0, output
    reasons = project.quarantine()
    assert reasons["gone.mp4"].startswith("missing: video_path 'gone.mp4' not found under")
    assert reasons["cut.mp4"].startswith(("truncated", "unreadable"))
    assert reasons["page.mp4"].startswith("unreadable")
    assert "the file is empty" in reasons["empty.mp4"]
    assert "leaves data/mine" in reasons["../../secret.mp4"]
    assert "leaves data/mine" in reasons["/etc/hostname"]
    assert (
        "invalid: label: expected one of authentic, tampered, got 'genuine'"
        in (reasons["good.mp4"])
    )
    assert reasons["a.mp4"] == "duplicate: row 1 names the same file"
    assert pl.read_parquet(project.root / "data/videos.parquet").height == 2


def half_of_a_bright_video(path: Path) -> bytes:
    noise = np.random.default_rng(0)
    bright = [noise.integers(180, 256, (64, 64, 3), np.uint8) for _ in range(40)]
    encode_video(path, bright, codec="mpeg4", fps=12, quality=50)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    return path.read_bytes()


def test_what_decodes_of_a_quarantined_video_is_kept_for_the_report(project: Project) -> None:
    half_of_a_bright_video(project.videos / "cut.avi")
    (project.videos / "empty.mp4").write_bytes(b"")
    project.write_params({"load_data": {"max_quarantined": 1}})
    project.write_index([*two_good_rows(project), row("cut.avi"), row("empty.mp4")])
    code, output = project.run("load_data")
    assert code == 0, output
    quarantine = pl.read_csv(project.root / "data/quarantine.csv")
    assert quarantine["verdict"].to_list() == ["truncated", "unreadable"]
    ((number, pack),) = pl.read_csv(project.root / "data/quarantined/rows.csv").rows()
    assert number == quarantine["row"][0]
    frames = np.load(project.root / "data/quarantined" / pack)
    assert frames.shape == (1, 8, 72, 128, 3)
    # Bright, between black bars at its sides.
    assert frames[0, :, 36, 40:88].min() > 100
    assert frames[0, :, :, 0].max() == 0


def test_of_many_quarantined_videos_fifty_are_pictured(project: Project) -> None:
    half = half_of_a_bright_video(project.videos / "0.avi")
    for number in range(1, 52):
        # Other contents that decode alike.
        (project.videos / f"{number}.avi").write_bytes(half + bytes(number))
    project.write_params({"load_data": {"max_quarantined": 1}})
    broken = [row(f"{number}.avi") for number in range(52)]
    project.write_index([*two_good_rows(project), *broken])
    code, output = project.run("load_data")
    assert code == 0, output
    assert len(project.quarantine()) == 52
    pictured = pl.read_csv(project.root / "data/quarantined/rows.csv")
    assert pictured["row"].to_list() == list(range(3, 53))
    assert {path.name for path in (project.root / "data/quarantined").glob("*.npy")} == set(
        pictured["pack"]
    )


def add_hanging_video(project: Project) -> None:
    """Make hang.mp4 a pipe to which nobody writes."""
    os.mkfifo(project.videos / "pipe.mp4")
    (project.videos / "hang.mp4").write_text("ffconcat version 1.0\nfile pipe.mp4\n")


def test_a_hostile_file_costs_one_row(project: Project) -> None:
    rows = two_good_rows(project)
    add_hanging_video(project)
    with (project.videos / "endless.mp4").open("wb") as stream:
        stream.truncate(2**40)
    picture = np.zeros((6000, 6000, 3), np.uint8)
    encode_video(project.videos / "vast.mp4", [picture] * 3, codec="h264", fps=12, quality=10)
    project.add_video("long.mp4", num_frames=30)
    limits = {"time_limit_sec": 3.0, "memory_limit_mb": 64, "max_duration_sec": 2.0}
    project.write_params({"load_data": {"max_quarantined": 1} | limits})
    names = ["hang.mp4", "endless.mp4", "vast.mp4", "long.mp4", "pipe.mp4"]
    project.write_index([*rows, *map(row, names)])
    code, output = project.run("load_data")
    assert code == 0, output
    assert "load_data: 5 videos decoded, 0 known; 2 usable, 5 rows in data/quarantine" in output
    timeout = "timeout: inspection took more than 3 s; remove it, or raise load_data.time_limit_sec"
    assert project.quarantine() == {
        "hang.mp4": timeout,
        "endless.mp4": timeout,
        "vast.mp4": "out_of_memory: inspection took more than 64 MB of memory; remove it, or raise "
        "load_data.memory_limit_mb",
        "long.mp4": "too_long: it lasts more than 2 s",
        "pipe.mp4": "invalid: video_path 'pipe.mp4' is no file; name the video itself",
    }


@contextmanager
def started(project: Project, stage: str, until: str) -> Iterator[subprocess.Popen[str]]:
    """Start a stage; yield it as soon as a file matches the pattern `until`."""
    with subprocess.Popen(
        [sys.executable, "-m", f"stages.{stage}"],
        cwd=project.root,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        text=True,
        stderr=subprocess.PIPE,
    ) as process:
        while not list(project.root.glob(until)):
            assert process.poll() is None
            time.sleep(0.005)
        yield process


def kill_when(project: Project, stage: str, pattern: str) -> None:
    """Start a stage and kill it as soon as a file matches the pattern."""
    with started(project, stage, pattern) as process:
        process.kill()


def add_eight_videos(project: Project) -> list[Row]:
    names = [f"{number}.mp4" for number in range(8)]
    for number, name in enumerate(names):
        project.add_video(name, num_frames=200, shade=number)
    project.write_params({"runtime": {"workers": 1}})
    return [*two_good_rows(project), *map(row, names)]


def test_no_worker_outlives_load_data_in_a_video_that_hangs(project: Project) -> None:
    rows = two_good_rows(project)
    add_hanging_video(project)
    project.write_params({"runtime": {"workers": 1}, "load_data": {"time_limit_sec": 600.0}})
    project.write_index([row("hang.mp4"), *rows])
    with started(project, "load_data", "runs/.load_data/inspections.parquet") as process:
        writer = opened_for_writing(project.videos / "pipe.mp4")
        workers = children(process.pid)
        process.kill()
    assert workers
    assert outliving(workers, 10) == []
    os.close(writer)


def opened_for_writing(pipe: Path) -> int:
    """Open the pipe as soon as a reader waits for it."""
    for _ in range(6_000):
        with suppress(OSError):
            return os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
        time.sleep(0.005)
    pytest.fail(f"nothing reads {pipe}")


def test_load_data_killed_or_failed_decodes_no_video_twice(project: Project) -> None:
    (project.videos / "page.mp4").write_text("<html>not found</html>")
    project.write_index([*add_eight_videos(project), row("page.mp4")])
    saved = project.root / "runs/.load_data/inspections.parquet"
    kill_when(project, "load_data", "runs/.load_data/inspections.parquet")
    assert 1 <= pl.read_parquet(saved).height < 11

    project.fail("load_data")
    assert pl.read_parquet(saved).height == 11

    project.write_params({"load_data": {"max_quarantined": 1}})
    code, output = project.run("load_data")
    assert code == 0, output
    assert "load_data: 0 videos decoded, 11 known; 10 usable, 1 row" in output
    assert not saved.exists()
    tables = [project.root / f"data/{name}.parquet" for name in ("videos", "inspections")]
    contents = [table.read_bytes() for table in tables]
    assert "load_data: 11 videos decoded, 0 known" in project.run("load_data")[1]
    assert [table.read_bytes() for table in tables] == contents


def test_a_video_that_changes_while_load_data_works_is_named(project: Project) -> None:
    rows = two_good_rows(project)
    add_hanging_video(project)
    other = project.videos / "other"
    other.write_bytes(project.add_video("changing.mp4", shade=2) + b"more")
    project.write_params({"runtime": {"workers": 1}, "load_data": {"time_limit_sec": 5.0}})
    # All are hashed, then decoded from the last one on, which is saved before the one that hangs.
    project.write_index([row("changing.mp4"), row("hang.mp4"), *rows])
    with started(project, "load_data", "runs/.load_data/inspections.parquet") as process:
        other.replace(project.videos / "changing.mp4")
        _, said = process.communicate()
    assert process.returncode == 1
    assert (
        "data/mine/changing.mp4: expected one content while it was inspected, got another at the "
        "end; wait until nothing writes to it and run the same command again" in said
    )


def prepare_augmentation(project: Project) -> None:
    """Prepare ten small videos, of which eight are outside the test set."""
    rows = add_eight_videos(project)
    for number, video in enumerate(rows):
        video["label"] = ("authentic", "tampered")[number % 2]
    project.write_index(rows)
    project.write_params(
        {
            "split": {"test_share": 0.2, "num_folds": 2, "rebalance": "auto"},
            "clips": {"height": 32, "width": 32},
            "augment": {"copies": 30},
        }
    )
    for stage in ("load_data", "create_splits"):
        code, output = project.run(stage)
        assert code == 0, output


def test_a_pack_that_changed_is_not_augmented(project: Project) -> None:
    prepare_augmentation(project)
    assert project.run("create_dataset")[0] == 0
    for pack in (project.root / "data/clips").iterdir():
        content = bytearray(pack.read_bytes())
        content[-1] ^= 1
        pack.write_bytes(content)
    output = project.fail("generate_augmentations")
    assert "expected a clip with sha256" in output
    assert "dvc repro --force --single-item create_dataset" in output


@pytest.mark.parametrize(
    ("stage", "packs", "said", "num_packs"),
    [
        ("create_dataset", "data/clips", r"(\d+) videos? decoded, (\d+) packs? reused", 10),
        (
            "generate_augmentations",
            "data/augmented",
            r"(\d+) videos? aug.*, (\d+) packs? reused",
            8,
        ),
    ],
    ids=["create_dataset", "generate_augmentations"],
)
def test_a_stage_that_was_killed_makes_no_pack_twice(
    project: Project, stage: str, packs: str, said: str, num_packs: int
) -> None:
    prepare_augmentation(project)
    if stage != "create_dataset":
        assert project.run("create_dataset")[0] == 0
    kill_when(project, stage, f"runs/.{stage}/*")
    # As DVC does before it starts a stage, while a worker on another machine is still writing.
    directory = project.root / packs
    shutil.rmtree(directory)
    directory.mkdir()
    (directory / ".0123.abcd1234.tmp.npy").write_bytes(b"half of it")

    output = project.run(stage)[1]
    found = re.search(f"{stage}: {said}", output)
    assert found, output
    made, reused = map(int, found.groups())
    assert reused >= 1
    assert made + reused == num_packs
    assert not (project.root / f"runs/.{stage}").exists()
    contents = {path.name: path.read_bytes() for path in directory.iterdir()}
    assert len(contents) == num_packs
    found = re.search(f"{stage}: {said}", project.run(stage)[1])
    assert found
    assert [int(number) for number in found.groups()] == [num_packs, 0]
    for name, content in contents.items():
        assert (directory / name).read_bytes() == content


def test_the_number_of_workers_changes_no_byte_of_the_tables(project: Project) -> None:
    rows = two_good_rows(project)
    project.write_index([*rows, row("gone.mp4")])
    contents = []
    for workers in (1, 3):
        changes = {"load_data": {"max_quarantined": 1}, "runtime": {"workers": workers}}
        project.write_params(changes)
        assert project.run("load_data")[0] == 0
        tables = ("videos.parquet", "inspections.parquet", "quarantine.csv")
        contents.append([(project.root / "data" / name).read_bytes() for name in tables])
    assert contents[0] == contents[1]


def test_copies_of_one_file_with_two_labels_are_both_quarantined(project: Project) -> None:
    rows = two_good_rows(project)
    (project.videos / "c.mp4").write_bytes(project.add_video("d.mp4", shade=7))
    project.write_params({"load_data": {"max_quarantined": 0.5}})
    project.write_index([*rows, row("c.mp4", "authentic"), row("d.mp4", "tampered")])
    code, output = project.run("load_data")
    assert code == 0, output
    reasons = project.quarantine()
    assert reasons["c.mp4"] == "contradiction: row 4 holds the same bytes with another label"
    assert reasons["d.mp4"] == "contradiction: row 3 holds the same bytes with another label"


def test_rows_that_are_left_out_link_their_groups_all_the_same(project: Project) -> None:
    """One file in two groups with two labels is no use, but tells that the groups are one."""
    for number, name in enumerate(["a.mp4", "b.mp4", "c.mp4", "shared.mp4"]):
        project.add_video(name, shade=number)
    shutil.copy2(project.videos / "shared.mp4", project.videos / "copy.mp4")
    rows = [
        row("a.mp4", "authentic", "1"),
        row("b.mp4", "tampered", "2"),
        row("c.mp4", "tampered", "3"),
        row("shared.mp4", "authentic", "1"),
        row("./shared.mp4", "tampered", "2"),
        row("copy.mp4", "authentic", "3"),
    ]
    project.write_index(rows)
    project.write_params({"load_data": {"max_quarantined": 1}})
    code, output = project.run("load_data")
    assert code == 0, output
    videos = pl.read_parquet(project.root / "data/videos.parquet")
    assert videos["group"].to_list() == ["1", "2", "3", "3"]
    assert videos["linked_group"].to_list() == ["1", "1", "1", "1"]


def test_too_many_unusable_rows_fail_the_stage_and_each_is_named(project: Project) -> None:
    project.write_index([*two_good_rows(project), row("x.mp4"), row("y.mp4")])
    output = project.fail("load_data")
    assert "got 2 of 4 (50.0%)" in output
    for name, number in (("x.mp4", 3), ("y.mp4", 4)):
        assert f"load_data: data/mine/index.csv row {number}: missing: " in output
        assert f"video_path '{name}' not found under data/mine" in output
    assert set(project.quarantine()) == {"x.mp4", "y.mp4"}


def test_a_class_without_a_usable_video_fails_the_stage(project: Project) -> None:
    project.write_index(two_good_rows(project)[:1])
    assert "got none of 'tampered'" in project.fail("load_data")


def test_too_few_groups_for_the_folds_are_said_with_the_fold(project: Project) -> None:
    project.write_index(two_good_rows(project))
    assert project.run("load_data")[0] == 0
    output = project.fail("create_splits")
    assert "create_splits: fold" in output
    assert "lower split.num_folds" in output


def test_a_video_changed_behind_the_pipeline_is_refused(project: Project) -> None:
    project.write_index(two_good_rows(project))
    assert project.run("load_data")[0] == 0
    project.add_video("a.mp4", shade=9)
    output = project.fail("create_dataset")
    assert "data/mine/a.mp4: expected the content that load_data verified" in output


def test_a_project_model_has_no_kinetics_weights(project: Project) -> None:
    project.write_params({"init_model": {"weights": "kinetics400"}})
    output = project.fail("init_model", "--model", "small3d", "--seed", "0")
    assert "expected random or a file for small3d, got kinetics400" in output


def test_without_network_the_error_says_how_to_provide_the_weights(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(project.root / "cache"))
    # Nothing listens there: the download fails on any machine as it does without a network.
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    project.write_params({"init_model": {"weights": "kinetics400"}})
    output = project.fail("init_model", "--model", "r3d_18", "--seed", "0")
    assert "init_model: init_model.weights: expected to download r3d_18-" in output
    assert f"into {project.root / 'cache/hub/checkpoints'}" in output


def test_weights_of_a_local_file_are_taken(project: Project) -> None:
    assert project.run("init_model", "--model", "small3d", "--seed", "0")[0] == 0
    first = (project.root / "models/small3d/seed0/init.pt").rename(project.root / "data/first.pt")
    project.write_params({"init_model": {"weights": "file", "weights_file": "data/first.pt"}})
    code, output = project.run("init_model", "--model", "small3d", "--seed", "5")
    assert code == 0, output
    assert (project.root / "models/small3d/seed5/init.pt").read_bytes() == first.read_bytes()


def test_a_missing_cell_is_named(project: Project) -> None:
    output = project.fail("report")
    path = "results/small3d/fold0/seed0/evaluation.json"
    assert f"report: {path}: expected the result of small3d on fold 0 with seed 0" in output


@pytest.mark.parametrize(
    ("stage", "missing"),
    [
        ("create_splits", "data/videos.parquet"),
        ("create_dataset", "data/videos.parquet"),
        ("generate_augmentations", "data/clips.parquet"),
    ],
)
def test_a_stage_before_its_turn_names_what_it_misses(
    project: Project, stage: str, missing: str
) -> None:
    output = project.fail(stage)
    assert f"{stage}: {missing}: expected a file, found none; run dvc repro" in output


def test_a_cell_that_params_yaml_does_not_name_is_refused(project: Project) -> None:
    output = project.fail("train", "--model", "small3d", "--fold", "0", "--seed", "9")
    assert "the fold 0 in folds and the seed 9 in seeds, got ['small3d'], [0] and [0]" in output


def test_a_video_that_may_not_be_read_costs_one_row(project: Project) -> None:
    project.write_index([*two_good_rows(project), row("locked.mp4")])
    (project.videos / "locked.mp4").symlink_to("/proc/self/mem")
    project.write_params({"load_data": {"max_quarantined": 0.5}})
    code, output = project.run("load_data")
    assert code == 0, output
    assert project.quarantine()["locked.mp4"].startswith("unreadable: the file cannot be read: ")


def test_an_index_separated_by_semicolons_is_read_and_told(project: Project) -> None:
    project.add_video("a.mp4")
    project.add_video("b.mp4", shade=5)
    text = "sep=;\r\nvideo_path;label;dup_group\r\na.mp4;authentic;\r\nb.mp4;tampered;g\r\n"
    (project.videos / "index.csv").write_bytes(text.encode("utf-8-sig"))
    code, output = project.run("load_data")
    assert code == 0, output
    assert (
        "load_data: data/mine/index.csv: 2 rows, UTF-8 with a byte order mark, fields separated by "
        "semicolons, as its first line says; path 'video_path', label 'label', group 'dup_group'"
    ) in output
    assert pl.read_parquet(project.root / "data/videos.parquet")["group"].to_list() == [None, "g"]


def test_labels_are_compared_before_anything_is_decoded(project: Project) -> None:
    rows = two_good_rows(project) + [row(f"{number}.mp4", "Authentik") for number in range(6000)]
    project.write_index(rows)
    lines = project.fail("load_data").splitlines()
    assert len(lines) < 15
    assert (
        "load_data: data/mine/index.csv: label 'Authentik' (6000 rows) is not in data.labels "
        "[authentic, tampered]; did you mean authentic?"
    ) in lines
    assert not (project.root / "runs").exists()
    assert not any("reading" in line or "decoded" in line for line in lines)
    assert len(project.quarantine()) == 6000


def test_labels_may_be_whole_numbers(project: Project) -> None:
    rows = two_good_rows(project)
    project.write_params({"data": {"labels": [0, 1]}})
    project.write_index([rows[0] | {"label": "0"}, rows[1] | {"label": "1"}])
    code, output = project.run("load_data")
    assert code == 0, output
    assert class_names(pl.read_parquet(project.root / "data/videos.parquet")) == ["0", "1"]


def test_a_table_with_a_fault_in_each_of_6000_rows_is_told_in_one_line(project: Project) -> None:
    rows = "".join(f"{number}.mp4,authentic,g,more\n" for number in range(6000))
    (project.videos / "index.csv").write_text("video_path,label,dup_group\n" + rows)
    assert project.fail("load_data").splitlines() == [
        "load_data: data/mine/index.csv: rows 1, 2, 3, 4, 5 and 5995 more: expected 3 fields, got "
        "4; quote a field that holds a comma"
    ]


def test_videos_whose_names_differ_in_case_alone_are_warned_of(project: Project) -> None:
    rows = two_good_rows(project)
    project.add_video("A.mp4", shade=9)
    project.write_index([*rows, row("A.mp4")])
    code, output = project.run("load_data")
    assert code == 0, output
    assert "videos whose names differ in case or white space alone are different" in output
    assert "'A.mp4' and 'a.mp4'" in output
