"""Time from raw files to packs with DVC and the stages, also after a change of one video.

    python -m benchmarks.packs [--rounds 5] [--videos DIRECTORY]

Wall-clock time, so it needs a quiet machine with two cores; the CPU time of all processes and the
load are printed. DIRECTORY holds the 300 surveillance clips with their index.csv
(by default ../shared/real/scfd; another directory needs the same columns). Every round works in a
new clone of the working tree with a cold DVC; files are in the page cache.

- Raw files to packs: `dvc repro create_splits create_dataset` of a clone that has run nothing.
- One replaced: one clip is re-encoded, then `dvc repro create_dataset`. DVC's own share is the
  same command on the same state a second time, with nothing to do, and md5 of all files once.
- Workers: the stages as processes on 100 videos, outside DVC, so that nothing is found in its
  cache: every third surveillance clip (2 s of 240 lines or so), and 100 videos of 10 s at 480p
  (four encodings, each 25 times with some trailing bytes that no decoder reads). "Fixed" is
  subtracted: the same with two clips and one worker, which is Python's start, imports and tables.
  The start of the second worker's processes counts.

Limits: 60 s; 5 s beyond DVC's own share; 1.8 times as fast with two workers.
"""

import argparse
import hashlib
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
import numpy as np
import polars as pl
from ruamel.yaml import YAML

from benchmarks.decoding import VIDEOS, encoded
from video.synthesis.encoding import encode_video

ROOT = Path(__file__).parents[1]
SCFD = ROOT.parent / "shared/real/scfd"
NOT_TAKEN = ("dvc.lock", "metrics.json")  # of the sample's run

WHOLE, REPLACED, NOTHING, HASHING = (
    "raw files to packs",
    "one video replaced",
    "nothing to do",
    "md5 of all files",
)
LIMIT_WHOLE_SEC, LIMIT_REPLACED_SEC, LIMIT_WORKERS = 60, 5, 1.8
STAGES = ("load_data", "create_dataset")
SMALLEST, CLIPS, LONG = "smallest", "clips", "480p"

Spent = dict[str, list[tuple[float, float]]]  # by step: wall and CPU seconds of each round


def main() -> None:
    arguments = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--videos", type=Path, default=SCFD)
    options = arguments.parse_args()
    if not (options.videos / "index.csv").is_file():
        print(f"{options.videos}: no index.csv there; name the clips' directory with --videos")
        return
    spent: Spent = {}
    for number in range(1, options.rounds + 1):
        print(f"round {number} of {options.rounds}, load {os.getloadavg()[0]:.1f}", flush=True)
        with tempfile.TemporaryDirectory() as directory:
            time_pipeline(Path(directory), options.videos, spent)
        with tempfile.TemporaryDirectory() as directory:
            time_workers(Path(directory), options.videos, spent)
    print_steps(spent)
    print_workers(spent)


# --- steps -------------------------------------------------------------------------------------


def time_pipeline(root: Path, videos: Path, spent: Spent) -> None:
    clone(root / "clone")
    root /= "clone"
    data = root / "data/videos"
    shutil.copytree(videos, data)
    set_params(root, workers=2, index="data/videos/index.csv", root="data/videos")
    with timed(WHOLE, spent):
        dvc("repro", "create_splits", "create_dataset", root=root)
    encode_anew(data)
    with timed(REPLACED, spent):
        dvc("repro", "create_dataset", root=root)
    with timed(NOTHING, spent):
        dvc("repro", "create_dataset", root=root)
    with timed(HASHING, spent):
        for path in sorted(data.rglob("*.*")):
            hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def clone(root: Path) -> None:
    """Copy the working tree, uncommitted changes included."""
    names = run("git", "ls-files", "--cached", "--others", "--exclude-standard", root=ROOT)
    for name in names.splitlines():
        if (ROOT / name).is_file() and name not in NOT_TAKEN:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, root / name)
    run("git", "init", "--quiet", root=root)


