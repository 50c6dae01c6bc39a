"""A clone of this repository with a small sample, and helpers for it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from ruamel.yaml import YAML

from stages.paths import Cell
from tests.support.warm import warm
from video.synthesis.encoding import CodecName, encode_video

ROOT = Path(__file__).parents[2]

# The one that a finished clone has.
CELL = Cell(model="small3d", fold=0, seed=0)

# What the first run of a repository writes.
FIRST_RUN = ("dvc.lock", "metrics.json", "data/rebalance.yaml")

SMALL: dict[str, Any] = {
    "sample": {"num_scenes": 12, "versions_per_scene": 3, "max_duration_sec": 2.0},
    "split": {"test_share": 0.25, "num_folds": 2, "rebalance": "auto"},
    "clips": {"height": 32, "width": 32},
    "augment": {"copies": 1},
    "train": {"epochs": 2, "batch_size": 8, "num_threads": 1},
    "runtime": {"device": "cpu"},
}


def run(*command: str, cwd: Path, check: bool = True, forked: bool = True) -> str:
    """Run a command; return its stdout and stderr together."""
    result = completed(*command, cwd=cwd, forked=forked)
    output = result.stdout + result.stderr
    assert not check or result.returncode == 0, output
    return output


def completed(
    *command: str, cwd: Path, forked: bool = True, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, with further variables of the environment.

    `python -m MODULE` begins with its libraries imported (see `warm`), unless it is not `forked`.
    """
    env = environment() | variables
    words, env = warm(list(command), env) if forked else (list(command), env)
    return subprocess.run(words, cwd=cwd, env=env, text=True, capture_output=True, check=False)


def dvc(*arguments: str, cwd: Path, check: bool = True) -> str:
    return run(sys.executable, "-m", "dvc", *arguments, cwd=cwd, check=check)


def git(*arguments: str, cwd: Path) -> str:
    return run("git", *arguments, cwd=cwd)


def environment() -> dict[str, str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    names = {"GIT_AUTHOR_NAME", "GIT_AUTHOR_EMAIL", "GIT_COMMITTER_NAME", "GIT_COMMITTER_EMAIL"}
    identity = dict.fromkeys(names, "test@localhost")
    clean = {name: value for name, value in os.environ.items() if not name.startswith("DVC_")}
    return clean | identity | {"PATH": path}


def run_stage(stage: str, *arguments: str, cwd: Path) -> tuple[int, str]:
    """Run a stage's script without DVC, in any directory; return exit code and output."""
    command = (sys.executable, "-m", f"stages.{stage}", *arguments)
    result = completed(*command, cwd=cwd, PYTHONPATH=str(ROOT))
    return result.returncode, result.stdout + result.stderr


def options(cell: Cell) -> list[str]:
    """Return the options that select a cell on the command line of a stage."""
    return [word for key, value in vars(cell).items() for word in (f"--{key}", str(value))]


def set_params(root: Path, changes: dict[str, Any]) -> None:
    yaml = YAML()
    document = yaml.load(root / "params.yaml")
    for section, values in changes.items():
        if isinstance(values, dict):
            document[section].update(values)
        else:
            document[section] = values
    yaml.dump(document, root / "params.yaml")


def commit(root: Path, message: str) -> None:
    git("add", "--all", cwd=root)
    git("commit", "--quiet", "--message", message, cwd=root)


def stages_run(output: str) -> set[str]:
    return {
        line.split("'")[1].split("@")[0]
        for line in output.splitlines()
        if line.startswith("Running stage")
    }


def replace_video(root: Path, seed: int) -> None:
    """Replace a training video below data/mine by other content."""
    splits = pl.read_parquet(root / "data/splits.parquet")
    shared = splits.filter(pl.col("sha256").is_duplicated())["sha256"].to_list()
    videos = splits.filter(pl.col("split") == "train", ~pl.col("sha256").is_in(shared))
    path = root / "data/mine" / videos["video_path"][seed]
    path.unlink()
    noise = np.random.default_rng(seed)
    frames = [noise.integers(0, 256, (48, 64, 3), np.uint8) for _ in range(24)]
    codecs: dict[str, CodecName] = {".avi": "mjpeg", ".webm": "vp9"}
    encode_video(path, frames, codec=codecs.get(path.suffix, "h264"), fps=12, quality=50)
    dvc("add", "data/mine", cwd=root)


def copy_repository(root: Path) -> None:
    """Copy the repository's files to a new repository at `root`, in which no stage has run."""
    files = git("ls-files", "--cached", "--others", "--exclude-standard", cwd=ROOT).split()
    for name in files:
        if (ROOT / name).is_file() and name not in FIRST_RUN:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, root / name)
    git("init", "--quiet", "--initial-branch=main", cwd=root)


def make_clone(root: Path) -> None:
    """Run the whole pipeline once in a new clone at `root`."""
    copy_repository(root)
    set_params(root, SMALL)
    commit(root, "small")
    # As a user's: no process of it is a fork.
    run(sys.executable, "-m", "dvc", "repro", cwd=root, forked=False)
    commit(root, "first run")
