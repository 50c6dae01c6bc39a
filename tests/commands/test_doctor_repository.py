"""The doctor says what must be done wherever no command of DVC works, and where git does not."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.clone import (
    CELL,
    commit,
    completed,
    copy_repository,
    dvc,
    environment,
    git,
    options,
    set_params,
)

ROOT = Path(__file__).parents[2]
CONFLICT = b"<<<<<<< HEAD\nseed: 1\n=======\nseed: 2\n>>>>>>> other\n"
OTHER_USER = 54321

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a file away")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("doctor") / "clone"
    root.mkdir()
    copy_repository(root)
    (root / "dvc.lock").write_text("schema: '2.0'\nstages: {}\n")
    (root / "metrics.json").write_text("{}\n")
    commit(root, "first")
    return root


@pytest.fixture
def clone(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "clone", symlinks=True)


def doctor(root: Path, *, by: tuple[str, ...] = (), **variables: str) -> list[str]:
    """Return what must be done."""
    command = (*by, sys.executable, "-m", "commands", "doctor")
    answer = completed(*command, cwd=root, **{"PYTHONPATH": str(ROOT)} | variables)
    lines = answer.stderr.splitlines()
    assert answer.returncode == (1 if lines else 0), answer.stderr
    return lines


def append(name: str, content: bytes) -> Callable[[Path], None]:
    def broken(root: Path) -> None:
        with (root / name).open("ab") as file:
            file.write(content)

    return broken


def write(name: str, content: str) -> Callable[[Path], None]:
    def broken(root: Path) -> None:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)

    return broken


def values(**changes: object) -> Callable[[Path], None]:
    return lambda root: set_params(root, changes)


@pytest.mark.parametrize(
    ("broken", "told"),
    [
        (
            append("dvc.lock", CONFLICT),
            "merge: marks of a merge conflict in dvc.lock; git checkout --theirs dvc.lock && dvc",
        ),
        (append("dvc.yaml", CONFLICT), "merge: marks of a merge conflict in dvc.yaml; keep one"),
        (append("params.yaml", CONFLICT), "merge: marks of a merge conflict in params.yaml; keep"),
        (append(".dvc/config", CONFLICT), "merge: marks of a merge conflict in .dvc/config; keep"),
        (append(".dvc/config", b"[core"), "config file error: Invalid line ('[core')"),
        (append(".dvc/config", b"\xff"), "config file error: 'utf-8' codec can't decode"),
        (
            write("dvc.lock", "stages:\n  sample:\n    cm"),
            "DVC: no command of it works: './dvc.lock' ",
        ),
        (write(".dvc/tmp/rwlock", '{"a'), "DVC: .dvc/tmp/rwlock: cut off by a kill, and DVC stops"),
        (write(".dvc/tmp", ""), "DVC: .dvc/tmp: cannot be written (Not a directory)"),
        (
            values(models="small3d"),
            "params.yaml: models: expected a list, got str 'small3d'; write",
        ),
        (values(folds=None), "params.yaml: folds: expected a list, got nothing (null); write"),
        (values(data={"index": 5}), "params.yaml: data.index: expected a text, got int 5; put it"),
        (values(data={"root": None}), "params.yaml: data.root: expected a text, got nothing"),
        (
            values(data={"root": "data/no", "index": "data/no/a.csv"}),
            "params.yaml: data.root: data/no: no such directory; put them there",
        ),
    ],
)
def test_what_stops_every_command_of_dvc_is_told(
    clone: Path, broken: Callable[[Path], None], told: str
) -> None:
    broken(clone)
    lines = doctor(clone)
    assert any(f"doctor: {told}" in line or told in line for line in lines), lines
    if "data/no" not in told:  # which stops dvc repro alone
        assert re.search("ERROR|invalid|failed", dvc("status", cwd=clone, check=False))


def test_a_conflict_in_a_file_of_dvc_add_is_told(clone: Path) -> None:
    (clone / "data/mine.dvc").write_bytes(CONFLICT)
    git("add", "--force", "data/mine.dvc", cwd=clone)
    assert any("conflict in data/mine.dvc; keep one side of each" in one for one in doctor(clone))


@pytest.mark.parametrize(
    ("broken", "told"),
    [
        (write(".git/index", "garbage"), "rm .git/index && git reset"),
        (write(".git/HEAD", "garbage"), "found .git, which is no repository (any more); write"),
        (append(".git/config", b"[garbage"), "git: fatal: bad config line"),
    ],
    ids=["index", "HEAD", "config"],
)
def test_damage_of_git_is_told_with_its_cure(
    clone: Path, broken: Callable[[Path], None], told: str
) -> None:
    broken(clone)
    assert any(told in line for line in doctor(clone))


def test_the_cure_of_a_damaged_index_loses_no_edit(clone: Path) -> None:
    (clone / "README.md").write_text("edited")
    (clone / ".git/index").write_text("garbage")
    subprocess.run("rm .git/index && git reset", shell=True, cwd=clone, check=True)
    assert git("status", "--porcelain", cwd=clone) == " M README.md\n"
    assert doctor(clone) == []


def test_locks_that_a_killed_git_left_are_told_once_they_are_old(clone: Path) -> None:
    locks = [clone / ".git/index.lock", clone / ".git/refs/heads/main.lock"]
    for lock in locks:
        lock.touch()
    assert doctor(clone) == []
    for lock in locks:
        os.utime(lock, (0, 0))
    (line,) = doctor(clone)
    assert line.endswith("if no git is at work: rm .git/index.lock .git/refs/heads/main.lock")


@needs_root
def test_a_repository_of_another_user_is_told_with_what_git_wants(
    clone: Path, tmp_path: Path
) -> None:
    subprocess.run(["chown", "-R", str(OTHER_USER), clone], check=True)
    (line,) = doctor(clone, HOME=str(tmp_path))
    cure = line.split("; run ", 1)[1]
    assert cure == f"git config --global --add safe.directory {clone}"
    variables = os.environ | {"HOME": str(tmp_path)}
    subprocess.run(cure, shell=True, env=variables, check=True)
    assert doctor(clone, HOME=str(tmp_path)) == []


@needs_root
def test_a_user_without_a_name_and_without_rights_is_told(clone: Path, tmp_path: Path) -> None:
    """The packages are read by a capability, for they may lie in a home directory of root's."""
    (clone / ".dvc/tmp").mkdir(exist_ok=True)
    (clone / ".dvc/tmp/lock").touch(0o644)
    who = ("--reuid", str(OTHER_USER), "--regid", str(OTHER_USER), "--clear-groups")
    reads = ("--inh-caps", "+dac_read_search", "--ambient-caps", "+dac_read_search")
    as_other = ("env", "-u", "USER", "-u", "LOGNAME", "setpriv", *who, *reads)
    lines = doctor(clone, by=as_other, HOME=str(tmp_path))
    assert (
        f"doctor: user: the user id {OTHER_USER} has no name, which DVC and torch ask for; export "
        "USER=NAME LOGNAME=NAME, whatever NAME"
    ) in lines
    assert any(line.startswith("doctor: DVC: .dvc/tmp/lock: cannot be written") for line in lines)
    lines = doctor(clone, by=(*as_other[:1], *as_other[5:]), HOME=str(tmp_path), USER="me")
    assert not any("has no name" in line for line in lines)


