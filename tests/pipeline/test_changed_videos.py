"""Change one video, redo one video: packs of earlier runs are reused wherever a stage runs."""

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from mlops.files.atomic import content_hash
from tests.support.clone import dvc, environment, git, replace_video, set_params, stages_run

LAST = ("generate_augmentations",)
TABLES = ("data/clips.parquet", "data/augmented.parquet")


def counts(root: Path) -> tuple[int, int]:
    """Count the packs of videos and of augmented copies."""
    clips, copies = (pl.read_parquet(root / table)["pack"].n_unique() for table in TABLES)
    return clips, copies


def one_anew(root: Path) -> list[str]:
    """Return what the stages print when all but one of the present videos are known."""
    contents = pl.read_parquet(root / "data/inspections.parquet").height
    clips, copies = counts(root)
    return [
        f"load_data: 1 video decoded, {contents - 1} known; ",
        f"create_dataset: 1 video decoded, {clips - 1} packs reused",
        f"generate_augmentations: 1 video augmented, {copies - 1} packs reused",
    ]


def lacking(expected: Sequence[str], output: str) -> list[str]:
    return [line for line in expected if line not in output]


def outs(root: Path) -> dict[str, str]:
    paths = (root / "data").iterdir()
    names = [path.name for path in paths if path.name not in ("generated_sample", "mine")]
    return {name: content_hash(root / "data" / name) for name in names}


def test_one_replaced_video_is_decoded_and_augmented_alone(own: Path) -> None:
    clips, _ = counts(own)
    expected = one_anew(own)
    replace_video(own, 0)
    assert lacking(expected, dvc("repro", *LAST, cwd=own)) == []
    assert "up to date" in dvc("status", "create_dataset", cwd=own)

    # What is reused is what would be made: nothing is found in a cache that is gone.
    tables = {table: content_hash(own / table) for table in (*TABLES, "data/clips")}
    shutil.rmtree(own / ".dvc/cache")
    output = dvc("repro", "--force", "--single-item", "create_dataset", *LAST, cwd=own)
    assert f"create_dataset: {clips} videos decoded, 0 packs reused" in output
    assert {table: content_hash(own / table) for table in tables} == tables


def test_a_temporary_directory_reuses_them_too(own: Path) -> None:
    expected = one_anew(own)
    replace_video(own, 1)
    assert lacking(expected, dvc("exp", "run", "--temp", *LAST, cwd=own)) == []


def test_the_queue_reuses_them_too(own: Path) -> None:
    expected = one_anew(own)
    replace_video(own, 2)
    dvc("exp", "run", "--queue", "--name", "replaced", *LAST, cwd=own)
    work_off_queue(own)
    assert lacking(expected, dvc("queue", "logs", "replaced", cwd=own)) == []
    assert "Success" in dvc("queue", "status", cwd=own)


def work_off_queue(root: Path) -> None:
    """Start one worker and wait until it has ended, for which it is killed if it takes too long."""
    # The worker holds the pipe that it inherits: its end is that of the worker.
    with subprocess.Popen(
        [sys.executable, "-m", "dvc", "queue", "start"],
        cwd=root,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as starting:
        try:
            starting.communicate(timeout=300)
        finally:
            dvc("queue", "stop", "--kill", cwd=root, check=False)
            starting.communicate(timeout=60)


def test_going_back_to_earlier_parameters_or_videos_runs_nothing(own: Path) -> None:
    dvc("repro", *LAST, cwd=own)
    before = outs(own)

    set_params(own, {"augment": {"rotation_max_deg": 3.0}, "clips": {"frames": 4}})
    output = dvc("repro", *LAST, cwd=own)
    assert stages_run(output) == {"create_dataset", "generate_augmentations"}
    assert outs(own) != before
    git("checkout", "params.yaml", cwd=own)
    assert stages_run(dvc("repro", *LAST, cwd=own)) == set()
    assert outs(own) == before

    replace_video(own, 3)
    dvc("repro", *LAST, cwd=own)
    assert outs(own) != before
    git("checkout", "data/mine.dvc", cwd=own)
    dvc("checkout", "--force", "data/mine.dvc", cwd=own)
    # DVC caches no run of a stage with a persistent out.
    assert stages_run(dvc("repro", *LAST, cwd=own)) == {"create_splits"}
    assert outs(own) == before


def test_a_pack_damaged_in_the_cache_is_made_again(own: Path) -> None:
    clips, _ = counts(own)
    pack = next((own / "data/clips").iterdir())
    objects = [
        path
        for path in (own / ".dvc/cache/files/md5").glob("??/*")
        if path.suffix != ".dir" and path.read_bytes() == pack.read_bytes()
    ]
    before = content_hash(own / "data/clips")
    for path in objects:
        path.chmod(0o644)
        path.write_bytes(path.read_bytes()[:-1] + b"?")
        path.chmod(0o444)
    output = dvc("repro", "--force", "--single-item", "create_dataset", cwd=own)
    assert f"create_dataset: 1 video decoded, {clips - 1} packs reused" in output
    assert content_hash(own / "data/clips") == before
