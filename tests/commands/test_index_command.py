"""An index of what people have: every layout, every guess, and what is wrong with the input."""

import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import av
import numpy as np
import polars as pl
import pytest

from commands.index import command
from commands.index.files import scan
from commands.index.grouping import GroupBy, Named, guessed_groups
from mlops.errors import PipelineError
from mlops.files.canonical import flatten
from mlops.files.yaml_text import load_yaml
from tests.support.clone import run_stage
from video.synthesis.encoding import encode_video

ROOT = Path(__file__).parents[2]

CLASSES = [f"{label}/{n}.mp4" for label in ("fight", "play") for n in range(6)]


def encoded(path: Path, seed: int, num_frames: int = 12) -> None:
    noise = np.random.default_rng(seed)
    frames = [noise.integers(0, 256, (48, 64, 3), np.uint8) for _ in range(num_frames)]
    encode_video(path, frames, codec="h264", fps=12, quality=50)


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("encoded") / "video.mp4"
    encoded(path, seed=0)
    return path


class Project:
    """A repository with params.yaml and nothing else, and a folder of someone's files in it."""

    def __init__(self, video: Path) -> None:
        self.video = video
        self.folder = Path("data/mine")

    def add(self, *paths: str) -> None:
        """Put a video at each of the paths below the folder."""
        for path in paths:
            place = self.folder / path
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(self.video, place)

    def write(self, path: str, text: str | bytes) -> None:
        place = self.folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(text if isinstance(text, bytes) else text.encode())

    def index(self, *options: str) -> pl.DataFrame:
        """Run the command for the folder; return the index, "" as null."""
        command.main([str(self.folder), *options], standalone_mode=False)
        return pl.read_csv(Path("data", "mine", "index.csv"), infer_schema=False)

    def refused(self, *options: str) -> str:
        before = sorted(Path().rglob("*"))
        with pytest.raises(PipelineError) as caught:
            command.main([str(self.folder), *options], standalone_mode=False)
        assert sorted(Path().rglob("*")) == before
        return str(caught.value)


