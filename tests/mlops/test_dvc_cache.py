"""Files of earlier runs are found in DVC's cache by name, and only as they were recorded."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mlops.recorded.dvc_cache import DvcCache, cache_directory


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def store(cache: Path, content: bytes, suffix: str = "") -> Path:
    """Store an object as DVC does."""
    name = md5(content)
    path = cache / "files/md5" / name[:2] / f"{name[2:]}{suffix}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    path.chmod(0o444)
    return path


def record(cache: Path, files: dict[str, bytes]) -> Path:
    """Store a version of a directory as DVC does."""
    for content in files.values():
        store(cache, content)
    listing = [{"md5": md5(content), "relpath": name} for name, content in files.items()]
    return store(cache, json.dumps(listing).encode(), ".dir")


def damage(path: Path) -> None:
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    path.chmod(0o444)


def find(cache: Path | None, name: str) -> bytes | None:
    """Return the content that the cache has recorded under a name."""
    opened = DvcCache(cache)
    md5 = opened.named(r"[a-z]\.npy").get(name)
    return None if md5 is None else opened.read(md5)


def test_a_file_of_any_recorded_version_is_found(tmp_path: Path) -> None:
    record(tmp_path, {"a.npy": b"a", "b.npy": b"b"})
    record(tmp_path, {"b.npy": b"b", "c.npy": b"c"})
    assert [find(tmp_path, name) for name in ("a.npy", "b.npy", "c.npy")] == [b"a", b"b", b"c"]
    assert find(tmp_path, "d.npy") is None


def test_a_name_recorded_with_two_contents_is_not_found(tmp_path: Path) -> None:
    record(tmp_path, {"a.npy": b"a", "b.npy": b"b"})
    record(tmp_path, {"a.npy": b"swapped", "b.npy": b"b"})
    assert find(tmp_path, "a.npy") is None
    assert find(tmp_path, "b.npy") == b"b"


def test_a_damaged_object_is_not_found_and_makes_room_for_a_whole_one(tmp_path: Path) -> None:
    record(tmp_path, {"a.npy": b"a", "b.npy": b"b"})
    damaged = store(tmp_path, b"a")
    damage(damaged)
    assert find(tmp_path, "a.npy") is None
    assert find(tmp_path, "b.npy") == b"b"
    assert not damaged.exists()


def test_a_damaged_listing_names_nothing(tmp_path: Path) -> None:
    damage(record(tmp_path, {"a.npy": b"a"}))
    assert find(tmp_path, "a.npy") is None


def test_an_object_that_is_gone_is_not_found(tmp_path: Path) -> None:
    record(tmp_path, {"a.npy": b"a"})
    store(tmp_path, b"a").unlink()
    assert find(tmp_path, "a.npy") is None


def test_only_names_that_match_are_found(tmp_path: Path) -> None:
    record(tmp_path, {"a.npy": b"a", "a.npy.txt": b"b", "sub/a.npy": b"c"})
    assert list(DvcCache(tmp_path).named(r"[a-z]\.npy")) == ["a.npy"]


def test_a_listing_cannot_lead_out_of_the_cache(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"a")
    listing = [{"md5": "../../../secret", "relpath": "a.npy"}, {"relpath": "a.npy"}]
    store(tmp_path, json.dumps(listing).encode(), ".dir")
    assert find(tmp_path, "a.npy") is None


@pytest.mark.parametrize("name", ["empty", "not there"])
def test_an_empty_cache_holds_nothing(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    assert find(tmp_path / name, "a.npy") is None


def test_without_a_cache_nothing_is_found() -> None:
    assert find(None, "a.npy") is None


def test_outside_a_repository_there_is_no_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cache_directory() is None


def test_dvcs_own_directories_are_read_and_its_configuration_is_heeded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def dvc(*arguments: str) -> None:
        environment = os.environ | {"DVC_NO_ANALYTICS": "1"}
        subprocess.run(
            [sys.executable, "-m", "dvc", "--quiet", *arguments], env=environment, check=True
        )

    dvc("init", "--no-scm")
    assert cache_directory() == tmp_path / ".dvc/cache"
    dvc("cache", "dir", "--local", str(tmp_path / "elsewhere"))
    (tmp_path / "packs").mkdir()
    (tmp_path / "packs/a.npy").write_bytes(b"a")
    dvc("add", "packs")
    (tmp_path / "packs/a.npy").unlink()
    assert cache_directory() == tmp_path / "elsewhere"
    assert find(cache_directory(), "a.npy") == b"a"
