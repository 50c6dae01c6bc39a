"""Work on a Dask cluster gives the bytes that processes give, whatever is killed meanwhile."""

import dataclasses
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import pytest

from mlops.errors import PipelineError
from mlops.files.atomic import content_hash
from mlops.processes.parent import start_ticks
from mlops.workers import dask_pool
from mlops.workers.pool import Executor, Fault, WorkerPool, map_tasks
from mlops.workers.requirements import own_requirements, unmet_requirements
from mlops.workers.worker import Limits
from tests.support import cluster
from tests.support.clone import environment, run, run_stage, set_params
from tests.support.cluster import Cluster, command, serving

ROOT = Path(__file__).parents[2]

MADE = {
    "load_data": ["videos.parquet", "quarantine.csv", "quarantined", "inspections.parquet"],
    "create_dataset": ["clips", "clips.parquet"],
    "generate_augmentations": ["augmented", "augmented.parquet"],
}


@pytest.fixture(scope="module")
def dask() -> Iterator[Cluster]:
    started = Cluster()
    yield started
    started.close()


@pytest.fixture
def project(finished: Path, tmp_path: Path, dask: Cluster) -> Path:
    """Return the finished clone with its videos, none of them processed, and the cluster to use."""
    root = tmp_path / "project"
    shutil.copytree(finished / "data/generated_sample", root / "data/generated_sample")
    shutil.copy(finished / "params.yaml", root)
    set_params(root, {"runtime": {"executor": "dask", "dask_address": dask.address}})
    return root


def executor(cluster: Cluster) -> Executor:
    return Executor(executor="dask", workers=2, dask_address=cluster.address)


def start_stage(stage: str, root: Path) -> "subprocess.Popen[str]":
    return start("-m", f"stages.{stage}", root=root)


def start(
    *arguments: str, root: Path, stdout: int | IO[str] = subprocess.PIPE
) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=root,
        env=environment() | {"PYTHONPATH": str(ROOT)},
        text=True,
        stdout=stdout,
        stderr=subprocess.STDOUT,
    )


def wait_until(done: Callable[[], Any], sec: float = 60) -> None:
    deadline = time.monotonic() + sec
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def same(stage: str, root: Path, finished: Path) -> bool:
    return all(
        content_hash(root / "data" / name) == content_hash(finished / "data" / name)
        for name in MADE[stage]
    )


def packs(root: Path) -> dict[str, int]:
    """Return the inode of each finished pack: another one if the pack was made again."""
    return {path.name: path.stat().st_ino for path in root.glob("data/clips/[!.]*")}


def test_a_killed_worker_costs_its_one_video_and_no_byte(
    project: Path, finished: Path, dask: Cluster
) -> None:
    code, output = run_stage("load_data", cwd=project)
    assert code == 0, output
    assert same("load_data", project, finished)

    workers = dask.workers()
    stage = start_stage("create_dataset", project)
    wait_until(lambda: len(packs(project)) >= 6)
    # As a worker leaves it that is killed in the middle of a write, which is rare.
    (project / "data/clips/.0123.abcd1234.tmp.npy").write_bytes(b"half of it")
    wait_until(lambda: len(packs(project)) >= 12 and all(map(serving, workers)))
    # The one that began first, which has made some of the packs.
    worker = min(workers, key=lambda worker: start_ticks(serving(worker)[0]) or 0)
    os.kill(worker, signal.SIGKILL)
    before = packs(project)
    output, _ = stage.communicate()
    assert stage.returncode == 0, output
    after = packs(project)
    assert len(before) < len(after) - 2, "killed too late to be in the middle"
    # The one at work, and one whose result was on its way.
    assert sum(after[name] != before[name] for name in before) <= 2
    assert f"create_dataset: {len(after)} videos decoded, 0 packs reused" in output
    assert same("create_dataset", project, finished)

    shutil.copy(finished / "data/splits.parquet", project / "data")
    code, output = run_stage("generate_augmentations", cwd=project)
    assert code == 0, output
    assert same("generate_augmentations", project, finished)


def test_results_of_a_cluster_come_in_the_order_of_the_tasks(dask: Cluster) -> None:
    results = map_tasks(cluster.slower_at_first, range(6), executor(dask))
    assert list(results) == [0, 1, 4, 9, 16, 25]


def test_the_faults_of_a_task_pass_through_the_cluster(dask: Cluster) -> None:
    results = map_tasks(cluster.fail_at_2, range(4), executor(dask))
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(PipelineError) as caught:
        next(results)
    assert list(caught.value.faults) == [
        "video.mp4: expected frames, got none; remove it",
        "a second fault",
    ]