def test_a_path_that_the_locale_cannot_spell_is_told(clone: Path) -> None:
    place = clone.rename(clone.with_name("Größe"))
    plain = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    (line,) = doctor(place, **plain)
    assert line.endswith("and DVC stops at the path of this directory; export LC_ALL=C.UTF-8")
    assert doctor(place) == []


def test_a_python_of_another_place_is_told(clone: Path) -> None:
    (line,) = doctor(clone, PATH="/usr/bin:/bin")
    assert "but DVC starts the stages as python, which is " in line
    assert line.endswith(f"export PATH={Path(sys.executable).parent}:$PATH")


def test_a_package_that_writes_over_a_pinned_one_is_told(clone: Path, tmp_path: Path) -> None:
    info = tmp_path / "other/opencv_python-5.0.0.93.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: opencv-python\nVersion: 5.0\n")
    (info / "top_level.txt").write_text("cv2\n")
    (line,) = doctor(clone, PYTHONPATH=f"{ROOT}{os.pathsep}{info.parent}")
    assert "opencv-python and opencv-python-headless both install cv2" in line
    assert "python -m pip uninstall --yes opencv-python && python -m pip install" in line


def test_what_git_lacks_is_a_hint(clone: Path, tmp_path: Path) -> None:
    shallow = tmp_path / "shallow"
    git("commit", "--quiet", "--allow-empty", "--message", "second", cwd=clone)
    git("clone", "--quiet", "--depth", "1", f"file://{clone}", str(shallow), cwd=tmp_path)
    output = subprocess.run(
        [sys.executable, "-m", "commands", "doctor"],
        cwd=shallow,
        env={"PATH": environment()["PATH"], "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)},
        text=True,
        capture_output=True,
        check=True,
    ).stdout
    assert "hint  git " in output
    assert "a shallow clone: " in output
    assert "git fetch --unshallow" in output


@needs_root
def test_training_says_once_that_no_commit_is_recorded_and_why(workspace: Path) -> None:
    """As root in a container: git looks into no repository of another user's."""
    subprocess.run(["chown", "-R", str(OTHER_USER), workspace], check=True)
    set_params(workspace, {"train": {"learning_rate": 3e-3}})
    variables = environment() | {"HOME": str(workspace.parent), "PYTHONPATH": str(workspace)}
    output = subprocess.run(
        [sys.executable, "-m", "stages.train", *options(CELL)],
        cwd=workspace,
        env=variables,
        text=True,
        capture_output=True,
        check=True,
    ).stdout
    said = "warning: no commit is recorded with this run: "
    assert output.count(said) == 1
    assert f"git config --global --add safe.directory {workspace}\n" in output
