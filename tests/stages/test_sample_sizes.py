"""A sample of every size that params.yaml may ask for gets through the data stages."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from mlops.files.yaml_text import load_yaml
from tests.support.clone import ROOT, run_stage, set_params

SMALLEST = {"num_scenes": 3, "versions_per_scene": 2, "mixed_scene_share": 1.0}
SHORT = {"min_duration_sec": 1.0, "max_duration_sec": 1.0}


@pytest.mark.parametrize(
    "sample",
    [
        SMALLEST | SHORT | {"tampered_share": 0.01, "region_area_share": 0.05},
        SMALLEST
        | SHORT
        | {"tampered_share": 0.99, "region_area_share": 0.6, "tampered_time_share": 0.001},
        SMALLEST | {"min_duration_sec": 10.0, "max_duration_sec": 10.0, "noise_sigma": 30.0},
        SHORT | {"num_scenes": 7, "versions_per_scene": 8, "mixed_scene_share": 0.0},
    ],
    ids=["tampered_little", "tampered_much", "long", "unmixed"],
)
def test_the_data_stages_take_it(tmp_path: Path, sample: dict[str, Any]) -> None:
    (tmp_path / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    set_params(
        tmp_path,
        {
            "sample": sample,
            "split": {"num_folds": 2, "rebalance": "auto"},
            "clips": {"height": 16, "width": 16},
        },
    )
    for stage in ("sample", "load_data", "create_splits", "create_dataset"):
        code, output = run_stage(stage, cwd=tmp_path)
        assert code == 0, output
    videos = pl.read_parquet(tmp_path / "data/splits.parquet")
    recipe = load_yaml(tmp_path / "params.yaml")["sample"]
    planned = recipe["num_scenes"] * recipe["versions_per_scene"]
    assert (videos.height, videos["fold"].n_unique()) == (planned + 1, 3)  # and a copy