def test_the_limits_of_a_task_hold_on_a_cluster(dask: Cluster) -> None:
    limits = Limits(time_sec=2.0, memory_mb=100)
    with WorkerPool(executor(dask), limits) as workers:
        outcomes = list(workers.map(cluster.misbehave, ["a", "hang", "b", "die", "eat", "c"]))
    assert outcomes == [
        "a",
        Fault(kind="timeout", reason="took more than 2 s"),
        "b",
        Fault(kind="crashed", reason="ended the process that read it (signal SIGKILL)"),
        Fault(kind="out_of_memory", reason="took more than 100 MB of memory"),
        "c",
    ]


def test_a_task_that_ends_every_process_is_told(dask: Cluster) -> None:
    with pytest.raises(
        PipelineError, match=r"ended its worker process twice \(signal SIGKILL, on "
    ):
        list(map_tasks(cluster.misbehave, ["die"], executor(dask)))


def test_a_task_that_ended_one_process_is_done_by_another(dask: Cluster, tmp_path: Path) -> None:
    tasks = [tmp_path / name for name in "ab"]
    assert list(map_tasks(cluster.die_once, tasks, executor(dask))) == ["done", "done"]


@pytest.mark.filterwarnings("ignore:Mismatched versions found")  # by Dask itself
def test_workers_that_could_not_read_what_is_sent_are_refused(tmp_path: Path) -> None:
    installed = tmp_path / "cloudpickle-0.0.1.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: cloudpickle\nVersion: 0.0.1\n"
    )
    other = Cluster(before=tmp_path)
    try:
        with pytest.raises(PipelineError) as caught:
            list(map_tasks(cluster.slower_at_first, [1], executor(other)))
    finally:
        other.close()
    assert len(caught.value.faults) == 2  # of two workers
    assert all(
        ": expected cloudpickle " in fault and ", got 0.0.1; start the Dask workers with" in fault
        for fault in caught.value.faults
    )


def start_hanging(cluster: Cluster, root: Path) -> "subprocess.Popen[str]":
    """Start a stage with a task on each worker that does not end."""
    code = (
        "from pathlib import Path\n"
        "from mlops.workers.pool import Executor, map_tasks\n"
        "from mlops.stage import run_command\n"
        "from tests.support.cluster import mark_and_hang\n"
        f"executor = Executor(executor='dask', workers=2, dask_address='{cluster.address}')\n"
        "tasks = [Path(name) for name in 'abcd']\n"
        "run_command('hang', lambda: list(map_tasks(mark_and_hang, tasks, executor)))"
    )
    stage = start("-c", code, root=root)
    wait_until(lambda: len(list(root.glob("[a-d]"))) == 2)
    return stage


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=lambda number: number.name)
def test_no_task_outlives_the_stage(number: signal.Signals, dask: Cluster, tmp_path: Path) -> None:
    stage = start_hanging(dask, tmp_path)
    stage.send_signal(number)
    output, _ = stage.communicate()
    wait_until(lambda: not any(map(serving, dask.workers())), sec=10)
    if number == signal.SIGINT:
        assert stage.returncode == 130
        assert output.endswith("hang: interrupted; run the same command again\n")


def test_no_task_outlives_a_killed_worker(dask: Cluster, tmp_path: Path) -> None:
    stage = start_hanging(dask, tmp_path)
    worker = dask.workers()[0]
    (member,) = serving(worker)
    os.kill(worker, signal.SIGKILL)
    wait_until(lambda: not command(member), sec=10)
    stage.kill()
    stage.communicate()
    assert not command(member)


def test_an_address_without_a_scheduler_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dask_pool, "CONNECT_SEC", 0.5)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
        unreachable = Executor(executor="dask", workers=2, dask_address=address)
        with pytest.raises(PipelineError) as caught:
            list(map_tasks(cluster.slower_at_first, [1], unreachable))
    assert str(caught.value).startswith(
        f"runtime.dask_address: expected a Dask scheduler at {address}, got none in 0.5 s ("
    )
    assert str(caught.value).endswith("start one there, or write runtime.executor: processes")


def test_without_tasks_no_cluster_is_looked_for() -> None:
    nowhere = Executor(executor="dask", workers=2, dask_address="tcp://127.0.0.1:1")
    assert list(map_tasks(cluster.slower_at_first, [], nowhere)) == []


