"""Cost of logging a scalar, its survival of a kill, beside other trackers, and cost of reading.

    python -m benchmarks.tracking [--rounds 5] [--rows 10000000] [--kills 3]

Logging: 5 scalars per step; microseconds per scalar, CPU time of all threads of the process and
wall-clock time, medians over interleaved rounds, each tool in a process of its own and with its
queue flushed at the end of each round. Trackers take part if they are installed. W&B and trackio
leave a part of the work to another process or a later time, which is not measured.

- "one os.write of msgspec rows" is the minimum cost of a log of JSON lines that is written in every
  step; "one os.write of a prebuilt block" is that without the encoding.
- MLflow writes to SQLite, its own default, one batch per step.

Kills: a process logs 200 steps, prints a line after each, and is killed with SIGKILL at the last.
Then a new process counts the scalars that it finds of 1,000. No tool is asked to flush: `log` has
returned, no more. If a normal end loses scalars too, the count says nothing about the tool.

Reading: a log of --rows rows; the best metric, and the whole log as a frame, beside
`polars.read_ndjson` with the schema.

Limits: 2 µs of CPU per scalar, 1.6 times one os.write of msgspec rows; the whole frame in 1.5 times
Polars' own time.
"""

import argparse
import importlib.util
import json
import os
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import msgspec
import polars as pl

from mlops.metrics.log import best_row, read_metrics
from mlops.metrics.rows import COLUMNS, MetricRow
from mlops.processes.progress import track
from mlops.tracker import ExperimentTracker

NAMES = ("loss", "accuracy", "learning_rate", "gradient_norm", "clips_per_sec")
MIN_SEC = 0.2  # CPU time of one measurement
MAX_SEC = 2.0  # on the clock
KILL_STEPS = 200

LIMIT_CPU_US, LIMIT_TIMES_WRITE = 2.0, 1.6
LIMIT_TIMES_POLARS = 1.5

ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "WANDB_MODE": "offline",
    "WANDB_SILENT": "true",
    "DVC_NO_ANALYTICS": "true",
    "AIM_TRACKING_DISABLED": "1",
    "GRADIO_ANALYTICS_ENABLED": "False",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}

Log = Callable[[int], object]  # given a step, logs the 5 scalars of NAMES
Flush = Callable[[], object]
Writer = tuple[Log, Flush]


def main() -> None:
    arguments = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--rows", type=int, default=10_000_000)
    arguments.add_argument("--kills", type=int, default=3)
    options = arguments.parse_args()
    os.environ.update(ENVIRONMENT)
    tools = available_tools()
    print(", ".join(described(tool) for tool in tools))
    costs = logging_costs(tools, options.rounds)
    print_logging(costs)
    print_kills({tool: kills(tool, options.kills) for tool in tools})
    reading = reading_costs(options.rows, options.rounds)
    print_reading(reading, options.rows)
    print_limits(costs, reading)


# --- tools -------------------------------------------------------------------------------------


def available_tools() -> list[str]:
    tools = []
    for tool, (modules, _, _) in TOOLS.items():
        if all(importlib.util.find_spec(module) for module in modules):
            tools.append(tool)
        else:
            print(f"{tool}: not installed, left out")
    return tools


def described(tool: str) -> str:
    modules = TOOLS[tool][0]
    return f"{tool} {version(modules[0])}" if modules else tool


def scalars(step: int) -> dict[str, float]:
    return {name: (step + place) / 7 for place, name in enumerate(NAMES, start=1)}


def ours(directory: Path) -> Writer:
    tracker = ExperimentTracker(directory, "run")
    return (
        lambda step: tracker.log(scalars(step), step=step, epoch=0, phase="step"),
        lambda: None,
    )


def opened(directory: Path) -> int:
    return os.open(directory / "metrics.jsonl", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)


def msgspec_rows(directory: Path) -> Writer:
    descriptor, encode = opened(directory), msgspec.json.Encoder().encode_lines

    def log(step: int) -> None:
        now = time.time()
        rows = [MetricRow(step, 0, "step", name, v, now) for name, v in scalars(step).items()]
        os.write(descriptor, encode(rows))

    return log, lambda: None


def prebuilt_block(directory: Path) -> Writer:
    descriptor = opened(directory)
    rows = [MetricRow(0, 0, "step", name, v, time.time()) for name, v in scalars(0).items()]
    block = msgspec.json.Encoder().encode_lines(rows)
    return lambda step: os.write(descriptor, block), lambda: None