def encode_anew(data: Path) -> None:
    """Replace the video of middle size by the same pictures in other bytes."""
    paths = by_size(data)
    path = paths[len(paths) // 2]
    with av.open(str(path)) as container:
        rate = container.streams.video[0].average_rate
        frames = [
            frame.to_ndarray(format="rgb24").astype(np.uint8, copy=False)
            for frame in container.decode(video=0)
        ]
    path.unlink()
    encode_video(path, frames, codec="h264", fps=rate or 25, quality=80)


def by_size(data: Path) -> list[Path]:
    """Return the videos of the index, the smallest first."""
    names = pl.read_csv(data / "index.csv")["video_path"]
    return sorted((data / name for name in names), key=lambda path: path.stat().st_size)


def time_workers(root: Path, videos: Path, spent: Spent) -> None:
    (root / "data/videos").mkdir(parents=True)
    index = pl.read_csv(videos / "index.csv")
    for label_directory in videos.iterdir():
        if label_directory.is_dir():
            (root / "data/videos" / label_directory.name).symlink_to(label_directory.resolve())
    size = pl.Series([(videos / name).stat().st_size for name in index["video_path"]])
    two_clips = index.with_columns(size=size).sort("size").unique("label", keep="first")
    long = long_videos(root / "data/videos")
    tables = {SMALLEST: two_clips, CLIPS: index.gather_every(3), LONG: long}
    for name, table in tables.items():
        table.write_csv(root / f"data/videos/{name}.csv")
        for workers in (1, 2):
            if (name, workers) != (SMALLEST, 2):
                time_stages(root, name, workers, spent)


def time_stages(root: Path, name: str, workers: int, spent: Spent) -> None:
    set_params(root, workers=workers, index=f"data/videos/{name}.csv", root="data/videos")
    shutil.rmtree(root / "data/clips", ignore_errors=True)
    for stage in STAGES:
        with timed(f"{stage}, {name}, workers: {workers}", spent):
            run(sys.executable, "-m", f"stages.{stage}", root=root)


def long_videos(data: Path) -> pl.DataFrame:
    """Write 100 files of 10 s at 480p and return their index."""
    kinds = ("h264 480p GOP 250", "h264 480p GOP 12", "vp9 480p", "mpeg4 480p")
    rows = []
    for kind in kinds:
        suffix = VIDEOS[kind][0]
        content = encoded(data, kind, 300).read_bytes()
        for number in range(25):
            name = f"{kind.replace(' ', '_')}_{number}{suffix}"
            # A box, or an element, that players skip.
            padding = bytes([0xEC, 0x84]) if suffix == ".webm" else b"\0\0\0\x0cfree"
            (data / name).write_bytes(content + padding + number.to_bytes(4, "big"))
            label = ("fight", "nofight")[number % 2]
            rows.append({"video_path": name, "label": label, "group": f"{kind}{number}"})
    return pl.DataFrame(rows)


# --- running -----------------------------------------------------------------------------------


@contextmanager
def timed(step: str, spent: Spent) -> Iterator[None]:
    print(f"  {step} … ", end="", flush=True)
    wall, cpu = time.monotonic(), cpu_sec()
    yield
    spent.setdefault(step, []).append((time.monotonic() - wall, cpu_sec() - cpu))
    print(f"{spent[step][-1][0]:.1f} s, CPU {spent[step][-1][1]:.1f} s", flush=True)


def cpu_sec() -> float:
    """Return the CPU seconds of this process and of all its ended children."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def dvc(*arguments: str, root: Path) -> None:
    run(sys.executable, "-m", "dvc", *arguments, root=root)


def run(*command: str, root: Path) -> str:
    """Return the output; `SystemExit` with all output if the command fails."""
    root.mkdir(parents=True, exist_ok=True)
    result = subprocess.run(
        command, cwd=root, env=environment(root), text=True, capture_output=True, check=False
    )
    if result.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{result.stdout}{result.stderr}")
    return result.stdout


def environment(root: Path) -> dict[str, str]:
    """Return the environment without DVC's variables, and with a site cache for the clone."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("DVC_")}
    return clean | {
        "DVC_SITE_CACHE_DIR": str(root.parent / "dvc-site"),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        # The clone's own modules come first; a bare directory of data has none.
        "PYTHONPATH": "" if (root / "stages").is_dir() else str(ROOT),
    }


def set_params(directory: Path, *, workers: int, index: str, root: str) -> None:
    yaml = YAML()
    document: Any = yaml.load(ROOT / "params.yaml")
    document["data"] |= {
        "index": index,
        "root": root,
        "path_column": "video_path",
        "label_column": "label",
        "group_column": "group",
        "labels": ["fight", "nofight"],
    }
    document["runtime"]["workers"] = workers
    yaml.dump(document, directory / "params.yaml")


# --- tables ------------------------------------------------------------------------------------


def print_steps(spent: Spent) -> None:
    print("\n| step | wall s: median | min | max | CPU s: median |\n|" + " --- |" * 5)
    for step, times in spent.items():
        walls = [wall for wall, _ in times]
        cpu = statistics.median(cpu for _, cpu in times)
        print(
            f"| {step} | {wall_sec(spent, step):.2f} | {min(walls):.2f} | {max(walls):.2f} "
            f"| {cpu:.2f} |"
        )
    whole = wall_sec(spent, WHOLE)
    print(f"\nraw files to packs: {whole:.1f} s, limit {LIMIT_WHOLE_SEC} s: ", end="")
    print("reached" if whole < LIMIT_WHOLE_SEC else "NOT REACHED")
    own = wall_sec(spent, NOTHING)
    beyond = wall_sec(spent, REPLACED) - own - wall_sec(spent, HASHING)
    print(
        f"one video replaced: {wall_sec(spent, REPLACED):.1f} s, of these {own:.1f} s DVC with "
        f"nothing to do and {wall_sec(spent, HASHING):.2f} s md5 of all files; beyond that "
        f"{beyond:.1f} s, limit {LIMIT_REPLACED_SEC} s: ",
        end="",
    )
    print("reached" if beyond < LIMIT_REPLACED_SEC else "NOT REACHED")


def print_workers(spent: Spent) -> None:
    print("\n| stage | videos | fixed s | 1 worker s | 2 workers s | whole stage | less fixed |")
    print("|" + " --- |" * 7)
    for stage in STAGES:
        fixed = wall_sec(spent, f"{stage}, {SMALLEST}, workers: 1")
        for name in (CLIPS, LONG):
            one, two = (wall_sec(spent, f"{stage}, {name}, workers: {count}") for count in (1, 2))
            ratio = (one - fixed) / (two - fixed)
            word = "reached" if ratio >= LIMIT_WORKERS else "NOT REACHED"
            print(
                f"| {stage} | {name} | {fixed:.2f} | {one:.2f} | {two:.2f} | {one / two:.2f} times "
                f"| {ratio:.2f} times, limit {LIMIT_WORKERS}: {word} |"
            )


def wall_sec(spent: Spent, step: str) -> float:
    return statistics.median(wall for wall, _ in spent[step])


if __name__ == "__main__":
    main()
