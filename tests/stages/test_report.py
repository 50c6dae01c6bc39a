"""What the report stage says of the cells' results, and which results it refuses."""

import json
import shutil
from pathlib import Path

import pytest

from stages.paths import Cell
from tests.support.clone import CELL, run_stage, set_params

TWIN = Cell(model="r3d_18", fold=0, seed=0)


@pytest.fixture
def twins(workspace: Path) -> Path:
    """Return the results of two models with equal predictions."""
    shutil.copytree(workspace / CELL.results, workspace / TWIN.results)
    set_params(workspace, {"models": ["small3d", "r3d_18"]})
    return workspace


def failure(root: Path) -> str:
    code, output = run_stage("report", cwd=root)
    assert code == 1
    assert "Traceback" not in output
    return output


def test_two_models_that_say_the_same_are_told_in_the_output_and_in_the_page(twins: Path) -> None:
    code, output = run_stage("report", cwd=twins)

    told = "small3d fold 0 and r3d_18 fold 0 have identical predictions"
    assert code == 0
    assert f"report: warning: {told}" in output
    assert told in (twins / "report.html").read_text()


def test_a_cell_with_nan_is_no_result(twins: Path) -> None:
    path = twins / TWIN.evaluation
    evaluation = json.loads(path.read_text())
    evaluation["test"]["balanced_accuracy"] = float("nan")
    path.unlink()  # it may be a link into DVC's cache
    path.write_text(json.dumps(evaluation))

    assert "r3d_18 fold 0: expected a finite test balanced_accuracy, got nan" in failure(twins)


def test_every_missing_cell_is_named(twins: Path) -> None:
    shutil.rmtree(twins / TWIN.results)
    (twins / CELL.predictions).unlink()

    output = failure(twins)

    assert f"{CELL.predictions}: expected the result of small3d" in output
    assert f"{TWIN.evaluation}: expected the result of r3d_18 on fold 0 with seed 0" in output


def test_one_fold_is_compared_with_nothing(twins: Path) -> None:
    code, output = run_stage("report", cwd=twins)

    assert code == 0
    assert "over 2 folds" not in output
    assert "comparisons" not in json.loads((twins / "metrics.json").read_text())
