"""A run tells which commit brings its results back, and one whose results are safe may go."""

import json
import os
import shutil
import time
from pathlib import Path

import pytest

from commands.__main__ import main
from mlops.files.atomic import content_hash
from mlops.files.locks import run_lock
from mlops.run.attempts import heartbeat, start_attempt
from mlops.run.directory import make_run, write_metadata
from mlops.run.documents import read_metadata
from mlops.run.gc import REMOVED, remove
from mlops.run.identity import fingerprint_hash
from mlops.run.records import read_record
from tests.support.clone import CELL, commit, dvc, git, options, run_stage, set_params, stages_run
from tests.support.runs_directory import config, finished_run, wanted
from tests.support.trainer import MODEL, newest_run

DAY_SEC = 86400
RESULTS = (str(MODEL), "metrics.json", "report.html")


@pytest.fixture
def root(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a clone in which the pipeline has run and is committed."""
    monkeypatch.chdir(workspace)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    return workspace


def command(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    main(["runs", *arguments])
    return capsys.readouterr().out


def first_run(root: Path) -> Path:
    run = newest_run(root)
    assert run is not None
    return run.relative_to(root)


def verdict(output: str, run: Path) -> str:
    (line,) = [line for line in output.splitlines() if f" {run} " in line]
    return line.split()[0]


def make_old(run: Path, days: float) -> None:
    """Make a run look as if it was last at work so many days ago."""
    moment = time.time() - days * DAY_SEC
    os.utime(run / "heartbeat", (moment, moment))
    os.utime(run, (moment, moment))


# What restores


def test_the_commit_that_is_shown_brings_the_model_back(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = first_run(root)
    held, model = git("rev-parse", "HEAD", cwd=root).strip(), (root / MODEL).read_bytes()
    set_params(root, {"train": {"epochs": 1}})
    dvc("repro", "train", cwd=root)
    commit(root, "shorter")
    assert (root / MODEL).read_bytes() != model

    output = command(capsys, "show", run.name)
    assert f"\n  git checkout {held} && dvc checkout\n" in output
    git("checkout", "--quiet", held, cwd=root)
    dvc("checkout", cwd=root)
    assert (root / MODEL).read_bytes() == model


def test_an_experiment_of_ten_commits_ago_is_restored_by_two_commands(root: Path) -> None:
    first = contents(root)
    # One of the commits trains, the others change what is around it.
    for number in range(1, 11):
        if number == 7:
            set_params(root, {"train": {"epochs": 1, "learning_rate": 5.0e-3}})
            dvc("repro", cwd=root)
        else:
            set_params(root, {"experiment": {"description": f"try {number}"}})
        commit(root, f"change {number}")
    last = contents(root)
    assert not {name for name in RESULTS if first[name] == last[name]}

    git("checkout", "--quiet", "HEAD~10", cwd=root)
    dvc("checkout", cwd=root)
    assert contents(root) == first
    assert stages_run(dvc("repro", cwd=root)) == set()
    assert git("status", "--porcelain", cwd=root) == ""
    git("checkout", "--quiet", "main", cwd=root)
    dvc("checkout", cwd=root)
    assert contents(root) == last


def contents(root: Path) -> dict[str, str]:
    """Return the sha256 of all results of an experiment."""
    paths = [path for name in ("models", "results", "plots") for path in (root / name).rglob("*.*")]
    paths += [root / name for name in (*RESULTS, "dvc.lock", "params.yaml")]
    return {str(path.relative_to(root)): content_hash(path) for path in paths if path.is_file()}


def test_the_table_marks_the_run_that_made_what_the_workspace_has(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = first_run(root)
    set_params(root, {"train": {"epochs": 1}})
    dvc("repro", "train", cwd=root)
    second = first_run(root)
    assert marked(command(capsys)) == [second.name]
    git("checkout", "--quiet", ".", cwd=root)
    assert marked(command(capsys)) == [first.name]


def marked(table: str) -> list[str]:
    return [line.split()[1] for line in table.splitlines() if line.startswith("*  run_")]


def test_the_commit_of_the_code_is_shown(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = git("rev-parse", "HEAD~1", cwd=root).strip()  # dvc.lock was committed after it
    assert f"commit {before}, with no file changed" in command(capsys, "show", first_run(root).name)


def test_an_experiment_is_named_that_holds_the_model(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dvc("exp", "run", "--name", "one-epoch", "-S", "train.epochs=1", "train", cwd=root)
    git("reset", "--quiet", "--hard", cwd=root)
    run = first_run(root)
    held = git("for-each-ref", "--format=%(objectname)", "refs/exps/**/one-epoch", cwd=root).strip()
    output = command(capsys, "show", run.name)
    assert f"git checkout {held} && dvc checkout" in output
    assert "dvc exp apply one-epoch" in output
    assert json.loads(command(capsys, "show", "--json", run.name))["restore"][0].endswith(
        f"{held} && dvc checkout"
    )

    # A commit of a branch stays when the experiment is removed.
    dvc("exp", "apply", "one-epoch", cwd=root)
    commit(root, "one epoch")
    head = git("rev-parse", "HEAD", cwd=root).strip()
    assert f"git checkout {head} && dvc checkout" in command(capsys, "show", run.name)


def test_a_run_that_no_dvc_lock_names_is_told_and_so_is_the_commit_of_its_code(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    set_params(root, {"train": {"epochs": 1}})
    code, printed = run_stage("train", *options(CELL), cwd=root)
    assert code == 0, printed
    head = git("rev-parse", "HEAD", cwd=root).strip()
    output = command(capsys, "show", first_run(root).name)
    assert "no dvc.lock of any commit, branch, tag or experiment names all of it" in output
    assert f"git checkout {head} has its code, but for files that were changed" in output
    assert f"commit {head}, with changes in params.yaml" in output


def test_a_dvc_lock_that_is_not_committed_yet_is_told(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    set_params(root, {"train": {"epochs": 1}})
    dvc("repro", "train", cwd=root)
    output = command(capsys, "show", first_run(root).name)
    assert "dvc checkout  # the workspace's dvc.lock names it" in output


def test_what_the_cache_has_lost_or_damaged_is_told(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = first_run(root)
    assert "cache lacks" not in command(capsys, "show", run.name)
    md5 = read_metadata(run)["published"][str(MODEL)]
    cached = root / ".dvc/cache/files/md5" / md5[:2] / md5[2:]
    cached.chmod(0o644)
    cached.write_bytes(b"damaged")
    assert "DVC's cache lacks some of it: no remote" in command(capsys, "show", run.name)
    cached.unlink()
    assert "DVC's cache lacks some of it: no remote" in command(capsys, "show", run.name)


# What may go


def test_nothing_is_removed_without_being_asked_for(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = first_run(root)
    output = command(capsys, "gc", "--keep", "0")
    assert verdict(output, run) == "remove"
    assert "would remove 1 run" in output
    assert run.is_dir()
    assert f"{run}: removed" in command(capsys, "gc", "--keep", "0", "--yes")
    assert not run.exists()
    assert [path.name for path in run.parent.iterdir()] == []
    assert dvc("status", cwd=root).strip() == "Data and pipelines are up to date."


def test_a_run_stays_that_is_the_only_copy_of_its_model(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    set_params(root, {"train": {"epochs": 1}})
    dvc("repro", "train", cwd=root)
    run = first_run(root)
    assert verdict(command(capsys, "gc", "--keep", "0"), run) == "remove"
    git("checkout", "--quiet", "dvc.lock", cwd=root)
    output = command(capsys, "gc", "--keep", "0", "--older-than", "0", "--yes")
    assert verdict(output, run) == "keep"
    assert "no dvc.lock names what it published" in output
    assert run.is_dir()

    commit(root, "other parameters")
    dvc("repro", "train", cwd=root)
    md5 = read_metadata(run)["published"][str(MODEL)]
    (root / ".dvc/cache/files/md5" / md5[:2] / md5[2:]).unlink()
    output = command(capsys, "gc", "--keep", "0", "--yes")
    assert "DVC's cache lacks what it published" in output
    assert run.is_dir()


def test_the_newest_runs_of_each_experiment_stay(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    published = read_metadata(first_run(root))["published"]
    older = first_run(root)
    newer = finished_run(root / "runs", [0.5], experiment="sample", published=published)
    other = finished_run(root / "runs", [0.5], experiment="other", published=published)
    output = command(capsys, "gc", "--keep", "1")
    assert verdict(output, older) == "remove"
    assert verdict(output, newer.relative_to(root)) == "keep"
    assert verdict(output, other.relative_to(root)) == "keep"


# Without DVC


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    return Path("runs")


def test_unfinished_runs_go_by_their_age(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dead = make_run(base, "demo", wanted(config()))
    make_old(start_attempt(dead).run_dir, 0)
    pulse = json.loads((dead / "heartbeat").read_text())
    (dead / "heartbeat").write_text(json.dumps(pulse | {"stopped": True}))
    make_old(dead, 3)
    document = read_metadata(dead)
    document["attempts"][0]["started"] = "2026-01-01T00:00:00+00:00"
    write_metadata(dead, attempts=document["attempts"])
    options = ("gc", "--keep", "0", "--older-than")
    assert "dead: --older-than DAYS removes such runs" in command(capsys, "gc", "--keep", "0")
    assert verdict(command(capsys, *options, "4"), dead) == "keep"
    assert verdict(command(capsys, *options, "2"), dead) == "remove"
    command(capsys, *options, "2", "--yes")
    assert not dead.exists()


def test_a_run_at_work_is_never_removed(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(base, "demo", wanted(config()))
    start_attempt(run)
    with heartbeat(run):
        output = command(capsys, "gc", "--keep", "0", "--older-than", "0", "--yes")
        assert verdict(output, run) == "keep"
        assert not remove(base, read_record(run))
    assert run.is_dir()


def test_a_run_that_is_about_to_be_resumed_is_left(base: Path) -> None:
    run = make_run(base, "demo", wanted(config()))
    start_attempt(run).end("stopped by SIGTERM")
    identity = fingerprint_hash(read_metadata(run)["fingerprint"])
    with run_lock(base, identity, log=print, check=lambda: None):
        assert not remove(base, read_record(run))
    assert run.is_dir()
    assert remove(base, read_record(run))


def test_what_a_killed_removal_left_behind_is_removed_by_the_next(
    base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = finished_run(base, [0.5])
    left = run.with_name(f"{REMOVED}{run.name}_1")
    shutil.copytree(run, left)
    assert left.name not in command(capsys, "gc")
    assert left.exists()
    command(capsys, "gc", "--yes")
    assert not left.exists()
    assert run.exists()


def test_a_negative_number_is_told(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for option in ("--keep", "--older-than"):
        with pytest.raises(SystemExit):
            main(["runs", "gc", option, "-1"])
        assert f"Invalid value for '{option}': -1" in capsys.readouterr().err
