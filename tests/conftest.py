"""Slow tests, and the finished clone that several of them start from."""

import fcntl
import os
import shutil
from pathlib import Path

import pytest

from tests.support.clone import commit, dvc, make_clone, run_stage, set_params
from tests.support.cluster import Cluster
from tests.support.trainer import Trainer

# A copy of the finished clone has 1,200 files: a second of CPU on a disk, and a tenth in memory.
MEMORY = Path("/dev/shm")
ENOUGH_BYTES = 8 << 30

# A test is slow if its module uses one of these, or the finished clone: it runs stages, DVC,
# trainers or a cluster in processes of their own.
STARTS_PROCESSES = (dvc, run_stage, make_clone, Trainer, Cluster)


def pytest_configure() -> None:
    """Keep the directories of tests in memory where there is plenty and programs may lie in it."""
    if os.access(MEMORY, os.W_OK):
        there = os.statvfs(MEMORY)
        is_large = there.f_bavail * there.f_frsize >= ENOUGH_BYTES
        if is_large and not there.f_flag & os.ST_NOEXEC:
            os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if is_slow(item):
            item.add_marker("slow")
    # Slow ones first, so that two workers end at about the same time.
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


def is_slow(item: pytest.Item) -> bool:
    used = vars(item.module).values()  # type: ignore[attr-defined]
    return "finished" in item.fixturenames or any(  # type: ignore[attr-defined]
        any(value is known for known in STARTS_PROCESSES) for value in used
    )


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a clone of this repository, with a small sample, after one run of the pipeline."""
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
    """Return a copy of the finished clone that a test may change."""
    return shutil.copytree(finished, tmp_path / "clone", symlinks=True)


@pytest.fixture
def own(workspace: Path) -> Path:
    """Return the finished clone, with its videos in a directory that `dvc add` tracks."""
    shutil.copytree(workspace / "data/generated_sample", workspace / "data/mine")
    set_params(workspace, {"data": {"index": "data/mine/index.csv", "root": "data/mine"}})
    dvc("add", "data/mine", cwd=workspace)
    commit(workspace, "own videos")
    return workspace
