"""Where DVC links the work tree to its cache, packs are found there and nothing is written there.

Whoever writes to a file of the work tree in place would change the cache, and with it every
version of every result that holds the file.
"""

import hashlib
from pathlib import Path

import polars as pl
import pytest

from tests.support.clone import dvc, replace_video, run_stage, set_params

LAST = "generate_augmentations"


def objects(root: Path) -> dict[str, str]:
    """Return the md5 that names each object in the cache, and the md5 of its content."""
    return {
        path.parent.name + path.name.removesuffix(".dir"): hashlib.md5(
            path.read_bytes(), usedforsecurity=False
        ).hexdigest()
        for path in (root / ".dvc/cache/files/md5").glob("??/*")
    }


def is_linked(path: Path) -> bool:
    return path.is_symlink() or path.stat().st_nlink > 1


@pytest.fixture(params=["symlink", "hardlink"])
def linked(request: pytest.FixtureRequest, own: Path) -> Path:
    """Return a clone whose videos and results are links into DVC's cache."""
    dvc("config", "cache.type", request.param, cwd=own)
    dvc("repro", LAST, cwd=own)
    dvc("checkout", "--relink", cwd=own)
    pack = next((own / "data/clips").iterdir())
    for path in (pack, own / "data/videos.parquet", own / "data/generated_sample/index.csv"):
        assert is_linked(path)
        assert path.is_symlink() == (request.param == "symlink")
    return own


def test_packs_are_found_in_a_linked_cache_and_nothing_is_written_there(linked: Path) -> None:
    clips, copies = (
        pl.read_parquet(linked / "data" / table)["pack"].n_unique()
        for table in ("clips.parquet", "augmented.parquet")
    )
    before = objects(linked)

    replace_video(linked, 0)
    output = dvc("repro", LAST, cwd=linked)

    assert f"create_dataset: 1 video decoded, {clips - 1} packs reused" in output
    assert f"generate_augmentations: 1 video augmented, {copies - 1} packs reused" in output
    after = objects(linked)
    assert before.items() <= after.items()
    assert all(content == name for name, content in after.items())

    # Nor when a stage is run by hand, over outs that DVC has not removed before, and writes other
    # contents under their names.
    dvc("checkout", "--relink", cwd=linked)
    assert is_linked(linked / "data/videos.parquet")
    sample = {"min_duration_sec": 1.0, "max_duration_sec": 1.5}
    load_data = {"accept": ["ok", "truncated"]}
    set_params(linked, {"sample": sample, "load_data": load_data, "clips": {"fit": "crop"}})
    for stage in ("sample", "load_data", "create_splits", "create_dataset", LAST):
        code, output = run_stage(stage, cwd=linked)
        assert code == 0, output
    assert objects(linked) == after
    assert not is_linked(linked / "data/videos.parquet")
