"""Real surveillance clips go through the data stages with nothing changed but `data`."""

from itertools import combinations
from pathlib import Path

import av
import cv2
import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray
from ruamel.yaml import YAML

from tests.support.clone import ROOT, run_stage
from video.splitting.duplicates import near_duplicates

SCFD = ROOT.parent / "shared/real/scfd"

pytestmark = pytest.mark.skipif(not SCFD.is_dir(), reason=f"the real clips are not at {SCFD}")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("scfd")
    (root / "data").mkdir()
    (root / "data/scfd").symlink_to(SCFD)
    yaml = YAML()
    params = yaml.load(ROOT / "params.yaml")
    params["data"] |= {
        "index": "data/scfd/index.csv",
        "root": "data/scfd",
        "group_column": "group",
        "labels": ["fight", "nofight"],
    }
    yaml.dump(params, root / "params.yaml")
    for stage in ("load_data", "create_splits", "create_dataset"):
        code, output = run_stage(stage, cwd=root)
        assert code == 0, output
    return root


def test_every_real_clip_is_usable_and_has_its_known_number_of_frames(project: Path) -> None:
    known = pl.read_csv(SCFD / "index_full.csv")
    videos = pl.read_parquet(project / "data/videos.parquet")
    assert videos.height == 300
    assert pl.read_csv(project / "data/quarantine.csv").is_empty()
    assert videos["num_frames"].sum() == 17_120
    assert set(videos["sha256"]) == set(known["sha256"])


def test_the_sources_of_the_real_clips_never_straddle_splits(project: Path) -> None:
    index = pl.read_csv(SCFD / "index.csv").select("video_path", source="group")
    splits = pl.read_parquet(project / "data/splits.parquet").join(index, on="video_path")
    parts = splits.group_by("source").agg(pl.col("split").n_unique(), pl.col("fold").n_unique())
    assert splits.height == 300
    assert parts.height == 44
    assert parts["split"].max() == 1
    assert parts["fold"].max() == 1


def test_every_real_clip_has_a_pack_of_the_asked_shape(project: Path) -> None:
    clips = pl.read_parquet(project / "data/clips.parquet")
    assert clips.height == 300
    assert clips.select("frames", "height", "width").unique().rows() == [(8, 64, 64)]
    assert all((project / "data/clips" / name).is_file() for name in clips["pack"])


def difference_hashes(path: Path) -> dict[int, NDArray[np.bool_]]:
    """Return the dHash of frames 1, 10, 20 and 30, counted from 0."""
    hashes = {}
    with av.open(str(path)) as container:
        for number, frame in enumerate(container.decode(video=0)):
            if number in (1, 10, 20, 30):
                gray = cv2.cvtColor(frame.to_ndarray(format="bgr24"), cv2.COLOR_BGR2GRAY)
                small = cv2.resize(gray, (9, 8), interpolation=cv2.INTER_AREA)
                hashes[number] = (small[:, 1:] > small[:, :-1]).ravel()
            if number == 30:
                break
    return hashes


def alike(one: dict[int, NDArray[np.bool_]], other: dict[int, NDArray[np.bool_]]) -> bool:
    common = one.keys() & other.keys()
    return bool(np.mean([(one[number] != other[number]).sum() for number in common]) <= 6)


def test_the_near_duplicates_of_the_real_clips_are_found_and_none_across_sources(
    project: Path,
) -> None:
    videos = pl.read_parquet(project / "data/videos.parquet")
    groups = videos["group"].to_list()
    hashes = [difference_hashes(SCFD / name) for name in videos["video_path"]]
    known = {(a, b) for a, b in combinations(range(300), 2) if alike(hashes[a], hashes[b])}

    found = near_duplicates(videos["fingerprint"].to_list(), max_distance=0.2)

    close = {(pair.first, pair.second) for pair in found}
    assert len(known) >= 70
    assert known <= close
    assert all(groups[a] == groups[b] for a, b in close)


def test_no_near_duplicates_of_the_real_clips_straddle_splits(project: Path) -> None:
    videos = pl.read_parquet(project / "data/videos.parquet")
    splits = pl.read_parquet(project / "data/splits.parquet")
    assert splits["video_path"].equals(videos["video_path"])
    parts = splits["fold"].fill_null(-1).to_list()
    pairs = near_duplicates(videos["fingerprint"].to_list(), max_distance=0.2)
    assert len(pairs) > 100
    assert [pair for pair in pairs if parts[pair.first] != parts[pair.second]] == []
    assert pl.read_csv(project / "data/duplicates.csv").is_empty()
