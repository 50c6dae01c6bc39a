"""The order of the test files, and the finished clone that several of them start from."""

import fcntl
import os
import shutil
from pathlib import Path

import pytest

from tests.support.clone import commit, dvc, make_clone, set_params

# Those that take longest first, so that two workers end at about the same time.
LONGEST = [
    "test_killed_grid.py",
    "test_notebook.py",
    "test_facade.py",
    "test_slurm.py",
    "test_distributed_training.py",
    "test_resume.py",
    "test_pipeline.py",
    "test_way_back.py",
    "test_remotes.py",
    "test_restoring.py",
    "test_data_versions.py",
    "test_changed_videos.py",
    "test_dask_workers.py",
    "test_odd_videos.py",
    "test_cache_links.py",
    "test_leakage_gate.py",
    "test_reencoded_copies.py",
    "test_sample_videos.py",
    "test_real_videos.py",
    "test_stage_errors.py",
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    rank = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.name, len(LONGEST)))


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone of this repository, with a small sample, in which the pipeline has run once."""
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent  # of all workers: the first that comes makes the clone, others wait
    root = base / "pipeline/clone"
    root.parent.mkdir(exist_ok=True)
    with (root.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not root.exists():
            # Renamed when it is whole: a worker that failed leaves no half of it behind.
            making = root.with_name("making")
            shutil.rmtree(making, ignore_errors=True)
            making.mkdir()
            make_clone(making)
            making.rename(root)
    return root


@pytest.fixture
def workspace(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished clone that a test may change."""
    return shutil.copytree(finished, tmp_path / "clone", symlinks=True)


@pytest.fixture
def own(workspace: Path) -> Path:
    """The finished clone, with its videos in a directory that `dvc add` tracks."""
    shutil.copytree(workspace / "data/generated_sample", workspace / "data/mine")
    set_params(workspace, {"data": {"index": "data/mine/index.csv", "root": "data/mine"}})
    dvc("add", "data/mine", cwd=workspace)
    commit(workspace, "own videos")
    return workspace