def test_a_machine_that_would_give_other_bytes_is_refused(
    dask: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    demands = own_requirements(ROOT, ROOT / "params.yaml")
    assert unmet_requirements(demands) == []
    changed = dataclasses.replace(
        demands,
        versions={"Python": "3.0.1", "numpy": "0.1", "no-such-thing": "1"},
        sources={"mlops/errors.py": "0" * 64},
    )
    monkeypatch.setattr(dask_pool, "own_requirements", lambda *_: changed)
    with pytest.raises(PipelineError) as caught:
        list(map_tasks(cluster.slower_at_first, [1], executor(dask)))
    python, numpy, other, source = caught.value.faults
    assert "expected Python 3.0.1, got 3." in python
    assert "expected numpy 0.1, got " in numpy
    assert "expected no-such-thing 1, got none; start the Dask workers with the" in other
    assert "expected the stage's own mlops/errors.py, got another; " in source


def test_what_changes_a_result_is_compared() -> None:
    code = (
        "import json, stages.generate_augmentations as stage\n"
        "from pathlib import Path\n"
        "from mlops.workers.requirements import own_requirements\n"
        "demands = own_requirements(Path.cwd(), Path('params.yaml'))\n"
        "print(json.dumps([list(demands.versions), list(demands.sources)]))"
    )
    output = run(sys.executable, "-c", code, cwd=ROOT)
    libraries, sources = json.loads(output)
    assert {"numpy", "opencv-python-headless", "polars"} <= set(libraries)
    assert {"stages/generate_augmentations.py", "video/augmentation/pixels.py"} <= set(sources)


@pytest.mark.parametrize("taken_away", ["clone/runs", "clone"])
def test_a_machine_that_does_not_share_the_clone_is_refused(
    taken_away: str, dask: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = "which the stage has just written, found no such file; put the clone on a"
    (tmp_path / "clone").mkdir()
    monkeypatch.chdir(tmp_path / "clone")
    pool = WorkerPool(executor(dask))
    pool._processes._connect()  # type: ignore[union-attr]
    (tmp_path / taken_away).rename(tmp_path / "elsewhere")
    with pool, pytest.raises(PipelineError, match=expected):
        list(pool.map(cluster.slower_at_first, [1]))


def test_without_the_package_the_command_that_installs_it_is_told(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "sys.modules['distributed'] = None\n"
        "from mlops.workers.pool import Executor, map_tasks\n"
        "executor = Executor(executor='dask', workers=2, dask_address='tcp://127.0.0.1:1')\n"
        "list(map_tasks(len, ['a'], executor))"
    )
    output, _ = start("-c", code, root=tmp_path).communicate()
    assert "expected the package distributed for dask, got: import of distributed halted" in output
    assert "run pip install distributed==" in output


def test_a_cluster_that_comes_late_is_waited_for_and_one_that_goes_is_told(tmp_path: Path) -> None:
    file = tmp_path / "scheduler.json"
    dask = [sys.executable, "-m", "dask"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": tmp_path}
    options = ["--host", "127.0.0.1", "--scheduler-file", str(file)]
    scheduler = subprocess.Popen(
        [*dask, "scheduler", "--port", "0", "--no-dashboard", *options], **quiet
    )
    wait_until(lambda: file.exists() and file.read_text().endswith("}"))
    code = (
        "from pathlib import Path\n"
        "from mlops.workers import dask_pool\n"
        "from mlops.workers.pool import Executor, map_tasks\n"
        "from mlops.stage import run_command\n"
        "from tests.support.cluster import mark_and_hang\n"
        "dask_pool.LOG_EVERY_SEC = 1.0\n"
        f"executor = Executor(executor='dask', workers=2, dask_address={str(file)!r})\n"
        "run_command('wait', lambda: list(map_tasks(mark_and_hang, [Path('a')], executor)))"
    )
    address = json.loads(file.read_text())["address"]
    said = tmp_path / "said"
    with said.open("w") as output:
        stage = start("-c", code, root=tmp_path, stdout=output)
    lines = f"dask: 0 threads at {address}\ndask: no worker at {address} for 1 s; waiting for one\n"
    wait_until(lambda: said.read_text().startswith(lines))
    worker = subprocess.Popen(
        [*dask, "worker", "--nthreads", "1", "--no-dashboard", *options], **quiet
    )
    wait_until((tmp_path / "a").exists)
    # The stage looks now and then, and the task may have begun before it does.
    wait_until(lambda: f"dask: 1 thread at {address}\n" in said.read_text())
    scheduler.kill()
    assert stage.wait() == 1
    gone = f"wait: {address}: expected the Dask scheduler to stay, it is gone; start"
    assert gone in said.read_text()
    worker.terminate()
    assert (worker.wait(), scheduler.wait()) == (0, -signal.SIGKILL)
