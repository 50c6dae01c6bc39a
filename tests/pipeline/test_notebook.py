"""The quickstart works as it stands, in a real kernel, which can be interrupted and killed."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import polars as pl
from jupyter_client.blocking import BlockingKernelClient
from jupyter_client.manager import start_new_kernel
from nbclient import NotebookClient

from mlops.files.yaml_text import load_yaml
from mlops.run.records import RunRecord, read_records
from tests.support.clone import dvc

NOTEBOOK = Path(__file__).parents[2] / "examples/quickstart.ipynb"

# A training that lasts until it is stopped.
LONG = """
import sys
sys.path.insert(0, "..")
from mlops import ExperimentTracker, RunConfig, build_mlops_pipeline, create_run_directory
run_dir, run_id = create_run_directory("../runs", "notebook")
config = RunConfig(
    run_id=run_id,
    project_root="..",
    experiment_name="long",
    num_epochs=10**6,
    set_params=["train.schedule=constant"],
)
pipeline = build_mlops_pipeline(config, ExperimentTracker(run_dir, run_id))
"""
TRAIN = "pipeline.run_pipeline('train')"


def test_the_quickstart_runs_from_top_to_bottom(workspace: Path) -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    place = {"path": str(workspace / "examples")}
    NotebookClient(notebook, timeout=300, resources={"metadata": place}).execute()

    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    printed = "".join(output.text for output in outputs if output.output_type == "stream")
    shown = [output.data for output in outputs if "data" in output]
    assert "Running stage 'report':" in printed
    assert sum("image/png" in data for data in shown) == 2
    pages = "".join(data.get("text/html", "") for data in shown)
    assert "changed: params train.epochs" in pages
    assert "report.html" in pages
    (history,) = workspace.glob("results/*/fold0/**/history.csv")
    best = pl.read_csv(history)["val_balanced_accuracy"].max()
    assert any(f"'value': {best}" in data["text/plain"] for data in shown)
    assert load_yaml(workspace / "params.yaml")["experiment"]["name"] == "quickstart"
    assert "up to date" in dvc("status", cwd=workspace)


def test_the_quickstart_is_kept_without_outputs() -> None:
    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)


def test_an_interrupted_kernel_has_training_saved_and_a_killed_one_leaves_none_at_work(
    workspace: Path,
) -> None:
    manager, client = start_new_kernel(cwd=str(workspace / "examples"))
    try:
        asked = client.execute(LONG + TRAIN)
        wait_for(lambda: (run := training(workspace)) is not None and run.num_epochs > 2)
        manager.interrupt_kernel()
        assert answer(client, asked)["ename"] == "KeyboardInterrupt"
        stopped = training(workspace)
        assert stopped is not None
        assert [attempt["reason"] for attempt in stopped.attempts] == ["stopped by SIGINT"]
        assert read_records(workspace / "runs", "notebook")[0].status == "interrupted"

        client.execute(TRAIN)
        wait_for(lambda: (run := training(workspace)) is not None and len(run.attempts) == 2)
        started = training(workspace)
        assert started is not None
        assert started.attempts[1]["start"] == "resume"
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    wait_for(lambda: (run := training(workspace)) is not None and run.status == "interrupted")


def answer(client: BlockingKernelClient, asked: str) -> dict[str, Any]:
    """Return what the kernel answers when it is done with the code."""
    while True:
        message = client.get_shell_msg(timeout=120)
        if message["parent_header"]["msg_id"] == asked:
            content: dict[str, Any] = message["content"]
            return content


def training(root: Path) -> RunRecord | None:
    """Return the long training; None if none is recorded yet."""
    if not any((root / "runs").glob("long/run_*/metadata.json")):
        return None
    (record,) = read_records(root / "runs", "long")
    return record


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)
