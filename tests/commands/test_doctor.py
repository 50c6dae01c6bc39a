"""`python -m commands doctor` finds what is missing, and fails if something must be done."""

import re
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from commands.doctor.finding import HINT, OK, WRONG
from commands.doctor.machine import disk_space, file_locks, memory
from tests.support.clone import completed, copy_repository, dvc, set_params

ROOT = Path(__file__).parents[2]


def doctor(root: Path, *arguments: str) -> tuple[int, str, str]:
    command = (sys.executable, "-m", "commands", "doctor", *arguments)
    ceiling = str(root.parent)
    answer = completed(*command, cwd=root, PYTHONPATH=str(ROOT), GIT_CEILING_DIRECTORIES=ceiling)
    return answer.returncode, answer.stdout, answer.stderr


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("doctor") / "clone"
    root.mkdir()
    copy_repository(root)
    return root


def test_a_sound_clone_has_nothing_that_must_be_done(clone: Path) -> None:
    code, output, faults = doctor(clone)
    assert (code, faults) == (0, ""), output
    assert output.splitlines()[-1].endswith("checks, nothing that must be done")
    for subject in ("python", "torch", "git", "DVC", "locks below runs/"):
        assert f"\nok    {subject} " in output
    assert "flock keeps a second one out" in output
    assert not list(clone.rglob(".doctor.*"))


def test_clips_that_published_weights_were_not_trained_on_are_a_hint(clone: Path) -> None:
    before = (clone / "params.yaml").read_bytes()
    weights = {"init_model": {"weights": "kinetics400"}, "models": ["small3d", "mvit_v2_s"]}
    set_params(clone, weights)
    code, output, _ = doctor(clone)
    assert code == 0
    (line,) = [line for line in output.splitlines() if "clips of " in line]
    assert line.startswith("hint  clips of mvit_v2_s ")
    wanted = "{frames: 16, height: 224, width: 224, fit: crop, sampling: dense, fps: 7.5}"
    assert f"set clips: {wanted}, which suit them best" in line

    set_params(clone, {"clips": YAML(typ="safe").load(wanted)})
    assert re.search("^ok +clips of mvit_v2_s ", doctor(clone)[1], re.MULTILINE)
    (clone / "params.yaml").write_bytes(before)


def test_a_remote_is_a_hint_until_there_is_one(clone: Path) -> None:
    assert "hint  DVC remote" in doctor(clone)[1]
    store = clone.parent / "store"
    set_remotes(clone, store=str(store), cloud="s3://bucket/a")
    output = doctor(clone)[1]
    assert "hint  DVC remote store " in output
    assert f"{store} is not there; mount it" in output
    assert "s3://bucket/a; --remote asks it" in output
    store.mkdir()
    assert re.search("^ok +DVC remote store ", doctor(clone)[1], re.MULTILINE)
    assert list(store.iterdir()) == []


def test_a_remote_that_is_named_by_a_relative_path_is_told(clone: Path) -> None:
    """DVC reads the settings of other commits as if they lay at the root of the disk."""
    store = clone.parent / "store"
    dvc("remote", "add", "--local", "near", "../store", cwd=clone)
    dvc("remote", "add", "--local", "far", str(store), cwd=clone)
    output = doctor(clone)[1]
    (clone / ".dvc/config.local").unlink()
    said = f"{store} is named by a relative path, which dvc push --all-commits misreads"
    assert f"hint  DVC remote near      {said}; dvc remote modify near url {store}\n" in output
    assert output.count("relative path") == 1


def test_a_remote_that_cannot_be_used_is_told(clone: Path) -> None:
    """/proc takes no file, no package for OSS is pinned, and nobody listens at port 9."""
    set_remotes(clone, full="/proc", other="oss://bucket/a", cloud="s3://bucket/a")
    with (clone / ".dvc/config.local").open("a") as config:  # of the last of them
        config.write("endpointurl = http://127.0.0.1:9\naccess_key_id = key\n")
        config.write("secret_access_key = word\n")
    code, _, faults = doctor(clone, "--remote")
    set_remotes(clone)
    assert code == 1
    assert "DVC remote full: /proc: no file can be written" in faults
    assert "oss://bucket/a: oss is supported, but requires 'dvc-oss' to be installed" in faults
    assert "DVC remote cloud: s3://bucket/a: Could not connect to the endpoint URL" in faults


def set_remotes(clone: Path, **urls: str) -> None:
    """Write remotes as `dvc remote add --local` does."""
    lines = [f"['remote \"{name}\"']\nurl = {url}\n" for name, url in urls.items()]
    (clone / ".dvc/config.local").write_text("".join(lines))


def test_packages_that_are_not_as_pinned_are_named(clone: Path) -> None:
    pins = clone / "requirements.lock"
    text = pins.read_text()
    pins.write_text("numpy==0.1\nno-such-package==1.0\n" + text)
    try:
        code, _, faults = doctor(clone)
    finally:
        pins.write_text(text)
    assert code == 1
    assert "doctor: requirements.lock: 2 of" in faults
    assert "no-such-package 1.0 (installed: none)" in faults
    assert "numpy 0.1 (installed: " in faults
    assert "python -m pip install -r requirements.lock" in faults


def test_outside_of_a_repository_all_that_is_missing_is_told_at_once(tmp_path: Path) -> None:
    code, output, faults = doctor(tmp_path)
    assert code == 1
    assert [line.split(": ")[1] for line in faults.splitlines()] == [
        "requirements.lock",
        "git",
        "DVC",
    ]
    assert output.count("DO  ") == 3


def test_torch_is_imported_only_when_asked_for(clone: Path) -> None:
    code, output, _ = doctor(clone, "--torch")
    assert code == 0
    assert "built for " in output
    assert "built for " not in doctor(clone)[1]


def test_a_full_disk_is_told(tmp_path: Path) -> None:
    place = tmp_path / "runs/demo"  # made by the first run
    assert disk_space("disk", place).level == OK
    finding = disk_space("disk", place, min_bytes=1e18)
    assert finding.level == WRONG
    assert "expected 1000000.0 TB" in finding.found
    assert "python -m commands runs gc" in finding.advice


def test_the_memory_of_a_container_is_what_counts(tmp_path: Path) -> None:
    limit = tmp_path / "memory.max"
    limit.write_text("max\n")
    assert memory(limit).level == memory(tmp_path / "none").level == OK
    limit.write_text("1000000000\n")
    assert memory(limit).level == HINT
    assert "1.0 GB for this container" in memory(limit).found


def test_a_directory_without_locks_is_told() -> None:
    """/proc takes no file, as some network file systems take no lock."""
    finding = file_locks(Path("/proc/runs"))
    assert finding.level == WRONG
    assert finding.found.startswith("flock fails: ")
    assert "put runs/ on a file system whose flock works" in finding.advice
