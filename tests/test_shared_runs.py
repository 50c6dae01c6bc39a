"""A run that one clone exports is taken up by another, with the same bytes in the end."""

import shutil
import signal
import sys
from pathlib import Path

import pytest

from mlops.applying import Record, other_code
from mlops.bundle import Manifest, unpacked
from mlops.exporting import has_code
from mlops.files import content_hash
from mlops.lock_entries import read_entries
from mlops.run_records import RunRecord
from tests.clone import commit, dvc, git, run, set_params, stages_run
from tests.trainer import MODEL, Trainer, metadata, newest_run, results, stopped_run, the_run, train

RATE = 3.0e-3


def runs(root: Path, *arguments: str, check: bool = True) -> str:
    return run(sys.executable, "-m", "mlops", "runs", *arguments, cwd=root, check=check)


def export(root: Path, path: Path, *arguments: str) -> str:
    return runs(root, "export", the_run(root).name, "--output", str(path), *arguments)


def opened(path: Path) -> Manifest:
    with unpacked(path, path.parent / "opened") as (_, manifest):
        return manifest


def stage_of(path: Path) -> str:
    stage = opened(path).stage
    assert stage is not None
    return stage


def model_of(root: Path) -> str:
    return content_hash(root / MODEL)


@pytest.fixture(scope="module")
def sender(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone with a run of another learning rate, which no commit has."""
    base = tmp_path_factory.mktemp("sender")
    root = shutil.copytree(finished, base / "clone", symlinks=True)
    set_params(root, {"train": {"learning_rate": RATE}, "runtime": {"workers": 1}})
    dvc("repro", "train", cwd=root)
    export(root, base / "run.zip")
    export(root, base / "with_checkpoint.zip", "--with-checkpoint")
    return root


@pytest.fixture
def bundle(sender: Path) -> Path:
    return sender.parent / "run.zip"


@pytest.fixture
def with_checkpoint(sender: Path) -> Path:
    return sender.parent / "with_checkpoint.zip"


def test_a_run_is_repeated_from_its_bundle_and_a_remote(
    sender: Path, bundle: Path, workspace: Path
) -> None:
    stage, store = stage_of(bundle), str(bundle.parent / "store")
    for root in (sender, workspace):
        dvc("remote", "add", "--local", "--force", "--default", "store", store, cwd=root)
    dvc("push", stage, cwd=sender)
    before = (workspace / "params.yaml").read_text()
    assert model_of(workspace) != model_of(sender)

    output = runs(workspace, "apply", str(bundle))
    assert "code: the same\nversions: the same\n" in output
    told = [line.split() for line in output.splitlines()]
    assert ["train.learning_rate", "0.002", str(RATE)] in told
    assert [MODEL.as_posix(), metadata(the_run(sender))["published"][MODEL.as_posix()][:8]] in [
        line[:2] for line in told
    ]
    assert f"  dvc pull --with-deps {stage}\n  dvc repro {stage}\n" in output
    # Not a comment is lost, and how it runs here stays.
    after = (workspace / "params.yaml").read_text()
    differing = [
        (old, new)
        for old, new in zip(before.splitlines(), after.splitlines(), strict=True)
        if old != new
    ]
    assert [old.split(":")[0].strip() for old, _ in differing] == ["learning_rate"]
    assert differing[0][1].endswith("# AdamW")

    dvc("pull", stage, cwd=workspace)
    assert stages_run(dvc("repro", stage, cwd=workspace)) == set()
    assert model_of(workspace) == model_of(sender)
    assert runs(workspace, "apply", str(bundle)).startswith(
        f"runs/sample/{the_run(sender).name}: is there already\n"
    )


def test_a_run_without_its_checkpoint_is_trained_again_beside_its_record(
    sender: Path, bundle: Path, workspace: Path
) -> None:
    runs(workspace, "apply", str(bundle))
    git("checkout", "--quiet", "dvc.lock", cwd=workspace)  # as if only the record had come
    record = workspace / the_run(sender).relative_to(sender)
    before = content_hash(record)
    assert "starting runs/" in train(workspace)
    assert model_of(workspace) == model_of(sender)
    assert newest_run(workspace) != record
    assert content_hash(record) == before


def test_with_its_checkpoint_a_run_is_published_without_training(
    sender: Path, with_checkpoint: Path, workspace: Path
) -> None:
    output = runs(workspace, "apply", str(with_checkpoint))
    assert "with a checkpoint" in output
    stage = stage_of(with_checkpoint)
    said = dvc("repro", stage, cwd=workspace)
    assert "train: publishes again what is finished in " in said
    assert "epoch 0" not in said
    assert model_of(workspace) == model_of(sender)
    assert dvc("status", stage, cwd=workspace).strip() == "Data and pipelines are up to date."


def test_a_training_that_was_stopped_here_goes_on_there(workspace: Path, tmp_path: Path) -> None:
    here, there = workspace, shutil.copytree(workspace, tmp_path / "there", symlinks=True)
    set_params(here, {"train": {"learning_rate": 5.0e-3}})
    shutil.rmtree(here / "runs")
    stopped = stopped_run(here, 2, signal.SIGTERM)
    export(here, tmp_path / "run.zip", "--with-checkpoint")
    output = runs(there, "apply", str(tmp_path / "run.zip"))
    assert ["train.learning_rate", "0.002", "0.005"] in [
        line.split() for line in output.splitlines()
    ]
    assert f"resuming runs/sample/{stopped.name}" in train(there)
    train(here)
    assert results(there) == results(here)
    assert the_run(there).name == stopped.name


def test_a_run_at_work_is_not_exported(workspace: Path) -> None:
    set_params(workspace, {"train": {"learning_rate": 5.0e-3}})
    shutil.rmtree(workspace / "runs")
    trainer = Trainer(workspace, hold=1).held()
    said = runs(workspace, "export", the_run(workspace).name, check=False)
    trainer.signal(signal.SIGKILL)
    assert "expected a run that is not at work" in said


def test_other_code_is_told_with_the_commit_that_has_it(bundle: Path, workspace: Path) -> None:
    held = git("rev-parse", "HEAD~1", cwd=workspace).strip()  # of which dvc.lock was committed
    source = workspace / "video/metrics.py"
    source.write_text(source.read_text() + "# changed\n")
    commit(workspace, "other code")
    before = (workspace / "params.yaml").read_bytes()
    said = runs(workspace, "apply", str(bundle), check=False)
    assert "code: expected that of the run, got another video/metrics.py; git checkout " in said
    named = opened(bundle).commit
    assert named in (held, git("rev-parse", "HEAD~1", cwd=workspace).strip())
    assert f"git checkout {named}, and apply again" in said
    assert (workspace / "params.yaml").read_bytes() == before
    git("checkout", "--quiet", str(named), cwd=workspace)
    assert "code: the same" in runs(workspace, "apply", str(bundle))


def test_other_data_are_told_as_other_code_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    git("init", "--quiet", cwd=tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data/mine.dvc").write_text(f"outs:\n- md5: {'a' * 32}.dir\n  path: mine\n")
    commit(tmp_path, "videos")
    lock = "schema: '2.0'\nstages:\n  load_data:\n    deps:\n    - path: data/mine\n"
    manifest = Manifest(
        format_version=1, run="", experiment="", commit=None, stage=None, remotes={}, files={}
    )
    for md5, different in ((f"{'a' * 32}.dir", []), (f"{'b' * 32}.dir", ["data/mine.dvc"])):
        entries = read_entries(f"{lock}      md5: {md5}\n")
        record = Record(
            manifest=manifest, params="", lock="", entries=entries, code={}, versions={}
        )
        assert other_code(record) == different
        head = git("rev-parse", "HEAD", cwd=tmp_path).strip()
        run_record = RunRecord(
            path=tmp_path,
            status="finished",
            metadata={"fingerprint": {"code": {}}},
            parameters={},
            extremes=[],
        )
        assert has_code(head, run_record, list(entries.values())) == (not different)


def test_changes_that_are_not_committed_are_not_mixed_with_the_runs(
    bundle: Path, workspace: Path
) -> None:
    set_params(workspace, {"train": {"epochs": 5}})
    before = (workspace / "params.yaml").read_bytes()
    said = runs(workspace, "apply", str(bundle), check=False)
    assert "params.yaml: expected no change that is not committed" in said
    assert (workspace / "params.yaml").read_bytes() == before
    assert git("status", "--porcelain", cwd=workspace) == " M params.yaml\n"
    assert "files, the record" not in runs(workspace, "apply", str(bundle), "--record-only")


def test_a_run_that_differs_is_never_written_over(
    sender: Path, bundle: Path, workspace: Path
) -> None:
    runs(workspace, "apply", "--record-only", str(bundle))
    log = workspace / the_run(sender).relative_to(sender) / "metrics.jsonl"
    log.write_bytes(b"mine")
    said = runs(workspace, "apply", "--record-only", str(bundle), check=False)
    assert (
        "expected no such run, or the one of the bundle, got one with another metrics.jsonl" in said
    )
    assert log.read_bytes() == b"mine"
