"""A file is there whole or not at all, whatever kills its writer."""

import itertools
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from mlops.errors import PipelineError
from mlops.files.atomic import (
    content_hash,
    replacing,
    wait_until_listed,
    write_bytes,
    write_json,
    write_text,
)

ROOT = Path(__file__).resolve().parents[2]

KILLED_INSIDE = """
import sys, time
from pathlib import Path
from mlops.files.atomic import replacing
with replacing(Path(sys.argv[1])) as temporary:
    temporary.write_text("ha")
    print("inside", flush=True)
    time.sleep(60)
"""

REWRITES = """
import sys
from pathlib import Path
from mlops.files.atomic import write_bytes
print("writing", flush=True)
while True:
    for letter in b"abcdef":
        write_bytes(Path(sys.argv[1]), bytes([letter]) * 1_000_000)
"""


def start(script: str, path: Path) -> subprocess.Popen[str]:
    """Start a process that runs `script` on `path`; return once it has printed its first line."""
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline()
    return process


def kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL


@pytest.mark.parametrize("name", ["page.html", "history", "archive.tar.gz", ".hidden"])
def test_a_writer_killed_inside_leaves_the_old_file_and_one_that_git_and_dvc_ignore(
    name: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_text("old")
    kill(start(KILLED_INSIDE, path))
    assert path.read_text() == "old"
    (leftover,) = [file for file in tmp_path.iterdir() if file != path]
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    for patterns in (".gitignore", ".dvcignore"):
        shutil.copy(ROOT / patterns, tmp_path / ".gitignore")
        command = ["git", "-C", tmp_path, "check-ignore", "-q", leftover.name]
        assert subprocess.run(command, check=False).returncode == 0, patterns
        assert subprocess.run([*command[:-1], name], check=False).returncode == 1, patterns


def test_a_writer_killed_anywhere_leaves_a_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "weights.bin"
    write_bytes(path, b"0" * 1_000_000)
    draws = random.Random(0)
    for _ in range(8):
        process = start(REWRITES, path)
        time.sleep(0.02 + draws.random() * 0.05)
        kill(process)
        content = path.read_bytes()
        assert content == content[:1] * 1_000_000


def test_a_reader_never_meets_half_a_file(tmp_path: Path) -> None:
    path = tmp_path / "weights.bin"
    write_bytes(path, b"a" * 1_000_000)
    process = start(REWRITES, path)
    seen: set[bytes] = set()
    deadline = time.monotonic() + 20
    try:
        for reads in itertools.count():
            seen.add(path.read_bytes())
            if (reads >= 100 and len(seen) > 3) or time.monotonic() > deadline:
                break
    finally:
        kill(process)
    assert len(seen) > 3
    assert all(content == content[:1] * 1_000_000 for content in seen)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_error_inside_leaves_the_old_file_alone(
    error: type[BaseException], tmp_path: Path
) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(error):
        fail()
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]
    assert path.read_text() == "old"


def test_the_temporary_file_has_the_suffix_by_which_encoders_choose(tmp_path: Path) -> None:
    with replacing(tmp_path / "clip.mp4") as temporary:
        assert (temporary.parent, temporary.suffix) == (tmp_path, ".mp4")


def test_missing_directories_are_made(tmp_path: Path) -> None:
    write_text(tmp_path / "a/b/c.txt", "é")
    assert (tmp_path / "a/b/c.txt").read_bytes() == "é".encode()


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_a_file_has_the_mode_that_the_umask_gives(umask: int, mode: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        write_text(tmp_path / "a.txt", "a")
    finally:
        os.umask(before)
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == mode


def test_a_link_is_replaced_and_what_it_names_is_left_alone(tmp_path: Path) -> None:
    cached, out = tmp_path / "cached", tmp_path / "out"
    cached.write_text("old")
    out.symlink_to(cached)
    write_text(out, "new")
    assert (out.read_text(), cached.read_text()) == ("new", "old")


def test_json_is_indented_in_the_order_given(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": 1, "a": "é"})
    assert (tmp_path / "a.json").read_text() == '{\n  "b": 1,\n  "a": "é"\n}\n'


def test_json_with_nan_is_refused_and_the_old_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"a": math.nan})
    assert path.read_text() == '{\n  "a": 1\n}\n'


def tree(directory: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        write_text(directory / name, content)
    return directory


def test_the_hash_of_a_file_is_its_sha256(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "abc")
    assert content_hash(tmp_path / "a") == (
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )


def test_equal_directories_have_one_hash_whenever_and_wherever_made(tmp_path: Path) -> None:
    one = tree(tmp_path / "one", {"a.txt": "1", "b/c.txt": "2"})
    two = tree(tmp_path / "two", {"b/c.txt": "2", "a.txt": "1"})
    os.utime(two / "a.txt", (0, 0))
    assert content_hash(one) == content_hash(two)


@pytest.mark.parametrize(
    "files",
    [
        {"a.txt": "1", "b/c.txt": "3"},
        {"a.txt": "1", "b/d.txt": "2"},
        {"a.txt": "1"},
        {"a.txt": "1", "b/c.txt": "2", "b/e.txt": ""},
        {"a.txt": "2", "b/c.txt": "1"},
    ],
    ids=["content", "name", "removed", "added", "exchanged"],
)
def test_any_change_of_a_directory_changes_its_hash(files: dict[str, str], tmp_path: Path) -> None:
    one = tree(tmp_path / "one", {"a.txt": "1", "b/c.txt": "2"})
    assert content_hash(one) != content_hash(tree(tmp_path / "two", files))


def test_a_file_that_is_listed_late_is_waited_for(tmp_path: Path) -> None:
    late = threading.Timer(0.3, (tmp_path / "b").touch)
    (tmp_path / "a").touch()
    late.start()
    wait_until_listed(tmp_path, {"a", "b"}, patience_sec=30)
    assert (tmp_path / "b").exists()
    late.join()


def test_a_file_that_is_never_listed_is_named(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    with pytest.raises(PipelineError) as caught:
        wait_until_listed(tmp_path, {"a", "b"}, patience_sec=0.1)
    assert str(caught.value) == (
        f"{tmp_path}: expected 2 files that the workers have written, 1 of them are not there "
        "after 0.1 s, as b; see that all machines share the directory, and run the same command "
        "again"
    )
