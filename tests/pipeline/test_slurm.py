"""The cells as jobs of SLURM: what examples/slurm and docs/cluster.md promise."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlops.files.yaml_text import load_yaml
from tests.support.batch_system import BatchSystem, Slurm, StandIn, missing_programs, wait_until
from tests.support.clone import commit, dvc, environment, git, set_params, stages_run
from tests.support.trainer import lines, metadata

SUBMIT = "examples/slurm/submit.sh"
EPOCHS = 40


NO_SLURM = f"not installed, but is in Debian's slurm-wlm: {' and '.join(missing_programs())}"


@pytest.fixture(params=[StandIn, Slurm], ids=["stand-in", "real"])
def slurm(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[BatchSystem]:
    if request.param is Slurm and missing_programs():
        pytest.skip(NO_SLURM)
    system: BatchSystem = request.param(tmp_path / "slurm")
    yield system
    system.stop()


@pytest.fixture
def cells(workspace: Path) -> Path:
    """Return a clone with its data, and two cells that are not trained."""
    train = {"epochs": EPOCHS}
    set_params(workspace, {"folds": [0, 1], "train": train})
    return workspace


def submit(
    slurm: BatchSystem, root: Path, *options: str, script: str = "examples/slurm/train.sbatch"
) -> str:
    """Submit a script; return the number of the array."""
    code, said = slurm.run(SUBMIT, script, *options, cwd=root)
    assert code == 0, said
    return said.split()[-1]


def log(root: Path, array: str, task: int) -> str:
    path = root / f"runs/slurm/{array}_{task}.log"
    return path.read_text() if path.exists() else ""


def wait_for(root: Path, array: str, task: int, words: str) -> None:
    wait_until(lambda: words in log(root, array, task), lambda: log(root, array, task))


def run_of(root: Path, fold: int) -> Path | None:
    for path in root.glob("runs/sample/run_*/config.json"):
        config = json.loads(path.read_text())["config"]
        if config["fold"] == fold and config["train"]["epochs"] == EPOCHS:
            return path.parent
    return None


def wait_for_training(root: Path, fold: int) -> None:
    wait_until(lambda: lines(run_of(root, fold), "ledger.jsonl") > 3)


def reasons(run_dir: Path) -> list[str]:
    return [attempt["reason"] for attempt in metadata(run_dir)["attempts"]]


def lost_steps(run_dir: Path) -> int:
    """Count the steps done again because no state had been saved after them."""
    return lines(run_dir, "ledger.orphans.jsonl")


def test_cells_that_are_ended_go_on_and_dvc_collects_them(slurm: BatchSystem, cells: Path) -> None:
    code, said = slurm.run(SUBMIT, "examples/slurm/train.sbatch", cwd=cells)
    assert (code, "expected a work tree without changes, got params.yaml" in said) == (1, True)
    commit(cells, "two cells")

    array = submit(slurm, cells)
    wait_for_training(cells, 0)
    slurm.run("scancel", f"{array}_0", cwd=cells)
    wait_for_training(cells, 1)
    slurm.run("scancel", "--batch", "--signal=USR1", f"{array}_1", cwd=cells)
    wait_for(cells, array, 0, "was ended by SIGTERM")
    wait_for(cells, array, 1, "put back 1 times")

    again = submit(slurm, cells, "--array=0")
    wait_for(cells, again, 0, " is done")
    wait_for(cells, array, 1, " is done")
    assert "put back 1" not in log(cells, array, 0)
    for fold, reason in enumerate(["SIGTERM", "SIGUSR1"]):
        run_dir = run_of(cells, fold)
        assert run_dir is not None
        assert f"stopped by {reason}" in log(cells, array, fold)
        assert "exited with" in log(cells, array, fold)  # DVC has lived to see it
        assert reasons(run_dir) == [f"stopped by {reason}", "finished"]
        assert lost_steps(run_dir) == 0
        assert metadata(run_dir)["attempts"][1]["environment"]["git"]["dirty"] is False

    assert stages_run(dvc("repro", cwd=cells)) == {"report"}
    commit(cells, "collected")
    code, said = slurm.run(SUBMIT, "examples/slurm/train.sbatch", cwd=cells)
    assert (code, said) == (0, "submit: all cells have their result\n")
    wait_until(lambda: not list(cells.with_name(f"{cells.name}.cells").iterdir()))


@pytest.mark.parametrize("slurm", [pytest.param(Slurm, id="real")], indirect=True)
def test_a_cell_on_two_nodes_saves_before_it_is_put_back_and_goes_on(
    slurm: BatchSystem, cells: Path
) -> None:
    set_params(cells, {"folds": [0]})
    commit(cells, "two nodes")

    array = submit(slurm, cells, script="examples/slurm/train_multinode.sbatch")
    wait_for_training(cells, 0)
    slurm.run("scancel", "--batch", "--signal=USR1", f"{array}_0", cwd=cells)
    wait_for(cells, array, 0, " is done")
    assert "put back 1 times" in log(cells, array, 0)
    assert "goes on with epoch" in log(cells, array, 0)
    run_dir = run_of(cells, 0)
    assert run_dir is not None
    first, second = reasons(run_dir)
    assert first.startswith("stopped by ")
    assert second == "finished"
    assert lost_steps(run_dir) == 0
    assert metadata(run_dir)["fingerprint"]["device"].endswith(", 2 processes")


def test_what_a_spot_machine_has_trained_is_collected_through_the_remote(cells: Path) -> None:
    task = load_yaml(cells / "examples/skypilot/train.yaml")
    commit(cells, "two cells")
    machine, remote = cells.with_name("machine"), cells.with_name("remote")
    remote.mkdir()
    dvc("remote", "add", "--local", "--default", "spot", str(remote), cwd=cells)
    prepared = (
        "data/videos.parquet",
        "data/quarantine.csv",
        "create_dataset",
        "create_splits",
        "generate_augmentations",
        "init_model",
        "embed",
    )
    dvc("push", *prepared, cwd=cells)
    git("clone", "--quiet", str(cells), str(machine), cwd=cells.parent)
    cell = dvc("stage", "list", "--name-only", "train", cwd=cells).splitlines()[1]
    state = cells.with_name("state")
    places = {"CELL_CLONE": str(machine), "REMOTE": str(remote), "STATE": str(state)}
    variables = task["envs"] | places | {"CELL": cell}
    subprocess.run(["bash", "-c", task["run"]], env=environment() | variables, check=True)

    assert len(list(state.glob("runs/sample/run_*"))) == 1
    dvc("fetch", "--run-cache", cell, cwd=cells)
    assert stages_run(dvc("repro", "--pull", "--single-item", cell, cwd=cells)) == set()
