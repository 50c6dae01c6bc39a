"""Files of the user's where the pipeline writes are never removed without a word."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mlops.files.atomic import content_hash
from tests.support.clone import copy_repository, dvc, environment, run, run_stage, set_params

SAMPLE = Path("data/generated_sample")
TINY = {
    "sample": {"num_scenes": 4, "versions_per_scene": 2, "max_duration_sec": 2.0},
    "split": {"num_folds": 2},
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a repository in which the sample has been made, and nothing else."""
    root = tmp_path_factory.mktemp("made") / "clone"
    root.mkdir()
    copy_repository(root)
    set_params(root, TINY)
    dvc("repro", "sample", cwd=root)
    return root


@pytest.fixture
def clone(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "clone", symlinks=True)


def put_notes(sample: Path) -> Path:
    path = sample / "mine/notes.txt"
    path.parent.mkdir()
    path.write_text("label 12 is doubtful\n")
    return path


def edit_index(sample: Path) -> Path:
    path = sample / "index.csv"
    path.chmod(0o644)
    path.write_text(path.read_text() + "mine.mp4,authentic,scene-99,,\n")
    return path


def replace_a_video(sample: Path) -> Path:
    path = min(sample.glob("**/*.mp4"))
    path.chmod(0o644)
    path.write_bytes(b"a better one")
    return path


def link_a_file(sample: Path) -> Path:
    # DVC makes a copy of it before the stage begins, as it does with links into its cache.
    path = sample / "linked.mp4"
    path.symlink_to(sample.parent / "README.md")
    return path


def link_a_directory(sample: Path) -> Path:
    path = sample / "more"
    path.symlink_to(sample.parent)
    return path


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


CHANGES = [put_notes, edit_index, replace_a_video, link_a_file, link_a_directory]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
@pytest.mark.parametrize("values", [{}, {"sample": {"noise_sigma": 2.0}}], ids=["same", "changed"])
def test_the_sample_is_not_replaced_over_files_of_the_users(change, values, clone: Path) -> None:
    path = change(clone / SAMPLE)
    before = content_hash(clone / SAMPLE)
    set_params(clone, values)
    output = dvc("repro", "sample", cwd=clone, check=False)
    if change is link_a_directory and not values:  # which DVC does not look at
        assert (clone / SAMPLE / "more").is_symlink()
        return
    assert f"expected only what the pipeline has made, found {path.relative_to(clone)}" in output
    assert "move them to a directory of your own" in output
    assert "Traceback" not in output
    assert content_hash(clone / SAMPLE) == before
    assert names(clone / "data") == {"README.md", "no_weights", SAMPLE.name}


def test_a_sample_that_is_elsewhere_stays_there(clone: Path) -> None:
    (clone / SAMPLE).rename(clone / "elsewhere")
    (clone / SAMPLE).symlink_to(clone / "elsewhere")
    code, output = run_stage("sample", cwd=clone)
    assert (code, f"found {SAMPLE};" in output) == (1, True), output
    assert (clone / SAMPLE).is_symlink()


def test_once_they_are_moved_the_sample_is_that_of_a_new_clone(clone: Path) -> None:
    before = content_hash(clone / SAMPLE)
    path = put_notes(clone / SAMPLE)
    set_params(clone, {"sample": {"noise_sigma": 2.0}})
    dvc("repro", "sample", cwd=clone, check=False)
    path.rename(clone / "notes.txt")
    assert "sample: 9 rows written" in dvc("repro", "sample", cwd=clone)
    assert content_hash(clone / SAMPLE) != before
    # Back again: what it replaces now is in DVC's cache.
    set_params(clone, {"sample": {"noise_sigma": 8.0}})
    dvc("repro", "sample", cwd=clone)
    assert content_hash(clone / SAMPLE) == before


def test_files_of_file_managers_are_no_obstacle(clone: Path) -> None:
    before = content_hash(clone / SAMPLE)
    (clone / SAMPLE / ".DS_Store").write_bytes(b"\0")
    (clone / SAMPLE / "Thumbs.db").write_bytes(b"\0")
    code, output = run_stage("sample", cwd=clone)
    assert code == 0, output
    assert content_hash(clone / SAMPLE) == before


def test_a_sample_stage_that_is_killed_leaves_no_partial_sample(clone: Path) -> None:
    before = content_hash(clone / SAMPLE)
    set_params(clone, {"sample": {"noise_sigma": 2.0}})
    stage = subprocess.Popen(
        [sys.executable, "-m", "stages.sample"], cwd=clone, env=environment(), text=True
    )
    while not list(clone.glob("data/.*.new.tmp/**/*.mp4")):
        assert stage.poll() is None
        time.sleep(0.005)
    stage.send_signal(signal.SIGKILL)
    stage.wait()
    assert content_hash(clone / SAMPLE) == before
    set_params(clone, {"sample": {"noise_sigma": 8.0}})
    assert run_stage("sample", cwd=clone)[0] == 0
    assert content_hash(clone / SAMPLE) == before
    assert names(clone / "data") == {"README.md", "no_weights", SAMPLE.name}


@pytest.mark.parametrize(
    "place", ["data/clips/notes.txt", "data/clips/mine/a.npy", "data/augmented/mine.npy",
              "data/quarantined/index.csv"]
)  # fmt: skip
def test_make_repro_refuses_before_dvc_removes_files_of_the_users(place: str, clone: Path) -> None:
    path = clone / place
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    out = clone.joinpath(*Path(place).parts[:2])
    (out / f"{'a' * 40}.npy").touch()
    (out / ".left.x1.tmp.npy").touch()
    (clone / ".venv").mkdir()
    (clone / ".venv/.installed").touch()
    os.utime(clone / "requirements.lock", (0, 0))
    output = run("make", "repro", cwd=clone, check=False)
    assert f"found {place}, which dvc repro removes; move them to" in output
    assert path.read_text() == "mine"
    assert "Running stage" not in output