def json_lines(directory: Path) -> Writer:
    stream = (directory / "metrics.jsonl").open("a")

    def log(step: int) -> None:
        for name, value in scalars(step).items():
            row = {"step": step, "epoch": 0, "phase": "step", "metric": name, "value": value}
            stream.write(json.dumps(row | {"time": time.time()}) + "\n")
            stream.flush()

    return log, lambda: None


def tensorboard(directory: Path) -> Writer:
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(directory))

    def log(step: int) -> None:
        for name, value in scalars(step).items():
            writer.add_scalar(name, value, step)

    return log, writer.flush


def wandb(directory: Path) -> Writer:
    import wandb

    run = wandb.init(project="benchmark", dir=str(directory), mode="offline")
    return lambda step: run.log(scalars(step), step=step), lambda: None


def mlflow(directory: Path) -> Writer:
    import mlflow

    mlflow.set_tracking_uri(f"sqlite:///{directory}/mlflow.db")
    mlflow.set_experiment("benchmark")
    mlflow.start_run()
    return lambda step: mlflow.log_metrics(scalars(step), step=step), lambda: None


def dvclive(directory: Path) -> Writer:
    from dvclive import Live

    live = Live(str(directory / "dvclive"), save_dvc_exp=False, dvcyaml=None, report=None)

    def log(step: int) -> None:
        for name, value in scalars(step).items():
            live.log_metric(name, value)
        live.next_step()

    return log, lambda: None


def aim(directory: Path) -> Writer:
    from aim import Run

    run = Run(repo=str(directory), system_tracking_interval=None, capture_terminal_logs=False)
    return lambda step: run.track(scalars(step), step=step), lambda: None


def trackio(directory: Path) -> Writer:
    os.environ["TRACKIO_DIR"] = str(directory)  # read when it is imported
    import trackio

    run = trackio.init(project="benchmark", name="run", embed=False)
    return lambda step: run.log(scalars(step), step=step), lambda: None


# --- scalars found by a new process --------------------------------------------------------------


def found_lines(directory: Path) -> int:
    return (directory / "metrics.jsonl").read_bytes().count(b"\n")


def found_tensorboard(directory: Path) -> int:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(directory), {"scalars": 0}).Reload()
    return sum(len(events.Scalars(name)) for name in events.Tags()["scalars"])


