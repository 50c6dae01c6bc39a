"""Real surveillance clips go through the data stages with nothing changed but `data`."""

import os
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[1]
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
        subprocess.run(
            [sys.executable, "-m", f"stages.{stage}"],
            cwd=root,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            check=True,
        )
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