@pytest.fixture
def project(video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    Path("data/mine").mkdir(parents=True)
    return Project(video)


def by_path(index: pl.DataFrame, column: str) -> Mapping[str, str | None]:
    return dict(index.select("video_path", column).iter_rows())


# Layouts


def test_class_folders(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    project.add(*CLASSES)

    index = project.index()

    assert by_path(index, "label") == {path: path.split("/")[0] for path in CLASSES}
    assert index.columns == ["video_path", "label", "group"]
    output = capsys.readouterr().out
    assert "12 videos from class folders" in output
    assert "fight       6       6" in output
    assert "next: dvc repro report" in output
    assert load_yaml(Path("params.yaml")) == load_yaml(ROOT / "params.yaml")


@pytest.mark.parametrize("parts", [("train", "val", "test"), ("Training", "Validation", "Testing")])
def test_split_folders(project: Project, parts: Sequence[str]) -> None:
    project.add(*(f"{part}/{path}" for part in parts for path in CLASSES[::6]))

    index = project.index("--write")

    assert sorted(index.rows()) == sorted(
        (f"{part}/{path}", path.split("/")[0], None, name)
        for part, name in zip(parts, ("train", "val", "test"), strict=True)
        for path in CLASSES[::6]
    )
    assert load_yaml(Path("params.yaml"))["data"]["split_column"] == "split"


def test_a_folder_around_the_classes_is_no_class(project: Project) -> None:
    project.add(*(f"videos/{path}" for path in CLASSES))
    assert set(project.index()["label"]) == {"fight", "play"}


@pytest.mark.parametrize(
    ("separator", "encoding"), [(",", "utf-8"), ("\t", "utf-8-sig"), (";", "utf-16")]
)
def test_a_table_with_other_columns(project: Project, separator: str, encoding: str) -> None:
    project.add(*(f"{n}.mp4" for n in range(8)))
    rows = [
        (f"{n}", f"{n}.mp4", f"{n / 2}", ("fight", "play")[n % 2], f"person {n // 2}")
        for n in range(8)
    ]
    lines = [("", "File name", "seconds", "Class", "subject"), *rows]
    project.write("who.csv", "\r\n".join(map(separator.join, lines)).encode(encoding))

    index = project.index()

    assert index.columns == ["video_path", "label", "group", "seconds"]
    assert sorted(index.rows()) == [(name, label, who, sec) for _, name, sec, label, who in rows]


def test_columns_can_be_chosen(project: Project) -> None:
    project.add(*(f"{n}.mp4" for n in range(8)))
    lines = [f"{n}.mp4,{n % 2},{n // 4},{n}" for n in range(8)]
    project.write("who.csv", "\n".join(["file,label,weather,day", *lines]))

    index = project.index("--label-column", "weather", "--group-column", "day")

    assert index.row(5) == ("5.mp4", "1", "5", "1")
    assert index.columns == ["video_path", "label", "group", "csv_label"]


def test_a_table_for_each_split(project: Project) -> None:
    for part in ("train", "test"):
        project.add(*(f"{part}{path}" for path in CLASSES))
        lines = [f"{part}{path},{path[:4]}" for path in CLASSES]
        project.write(f"{part}.csv", "\n".join(["video,label", *lines]))

    index = project.index()

    assert by_path(index, "split") == {
        f"{part}{path}": part for part in ("train", "test") for path in CLASSES
    }


def test_mmaction2(project: Project) -> None:
    project.add(*(f"videos/{path}" for path in CLASSES))
    for part, ends in (("train", "0123"), ("val", "4"), ("test", "5")):
        lines = [f"{path} {int('play' in path)}\n" for path in CLASSES if path[-5] in ends]
        project.write(f"mine_{part}_list.txt", "".join(lines))
    project.write("label_map.txt", "brawl\nplay ball\n")

    index = project.index()

    assert by_path(index, "label")["videos/play/3.mp4"] == "play ball"
    assert by_path(index, "split")["videos/fight/4.mp4"] == "val"
    assert index.height == 12


def test_mmaction2_without_names_of_classes(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    project.add(*CLASSES)
    project.write("all.txt", "".join(f"{path} {10 if path[0] == 'f' else 9}\n" for path in CLASSES))

    project.index("--write")

    assert load_yaml(Path("params.yaml"))["data"]["labels"] == ["9", "10"]
    assert "put a file label_map.txt" in capsys.readouterr().out


def test_raw_frames_are_refused(project: Project) -> None:
    project.add(*CLASSES)
    for path in CLASSES:
        project.write(f"frames/{path[:-4]}/img_1.jpg", "")
    project.write("train.txt", "".join(f"frames/{path[:-4]} 120 0\n" for path in CLASSES))
    assert "train.txt: expected lines of a video's path and its label" in project.refused()


KINETICS = "label,youtube_id,time_start,time_end,split\n"


def test_kinetics(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [(f"{label}{n:09}", label, n % 3) for label in ("do", "go") for n in range(9)]
    for identity, label, n in rows:
        project.add(f"{('train', 'val', 'test')[n]}/{label}/{identity}_000010_000020.mkv")
    parts = ("train", "validate", "test")
    lines = [f"{label},{identity},10,20,{parts[n]}\n" for identity, label, n in rows]
    project.write("all.csv", KINETICS + "".join(lines) + "do,do-gone____,3,13,train\n")

    index = project.index()

    assert index.columns == ["video_path", "label", "group", "split"]
    assert index.row(0) == ("test/do/do000000002_000010_000020.mkv", "do", "do000000002", "test")
    assert set(index["split"]) == {"train", "val", "test"}
    assert "1 of 19 rows have no video here, as data/mine/all.csv row 19" in capsys.readouterr().out


def test_kinetics_that_is_not_cut(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    project.add(*(f"{n:011}.mp4" for n in range(8)))
    lines = [f"{('do', 'go')[n % 2]},{n:011},{n},{n + 10},train\n" for n in range(8)]
    project.write("train.csv", KINETICS + "".join(lines))

    index = project.index()

    assert index.row(7)[-2:] == ("7", "17")
    assert index.columns[-2:] == ["start_sec", "end_sec"]
    assert (
        "8 rows name videos that are not cut: start_sec and end_sec say" in capsys.readouterr().out
    )


UCF101 = [
    f"{c}/v_{c}_g{g:02}_c{n:02}.avi"
    for c in ("Archery", "Bowling")
    for g in range(3, 7)
    for n in (1, 2)
]


def test_ucf101(project: Project) -> None:
    project.add(*(f"UCF-101/{path}" for path in UCF101))
    for number, parts in ((1, ("03", "04", "05")), (2, ("04", "05", "06"))):
        train = [path for path in UCF101 if path[-10:-8] in parts]
        test = [path for path in UCF101 if path not in train]
        project.write(
            f"lists/trainlist0{number}.txt",
            "".join(f"{path} {1 + (path[0] == 'B')}\r\n" for path in train),
        )
        project.write(f"lists/testlist0{number}.txt", "\r\n".join(test))
    project.write("lists/classInd.txt", "1 Archery\n2 Bowling\n")

    index = project.index()

    first = ("UCF-101/Archery/v_Archery_g03_c01.avi", "Archery", "Archery_g03", "train")
    assert index.row(0) == first
    assert index.group_by("split").len().sort("split").rows() == [("test", 4), ("train", 12)]
    assert pl.read_csv("data/mine/ignored.csv").is_empty()
    second = project.index("--official-split", "2", "--force")
    assert by_path(second, "split")[first[0]] == "test"
    with pytest.raises(PipelineError, match="--official-split: expected one of 1, 2"):
        project.index("--official-split", "3", "--force")


def test_hmdb51(project: Project) -> None:
    for label in ("eat", "run"):
        names = [f"Film_{n // 2}_{label}_u_nm_np1_fr_med_{n}.avi" for n in range(6)]
        project.add(*(f"{label}/{name}" for name in names))
        lines = [f"{name} {(1, 1, 2, 2, 0, 0)[n]} \n" for n, name in enumerate(names)]
        project.write(f"splits/{label}_test_split1.txt", "".join(lines))

    index = project.index()

    assert index.row(0) == ("eat/Film_0_eat_u_nm_np1_fr_med_0.avi", "eat", "Film_0", "train")
    assert index.height == 8
    assert "has it in neither part" in Path("data/mine/ignored.csv").read_text()


# Groups


@pytest.mark.parametrize(
    ("names", "groups"),
    [
        (["a_g01_c01", "a_g01_c02", "a_g02_c01", "a_g02_c02"], ["a_g01"] * 2 + ["a_g02"] * 2),
        (["fi001", "fi002", "fi003", "fi004"], [""] * 4),
        (["x_000010_000020", "x_000030_000040", "y_1_2", "z_1_2"], ["x", "x", "", ""]),
        (["x part1", "x - part 2", "y_clip_03", "y_clip_04"], ["x", "x", "y", "y"]),
        (
            ["VID_20240501_123005", "VID_20240501_123105", "IMG_0001", "IMG_0002", "GX010001"],
            [""] * 5,
        ),
        (
            ["VID-20240501-WA0003", "VID-20240501-WA0004", "20240501_123005", "20240501_1231"],
            [""] * 4,
        ),
        (
            ["c1_2024-05-01_12-30-05", "c1_2024-05-02_12-30-05", "c2_1", "c2_2"],
            ["c1"] * 2 + ["c2"] * 2,
        ),
        (["a", "a copy", "a_720p", "b"], ["a", "a", "a", ""]),
        (["x_1", "x_2", "x_3", "y_1", "y_2"], ["", "", "", "y", "y"]),
        (
            ["GH010042", "GH020042", "GOPR0007", "GP010007", "GX010008", "GX010009"],
            ["GoPro 0042"] * 2 + ["GoPro 0007"] * 2 + [""] * 2,
        ),
        (["001_01", "001_02", "002_01", "002_02"], ["001", "001", "002", "002"]),
    ],
)
def test_groups_are_guessed_from_names(names: Sequence[str], groups: Sequence[str]) -> None:
    videos = [Named(path=f"jump/{name}.mp4", label="jump") for name in names]
    assert guessed_groups(videos, "guess") == groups


def test_a_source_is_known_again_in_another_class() -> None:
    names = ["go/cam1_1.mp4", "go/cam2_1.mp4", "go/cam3_1.mp4", "stay/cam1_2.mp4"]
    videos = [Named(path=name, label=name.split("/")[0]) for name in names]
    assert guessed_groups(videos, "guess") == ["cam1", "", "", "cam1"]


@pytest.mark.parametrize(
    ("by", "groups"),
    [
        (None, ["cam1", "cam1", "cam2", "cam2"]),
        ("folder", ["cam1", "cam1", "cam2", "cam2"]),
        ("name", ["a", "b", "a", "b"]),
        ("none", [None] * 4),
    ],
)
def test_folders_below_the_class_are_groups_unless_told_otherwise(
    project: Project, by: GroupBy | None, groups: Sequence[str | None]
) -> None:
    paths = ["cam1/a_1.mp4", "cam1/b_2.mp4", "cam2/a_3.mp4", "cam2/b_4.mp4"]
    project.add(*(f"{label}/{path}" for label in ("x", "y") for path in paths))
    project.add("x/one.mp4", "x/two.mp4", "y/three.mp4", "y/four.mp4")

    index = project.index(*(["--group-by", by] if by else []))

    of_x = [by_path(index, "group")[f"x/{path}"] for path in paths]
    assert of_x == groups


def test_the_guess_is_told_with_its_rule_and_examples(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    project.add(*(f"{c}/{name}_{n}.mp4" for c in "xy" for name in "abc" for n in (1, 2)))
    project.index()
    output = capsys.readouterr().out
    assert "groups: guessed: videos in one folder below that of their class" in output
    assert "x/a_1.mp4 … y/a_2.mp4: 4 videos, group 'a'" in output
    assert "check: videos cut from one recording" in output
    assert "few groups: the test set and split.num_folds = 5 folds take 6 of each class" in output
    assert "x has 3, y has 3; set split.num_folds to 2" in output


def test_names_that_tell_no_source_are_warned_of(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    project.add(*CLASSES)
    project.index()
    assert "every video is a group of its own, for nothing says" in capsys.readouterr().out


def test_groups_in_several_parts_of_a_given_split_are_warned_of(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    project.add(
        *(
            f"{part}/{c}/cam{n}/{part}.mp4"
            for part in ("train", "test")
            for c in "xy"
            for n in (1, 2)
        )
    )
    project.index()
    assert "2 groups with videos in several parts of the split" in capsys.readouterr().out


def test_a_split_that_cannot_be_followed_is_not(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    project.add(*(f"{part}/{path}" for part in ("train", "val") for path in CLASSES))
    project.index("--write")
    assert load_yaml(Path("params.yaml"))["data"]["split_column"] == ""
    assert "is not followed: no video is in the part test" in capsys.readouterr().out


# What is written


def test_params_yaml_keeps_its_comments_and_says_why_nothing_is_mirrored(project: Project) -> None:
    project.add(*CLASSES)
    before = Path("params.yaml").read_text().splitlines()

    command.main(["data/mine", "--write", "--name", "fights"], standalone_mode=False)

    after = Path("params.yaml").read_text().splitlines()
    params = load_yaml(Path("params.yaml"))
    old = flatten(load_yaml(ROOT / "params.yaml"))
    changed = {key: value for key, value in flatten(params).items() if value != old[key]}
    assert changed == {
        "experiment.name": "fights",
        "experiment.description": "12 videos of mine, from class folders",
        "data.index": "data/fights/index.csv",
        "data.root": "data/mine",
        "data.group_column": "group",
        "data.labels": ["fight", "play"],
        "augment.flip_probability": 0.0,
        "augment.reversal_probability": 0.0,
    } | ({"split.rebalance": "auto"} if old["split.rebalance"] != "auto" else {})
    lines = [
        new.partition(" # ")[2]
        for old_line, new in zip(before, after, strict=True)
        if old_line.partition(" # ")[2] != new.partition(" # ")[2]
    ]
    assert [line.split(",")[0] for line in lines] == ["left and right; 0", "0"]


def test_nothing_is_written_over_without_force(project: Project) -> None:
    project.add(*CLASSES)
    project.write("index.csv", "mine")
    assert "data/mine/index.csv: expected no file" in project.refused()

    project.index("--force")
    project.index("--force")

    assert Path("data/mine/index.csv.replaced1").read_text() == "mine"
    assert Path("data/mine/index.csv.replaced2").exists()
    assert "index.csv" not in pl.read_csv("data/mine/ignored.csv")["path"].to_list()


def test_a_folder_outside_is_linked_and_left_as_it_is(
    project: Project, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    project.folder = tmp_path_factory.mktemp("disk") / "mine"
    project.add(*CLASSES)
    before = sorted(project.folder.rglob("*"))

    index = project.index("--write")

    data = load_yaml(Path("params.yaml"))["data"]
    assert data["root"] == "data/mine/videos"
    assert all(Path(data["root"], path).is_file() for path in index["video_path"])
    assert sorted(project.folder.rglob("*")) == before
    assert "data/mine/videos is a link" in capsys.readouterr().out
    project.index("--force")
    project.folder = project.folder.parent
    assert "data/mine/videos: expected a link to" in project.refused("--force", "--name", "mine")


def test_load_data_takes_what_is_written(project: Project) -> None:
    names = [
        "a b/x #1.mp4",
        "a b/two\nlines.mp4",
        'a b/ ü, "q".mp4',
        "no/1\r.mp4",
        "no/'2'.mp4",
        "no/3.mp4",
    ]
    project.folder = Path("data/My videos #1")
    for seed, name in enumerate(names):
        (project.folder / name).parent.mkdir(parents=True, exist_ok=True)
        encoded(project.folder / name, seed)

    command.main([str(project.folder), "--write"], standalone_mode=False)

    code, output = run_stage("load_data", cwd=Path.cwd())
    assert code == 0, output
    videos = pl.read_parquet("data/videos.parquet")
    assert sorted(videos["video_path"]) == sorted(names)
    assert set(videos["label"].cast(pl.String)) == {"a b", "no"}


# What is wrong with the input


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", format="image2") as container:
        stream = container.add_stream("mjpeg", rate=1)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuvj420p"
        frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
        container.mux(stream.encode(frame.reformat(format="yuvj420p")))
        container.mux(stream.encode(None))


def sound(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=44100)
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        silence.sample_rate, silence.pts = 44100, 0
        container.mux(stream.encode(silence))
        container.mux(stream.encode(None))


def test_files_that_are_no_videos_are_listed_whatever_they_are_called(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    project.add(*CLASSES)
    project.add("play/a video.dat", "above.mp4", ".hidden/a.mp4", "fight/._a.mp4")
    picture(project.folder / "play/picture.mp4")
    sound(project.folder / "fight/sound.mp4")
    encoded(project.folder / "fight/still.mp4", seed=0, num_frames=1)
    project.write("fight/cut.mp4", project.video.read_bytes()[:300])
    project.write("fight/empty.mp4", "")
    project.write("fight/lfs.mp4", "version https://git-lfs.github.com/spec/v1\n")
    project.write("fight/Thumbs.db", "x")
    project.write("notes.txt", "to do")
    Path("data/mine/play/gone.mp4").symlink_to("nowhere")

    index = project.index()

    assert index["video_path"].to_list() == sorted([*CLASSES, "play/a video.dat"])
    ignored = dict(pl.read_csv("data/mine/ignored.csv").iter_rows())
    assert ignored == {
        "above.mp4": "it lies in no folder of a class",
        "fight/cut.mp4": "a video that is cut off, its table of contents is missing: copy it again",
        "fight/empty.mp4": "empty",
        "fight/lfs.mp4": "a pointer of git-lfs: run git lfs pull",
        "fight/sound.mp4": "sound without pictures",
        "fight/still.mp4": "a single picture",
        "notes.txt": "a text",
        "play/gone.mp4": "a link to nothing",
        "play/picture.mp4": "a picture",
    }
    output = capsys.readouterr().out
    assert "9 files left out, see data/mine/ignored.csv:" in output
    assert "  sound without pictures: fight/sound.mp4" in output


def test_links_are_followed_once(project: Project) -> None:
    project.add(*CLASSES)
    Path("data/mine/fight/loop").symlink_to("..")
    Path("data/mine/zoo").symlink_to("fight")
    Path("data/mine/fight/linked.mp4").symlink_to("0.mp4")
    assert sorted(project.index()["video_path"]) == sorted([*CLASSES, "fight/linked.mp4"])


def test_an_empty_folder(project: Project) -> None:
    assert "data/mine: expected videos, found an empty folder; put them" in project.refused()


def test_no_folder(project: Project) -> None:
    project.folder = Path("data/other")
    assert "data/other: expected a folder with videos, found nothing" in project.refused()
    project.folder = project.video
    assert "expected a folder with videos, found a file" in project.refused()


def test_pictures_instead_of_videos(project: Project) -> None:
    for n in range(3):
        picture(project.folder / f"fight/img_{n}.jpg")
    told = project.refused()
    assert "data/mine: expected videos, found 3 pictures, as fight/img_0.jpg" in told
    assert "ffmpeg -framerate 25 -i img_%05d.jpg" in told


def test_files_of_other_kinds_instead_of_videos(project: Project) -> None:
    project.write("fight/a.mp4", "no video")
    assert "data/mine/fight/a.mp4: expected a video, got nothing that FFmpeg" in project.refused()


def test_one_class_only(project: Project) -> None:
    project.add(*CLASSES[:6])
    assert "expected videos of at least 2 classes, got 6 videos of 'fight'" in project.refused()


def test_two_videos_only(project: Project) -> None:
    project.add("fight/a.mp4", "play/b.mp4")
    told = project.refused()
    for label in ("fight", "play"):
        assert f"class '{label}': expected at least 3 groups, one each for" in told
    assert "got 1 of 1 video" in told


def test_a_class_with_one_group(project: Project) -> None:
    project.add(*CLASSES)
    lines = [f"{path},{path[:4]},{path[0] == 'f' or path}" for path in CLASSES]
    project.write("all.csv", "\n".join(["video,label,group", *lines]))
    told = project.refused()
    assert "class 'figh': expected at least 3 groups" in told
    assert "got 1 of 6 videos" in told
    assert "play" not in told


def test_videos_side_by_side_without_a_table(project: Project) -> None:
    project.add("a.mp4", "b.mp4")
    told = project.refused()
    assert "data/mine: expected a folder for each class, or a table" in told
    assert "got 2 videos side by side, as a.mp4, b.mp4" in told


@pytest.mark.parametrize(
    ("table", "fault"),
    [
        (b"video,label\na.mp4,\xe4\n", "t.csv: line 2: expected UTF-8, got byte 0xe4"),
        (b"video,label\nx.mp4,k\n", "t.csv: expected a column that names videos below data/mine"),
        (
            b"video,kind,age\na.mp4,k,1\n",
            "t.csv: expected a column of labels, got the columns video",
        ),
        (b"a.mp4,walk\nb.mp4,run\n", "t.csv: line 1: expected the names of the columns, got a row"),
        (b"video,label\na.mp4,walk\nb.mp4,\n", "t.csv row 2: expected a label, got none"),
        (
            b"video,label\na.mp4,x\nb.mp4,y\nb.mp4,z",
            "t.csv row 3: expected one row for 'b.mp4', got",
        ),
    ],
)
def test_faults_of_a_table(project: Project, table: bytes, fault: str) -> None:
    project.add("a.mp4", "b.mp4")
    project.write("t.csv", table)
    assert fault in project.refused()


def test_words_for_no_value_are_no_group(project: Project) -> None:
    project.add(*CLASSES)
    lines = [f"{path},{path[:4]},{'nan' if '5' in path else path}" for path in CLASSES]
    project.write("t.csv", "\n".join(["video,label,source", *lines]))
    assert "t.csv: group: expected the name of a group or an empty field" in project.refused()


def test_rows_without_a_video_are_left_out_and_told(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    project.add(*CLASSES)
    lines = [f"{path},{path[:4]}" for path in [*CLASSES[:-1], "play/gone.mp4"]]
    project.write("all.csv", "\n".join(["video,label", *lines, lines[0]]))

    index = project.index()

    assert index.height == 11
    output = capsys.readouterr().out
    assert "all.csv row 12: expected a video below data/mine, found none for 'play/gone" in output
    assert "all.csv row 13: 'fight/0.mp4' stands there twice; once is kept" in output
    assert CLASSES[-1] in pl.read_csv("data/mine/ignored.csv")["path"].to_list()


def test_two_tables_of_one_folder(project: Project) -> None:
    project.add(*CLASSES)
    for name in ("a", "b"):
        lines = [f"{path},{path[:4]},{name}" for path in CLASSES]
        project.write(f"{name}.csv", "\n".join(["video,label,from", *lines]))
    assert "expected one table of the videos, got 2: a.csv, b.csv" in project.refused()
    assert set(project.index("--table", "b.csv")["from"]) == {"b"}


def test_labels_that_differ_in_case_alone_are_warned_of(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    project.add(*(f"{label}/{n}.mp4" for label in ("Run", "run") for n in range(6)))
    project.index()
    assert "labels 'Run' and 'run' differ in case or white space" in capsys.readouterr().out


def test_names_that_are_not_utf_8(project: Project) -> None:
    project.add(*CLASSES)
    (project.folder / os.fsdecode(b"play/\xe4.mp4")).write_bytes(b"x")
    assert "data/mine/play/\\xe4.mp4: expected a name in UTF-8" in project.refused()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become a user who may not read")
def test_what_cannot_be_read(video: Path) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        shutil.copy(video, folder / "secret.mp4")
        (folder / "secret.mp4").chmod(0o000)
        (folder / "closed").mkdir(mode=0o000)
        os.seteuid(65534)
        try:
            told = scan(folder).faults
        finally:
            os.seteuid(0)
    assert [one.partition(":")[0].removeprefix(f"{name}/") for one in told] == [
        "closed",
        "secret.mp4",
    ]
    assert "expected a folder that can be read, got: Permission denied; run chmod" in told[0]


@pytest.mark.parametrize("name", ["..", "a b", "clips", "generated_sample"])
def test_names_that_cannot_be(project: Project, name: str) -> None:
    project.add(*CLASSES)
    told = project.refused("--name", name)
    assert "--name" in told


def test_a_folder_that_holds_the_repository(project: Project) -> None:
    project.add(*CLASSES)
    project.folder = Path()
    assert "expected a folder of videos, got one that holds this" in project.refused()


def test_odd_files_of_public_test_suites() -> None:
    folder = ROOT / "../shared/torture"
    if not folder.is_dir():
        pytest.skip("the files are not here")
    files = scan(folder)
    reasons = Counter(files.ignored.values())
    assert files.faults == []
    assert len(files.videos) + len(files.ignored) == sum(p.is_file() for p in folder.rglob("*"))
    assert "derived/mp4_noext" in files.videos
    assert files.ignored["torchcodec/sine_mono_s16.wav"] == "sound without pictures"
    assert files.ignored["derived/truncated_50pct.mp4"].startswith("a video that is cut off")
    assert reasons["a text"] == 1