def found_wandb(directory: Path) -> int:
    from wandb.proto import wandb_internal_pb2

    found = 0
    for path in directory.glob("wandb/*run-*/*.wandb"):
        for content in leveldb_records(path.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(content)
            items = record.history.item
            found += sum((item.key or "/".join(item.nested_key)) in NAMES for item in items)
    return found


def leveldb_records(log: bytes) -> Iterator[bytes]:
    """Yield the whole records of a log in LevelDB's format: 32 KiB blocks after W&B's header."""
    whole, first, middle, last = 1, 2, 3, 4
    offset, record = 7, b""
    while offset + 7 <= len(log):
        if 32768 - offset % 32768 < 7:  # no room for a header: zeros up to the next block
            offset += 32768 - offset % 32768
            continue
        length, kind = struct.unpack_from("<HB", log, offset + 4)
        piece = log[offset + 7 : offset + 7 + length]
        if kind not in (whole, first, middle, last) or len(piece) < length:
            return
        record = piece if kind in (whole, first) else record + piece
        if kind in (whole, last):
            yield record
        offset += 7 + length


def found_mlflow(directory: Path) -> int:
    return rows_of_table(directory / "mlflow.db", "select count(*) from metrics")


def found_dvclive(directory: Path) -> int:
    return sum(
        path.read_bytes().count(b"\n") - 1 for path in (directory / "dvclive").rglob("*.tsv")
    )


def found_aim(directory: Path) -> int:
    from aim import Repo

    return sum(
        len(metric.values)
        for run in Repo(str(directory)).iter_runs()
        for metric in run.metrics()
        if metric.name in NAMES
    )


def found_trackio(directory: Path) -> int:
    databases = directory.rglob("*.db")
    return sum(len(NAMES) * rows_of_table(p, "select count(*) from metrics") for p in databases)


def rows_of_table(database: Path, query: str) -> int:
    import sqlite3

    connection = sqlite3.connect(database)
    try:
        (count,) = connection.execute(query).fetchone()
    finally:
        connection.close()
    return int(count)


# Tool: (required modules, writer, counter of its scalars).
TOOLS: dict[str, tuple[tuple[str, ...], Callable[[Path], Writer], Callable[[Path], int]]] = {
    "ours": ((), ours, found_lines),
    "one os.write of msgspec rows": ((), msgspec_rows, found_lines),
    "one os.write of a prebuilt block": ((), prebuilt_block, found_lines),
    "json.dumps, write, flush": ((), json_lines, found_lines),
    "TensorBoard": (("tensorboard",), tensorboard, found_tensorboard),
    "W&B offline": (("wandb",), wandb, found_wandb),
    "MLflow": (("mlflow", "sqlalchemy"), mlflow, found_mlflow),
    "DVCLive": (("dvclive",), dvclive, found_dvclive),
    "Aim": (("aim",), aim, found_aim),
    "trackio": (("trackio",), trackio, found_trackio),
}


# --- logging -------------------------------------------------------------------------------------


def logging_costs(tools: list[str], rounds: int) -> dict[str, tuple[float, float]]:
    """Return microseconds per scalar by tool: of CPU, and wall-clock."""
    spent: dict[str, list[tuple[float, float]]] = {tool: [] for tool in tools}
    pools = {tool: ProcessPoolExecutor(1, mp_context=get_context("spawn")) for tool in tools}
    with tempfile.TemporaryDirectory(prefix="tracking-", ignore_cleanup_errors=True) as base:
        directories = {tool: directory_of(Path(base), tool) for tool in tools}

        def measurements() -> Iterator[None]:
            for _ in range(rounds + 1):  # the first one warms imports and caches
                for tool, pool in pools.items():
                    spent[tool].append(pool.submit(cost_us, tool, directories[tool]).result())
                    yield None

        try:
            for _ in track(measurements(), total=(rounds + 1) * len(tools), task="logging"):
                pass
        finally:
            for pool in pools.values():
                end_pool(pool)
    return {
        tool: (
            statistics.median(cpu for cpu, _ in costs[1:]),
            statistics.median(wall for _, wall in costs[1:]),
        )
        for tool, costs in spent.items()
    }


def directory_of(base: Path, tool: str) -> Path:
    directory = base / "".join(letter for letter in tool if letter.isalnum())
    directory.mkdir()
    return directory


def end_pool(pool: ProcessPoolExecutor) -> None:
    """Kill the pool, without the tool's own shutdown, which uploads, prints or waits."""
    for process in list(pool._processes.values()):
        process.kill()
    pool.shutdown()


def cost_us(tool: str, directory: Path) -> tuple[float, float]:
    """Return microseconds per scalar, of CPU and wall-clock; runs in the tool's process."""
    log, flush = started(tool, directory)
    first = step = next_step[0]
    cpu, wall = time.process_time(), time.perf_counter()
    while time.process_time() - cpu < MIN_SEC and time.perf_counter() - wall < MAX_SEC:
        for _ in range(10):
            log(step)
            step += 1
    flush()
    num_scalars = (step - first) * len(NAMES)
    next_step[0] = step
    return (
        1e6 * (time.process_time() - cpu) / num_scalars,
        1e6 * (time.perf_counter() - wall) / num_scalars,
    )


next_step = [0]  # of the tool in this process: some take no step twice


@cache
def started(tool: str, directory: Path) -> Writer:
    os.chdir(directory)  # a tool may write into its working directory
    return TOOLS[tool][1](directory)


def print_logging(costs: dict[str, tuple[float, float]]) -> None:
    print(f"\nLogging {len(NAMES)} scalars per step, µs per scalar")
    print("| writer | CPU µs | times ours | wall µs | times ours |\n|" + " --- |" * 5)
    own_cpu, own_wall = costs["ours"]
    for tool, (cpu, wall) in costs.items():
        print(f"| {tool} | {cpu:.3g} | {cpu / own_cpu:.3g} | {wall:.3g} | {wall / own_wall:.3g} |")


# --- kills ---------------------------------------------------------------------------------------


LOGS_AND_SAYS_SO = """
import sys
from pathlib import Path
from benchmarks.tracking import KILL_STEPS, TOOLS
log, _ = TOOLS[sys.argv[1]][1](Path(sys.argv[2]))
for step in range(KILL_STEPS):
    log(step)
    print("logged", step, flush=True)
if sys.argv[3] == "kill":
    sys.stdin.read()
"""

COUNTS = """
import sys
from pathlib import Path
from benchmarks.tracking import TOOLS
print("found", TOOLS[sys.argv[1]][2](Path(sys.argv[2])))
"""


def kills(tool: str, times: int) -> list[int]:
    """Count the scalars that a new process finds after a normal end and after each kill."""
    return [found_after("end", tool), *(found_after("kill", tool) for _ in range(times))]


def found_after(what: str, tool: str) -> int:
    """Return the number of scalars found after an end or a kill; -1 if unreadable."""
    environment = os.environ | {"PYTHONPATH": str(Path.cwd())}
    with tempfile.TemporaryDirectory(prefix="tracking-", ignore_cleanup_errors=True) as base:
        directory = directory_of(Path(base), tool)
        process = subprocess.Popen(
            [sys.executable, "-c", LOGS_AND_SAYS_SO, tool, str(directory), what],
            cwd=directory,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        assert process.stdout is not None
        for line in process.stdout:
            if line == f"logged {KILL_STEPS - 1}\n":
                break
        # The whole group, as the end of a container would: a tool's own service goes as well.
        if what == "kill":
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        done = subprocess.run(
            [sys.executable, "-c", COUNTS, tool, str(directory)],
            cwd=directory,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
    found = [line for line in done.stdout.splitlines() if line.startswith("found ")]
    return int(found[-1].split()[1]) if found else -1


def print_kills(found: dict[str, list[int]]) -> None:
    total = KILL_STEPS * len(NAMES)
    print(f"\nOf {total} scalars that were logged, found by a new process")
    print("| writer | after a normal end | after kill -9 |\n| --- | --- | --- |")
    for tool, counts in found.items():
        ended, *killed = ("unreadable" if count < 0 else str(count) for count in counts)
        print(f"| {tool} | {ended} | {', '.join(killed)} |")


# --- reading -------------------------------------------------------------------------------------


def reading_costs(num_rows: int, rounds: int) -> dict[str, float]:
    """Return the median wall-clock seconds of each way of reading."""
    with tempfile.TemporaryDirectory(prefix="tracking-") as base:
        log = Path(base) / "metrics.jsonl"
        write_log(log, num_rows)
        # Each in a process that holds nothing else of this size.
        spent: dict[str, list[float]] = {}
        for _ in track(range(rounds), total=rounds, task=f"reading {num_rows} rows"):
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                for name, seconds in pool.submit(reading_round, log).result().items():
                    spent.setdefault(name, []).append(seconds)
    return {name: statistics.median(values) for name, values in spent.items()}


def write_log(path: Path, num_rows: int) -> None:
    encode = msgspec.json.Encoder().encode_lines
    with path.open("wb") as stream:
        for begin in range(0, num_rows // len(NAMES), 10_000):
            steps = range(begin, min(begin + 10_000, num_rows // len(NAMES)))
            stream.write(
                encode(
                    [
                        MetricRow(step, step // 1000, "step", name, value, 1.75e9 + step / 64)
                        for step in steps
                        for name, value in scalars(step).items()
                    ]
                )
            )


READINGS: dict[str, Callable[[Path], Any]] = {
    "whole frame, polars.read_ndjson": lambda log: pl.read_ndjson(log, schema=COLUMNS).height,
    "whole frame, ours": lambda log: read_metrics(log).height,
    "best metric": lambda log: best_row(log, "loss", phase="step", maximize=True),
}


def reading_round(log: Path) -> dict[str, float]:
    seconds = {}
    read_metrics(some_rows(log))  # starts the threads
    for name, read in READINGS.items():
        start = time.perf_counter()
        read(log)
        seconds[name] = time.perf_counter() - start
    return seconds


def some_rows(log: Path) -> Path:
    few = log.with_name("few.jsonl")
    with log.open("rb") as stream:
        few.write_bytes(b"".join(stream.readline() for _ in range(1000)))
    return few


def print_reading(seconds: dict[str, float], num_rows: int) -> None:
    print(f"\nReading {num_rows} rows, medians on the clock")
    print("| | ms |\n| --- | --- |")
    for name, value in seconds.items():
        print(f"| {name} | {1000 * value:.3g} |")


# --- limits --------------------------------------------------------------------------------------


def print_limits(costs: dict[str, tuple[float, float]], seconds: dict[str, float]) -> None:
    cpu = costs["ours"][0]
    times_write = cpu / costs["one os.write of msgspec rows"][0]
    whole, polars = seconds["whole frame, ours"], seconds["whole frame, polars.read_ndjson"]
    print()
    for limit, value, what in (
        (LIMIT_CPU_US, cpu, "µs of CPU per scalar"),
        (LIMIT_TIMES_WRITE, times_write, "times the CPU of one os.write of msgspec rows"),
        (LIMIT_TIMES_POLARS, whole / polars, "times Polars' own time for the whole frame"),
    ):
        word = "reached" if value <= limit else "NOT REACHED"
        print(f"at most {limit:g} {what}: {word}, {value:.3g}")


if __name__ == "__main__":
    main()
