"""Facade of the pipeline for notebooks: run it, look at its stages, load what they have made.

DVC does the work: what runs is `dvc repro`, and what is up to date does not run again. It takes the
values from params.yaml, and a result belongs to those that stand there. So `run_pipeline` writes
the values of the configuration that differ into params.yaml, and keeps the file as it was in the
run's directory, for it may hold edits that no commit has. A run in a copy, as by
`dvc exp run --temp`, would leave a workspace whose results are not those of its params.yaml.
"""

import io
import os
import signal
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import chdir, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import networkx
import polars as pl
from dvc.dependency import ParamsDependency
from dvc.exceptions import DvcException
from dvc.fs import LocalFileSystem
from dvc.repo import Repo

from mlops.config import PARAMS_FILE, RunConfig
from mlops.errors import PipelineError
from mlops.files import atomic
from mlops.files.canonical import canonical_json, flatten
from mlops.files.tables import listed
from mlops.files.yaml_text import flow_style, replace_values
from mlops.notebook.artifacts import Artifacts, Files, Layout
from mlops.notebook.reproduce import reproduce
from mlops.notebook.stage_times import known_times, note_times, publisher
from mlops.notebook.stages import UP_TO_DATE, StageRow, StageTable
from mlops.processes.signals import EXIT_CODES, StoppedError
from mlops.recorded.dvc_lock import LOCK, recorded_md5s
from mlops.run.attempts import Attempt, recorded_attempt
from mlops.run.directory import write_metadata
from mlops.run.documents import read_metadata
from mlops.run.environment import environment
from mlops.tracker import ExperimentTracker

_CODE = (".py", ".j2")


def build_mlops_pipeline(config: RunConfig, tracker: ExperimentTracker) -> "Pipeline":
    """Return the pipeline of the repository at `config.project_root`; nothing is run or written.

    `config` has the values that it is run with, `tracker` is the notebook's own run, to which the
    epochs of all cells are logged. Raises `PipelineError` if no dvc.yaml lies there.
    """
    return Pipeline(config, tracker)


class Pipeline:
    """The stages under one configuration; `tracker` is the notebook's own run, which records it."""

    def __init__(self, config: RunConfig, tracker: ExperimentTracker) -> None:
        self.config = config
        self.tracker = tracker
        # At once: a notebook may change its directory.
        self.root = Path(config.project_root).resolve()
        if not (self.root / "dvc.yaml").is_file():
            raise PipelineError(
                f"project_root: expected the root of the repository, where dvc.yaml lies, got "
                f"{config.project_root!r}; build the configuration with its path"
            )
        self._made: Artifacts | None = None

    @property
    def stages(self) -> StageTable:
        """Every stage, with what `run_pipeline` would find of it.

        Looked up anew each time. The status is that under this configuration, also before
        params.yaml has its values; `took_sec` is in seconds.
        """
        times = known_times(self.root)
        return StageTable(replace(row, took_sec=times.get(row.name)) for row in self._read())

    @property
    def artifacts(self) -> Artifacts:
        """The results of the stages, loaded when they are asked for.

        Those of the last `run_pipeline`, or, before the first, of the workspace; a stage
        that is not up to date under this configuration is refused then.
        """
        if self._made is not None:
            return self._made
        rows = self._read()
        stale = {row.name: row.status for row in rows if not row.is_up_to_date}
        return Artifacts(Files(self.root), _layout(rows), stale)

    @property
    def cell_runs(self) -> dict[str, Path]:
        """The run directory of each cell that `run_pipeline` has come to, with all its steps.

        `mlops.metrics.log.read_runs` reads them. Without those that no run here has trained, as
        after `dvc pull`.
        """
        runs = {cell: known["run"] for cell, known in self._known_cells().items()}
        return {cell: self.root / run for cell, run in runs.items() if run}

    def run_pipeline(self, *stages: str) -> Artifacts:
        """Bring the pipeline, or these stages and all that they need, up to date.

        What the stages print appears as they print it, and in the run's logs. A stage that fails
        raises a `StageFailedError` with what it said itself. An interrupt is passed on to the
        stage, which saves its state, and is raised when it has ended; the next call goes on from
        there.

        From each history of a cell (a CSV file with a column `epoch`), the tracker is given a row
        for each epoch and each column PHASE_METRIC, with the epoch as its step too: so
        `get_best_metric` answers over all cells. `artifacts["train"].frame("history.csv")` tells
        them apart.
        """
        self._read(stages)  # a stage that there is not is no reason to touch params.yaml
        with self._recorded() as attempt, self._log(attempt) as log:
            self._write_params(attempt)
            took_sec: dict[str, float] = {}
            try:
                reproduce(self.root, stages, log=log.write, took_sec=took_sec)
            finally:  # what comes before a stage that fails is done all the same
                note_times(attempt.run_dir, self.root, took_sec)
        recorded = recorded_md5s((self.root / LOCK).read_bytes())
        files, layout = Files(self.root, recorded), _layout(self._read(stages))
        self._made = Artifacts(files, layout)
        self._track_cells(_histories(files, layout), recorded)
        return self._made

    @contextmanager
    def _recorded(self) -> Iterator[Attempt]:
        with chdir(self.root):
            surroundings = environment(("dvc", "polars"))
        try:
            with recorded_attempt(self.tracker.run_dir, environment=surroundings) as attempt:
                try:
                    yield attempt
                except KeyboardInterrupt:
                    raise StoppedError("SIGINT", EXIT_CODES[signal.SIGINT]) from None
        except StoppedError:
            raise KeyboardInterrupt from None

    @contextmanager
    def _log(self, attempt: Attempt) -> Iterator[IO[str]]:
        path = attempt.run_dir / attempt.log
        path.parent.mkdir(exist_ok=True)
        with path.open("w", encoding="utf-8", buffering=1) as log:
            yield log

    def _write_params(self, attempt: Attempt) -> None:
        """Write the configuration to params.yaml, and log what that changes."""
        before, after, changes = self._params()
        if not changes:
            return
        kept = attempt.run_dir / f"artifacts/params_before_{attempt.number:03}.yaml"
        atomic.write_text(kept, before)
        atomic.write_text(self.root / PARAMS_FILE, after)
        for key, (old, new) in changes.items():
            _print(f"{PARAMS_FILE}: {key} {flow_style(old)} -> {flow_style(new)}")
        _print(f"{PARAMS_FILE}: what it was is kept in {kept.parent.name}/{kept.name} of the run")

    def _params(self) -> tuple[str, str, dict[str, tuple[Any, Any]]]:
        """Return params.yaml as it is, with the configuration's values, and what differs."""
        path = self.root / PARAMS_FILE
        present = RunConfig.from_params(path)
        wanted = flatten(self.config.params)
        if others := sorted(flatten(present.params).keys() ^ wanted.keys()):
            raise PipelineError(
                f"{PARAMS_FILE}: expected the keys that the configuration has, got a file that "
                f"differs in {', '.join(others)}; build the configuration anew"
            )
        changes = present.diff(self.config)
        text = path.read_bytes().decode()  # with the ends of its lines as they are
        return text, replace_values(text, {key: wanted[key] for key in changes}), changes

    def _track_cells(
        self, histories: Iterable[tuple[str, str, pl.DataFrame]], recorded: Mapping[str, str]
    ) -> None:
        """Log the history of each cell, unless the tracker has it from an earlier call."""
        known = self._known_cells()
        for cell, path, history in histories:
            if known.get(cell, {}).get("history") == recorded[path]:
                continue
            for row in history.iter_rows(named=True):
                _log_epoch(self.tracker, row)
            run_dir = publisher(self.root, path, recorded[path])
            place = run_dir and run_dir.relative_to(self.root).as_posix()
            known[cell] = {"history": recorded[path], "run": place}
        self.tracker.flush()
        write_metadata(self.tracker.run_dir, cells=known)

    def _known_cells(self) -> dict[str, dict[str, Any]]:
        """Return by cell the md5 of the `history` that is logged and the `run` that made it."""
        try:
            cells: dict[str, dict[str, Any]] = read_metadata(self.tracker.run_dir).get("cells", {})
        except FileNotFoundError:
            return {}
        return cells

    def _read(self, wanted: Sequence[str] = ()) -> list[StageRow]:
        """Return these stages and all that they need, or all, as DVC finds them.

        Under this configuration, in the order of dvc.yaml.
        """
        _, params, _ = self._params()
        files_now = _Overlay(self.root / PARAMS_FILE, params)
        try:
            with Repo(str(self.root), fs=files_now) as repo, repo.lock:
                return _read_stages(repo, wanted)
        except DvcException as error:
            raise PipelineError(
                f"dvc.yaml: expected the stages of a pipeline, got a fault that DVC names: {error}"
            ) from None


class _Overlay(LocalFileSystem):  # type: ignore[misc]  # DVC has no types
    """The files as they are, but for one, which reads as a text that is not written there yet."""

    def __init__(self, path: Path, text: str) -> None:
        super().__init__()
        self._path = str(path)
        self._text = text

    def open(self, path: Any, mode: str = "r", **options: Any) -> Any:
        # DVC asks by paths that count from the current directory, and by whole ones.
        if os.path.abspath(path) == self._path and mode == "r":  # noqa: PTH100
            return io.StringIO(self._text)
        return super().open(path, mode, **options)


def _read_stages(repo: Any, wanted: Sequence[str]) -> list[StageRow]:
    named = [stage for stage in repo.index.stages if stage.name]  # the others are of `dvc add`
    groups = dict.fromkeys(stage.name.partition("@")[0] for stage in named)
    if unknown := set(wanted) - {stage.name for stage in named} - set(groups):
        raise PipelineError(
            f"stages: expected some of {', '.join(groups)}, got {', '.join(sorted(unknown))}; "
            "write one of them"
        )
    graph = repo.index.graph.subgraph(named)  # from a stage to those whose outs it reads
    targets = {
        stage
        for stage in named
        if not wanted or {stage.name, stage.name.partition("@")[0]} & set(wanted)
    }
    needed = targets.union(*(networkx.descendants(graph, stage) for stage in targets))
    nearest = networkx.transitive_reduction(graph.subgraph(needed))
    found: dict[Any, StageRow] = {}
    for stage in reversed(list(networkx.topological_sort(nearest))):
        needs = sorted((found[other] for other in nearest.successors(stage)), key=lambda r: r.name)
        stale = [row.name for row in needs if not row.is_up_to_date]
        found[stage] = StageRow(
            name=stage.name,
            needs=[row.name for row in needs],
            outs=[out.def_path for out in stage.outs],
            status=_own_status(stage) or (f"after {listed(stale, 3)}" if stale else UP_TO_DATE),
        )
    return [found[stage] for stage in named if stage in found]


def _own_status(stage: Any) -> str:
    """Return what has changed of a stage itself since its last run; empty if nothing has."""
    if not any(out.hash_info for out in stage.outs):
        return "not run yet"
    changed: dict[str, list[str]] = {"params": [], "code": [], "data": [], "outs": []}
    for dep in stage.deps:
        if isinstance(dep, ParamsDependency):
            changed["params"] += _changed_keys(dep.hash_info.value or {}, dep.read_params())
        elif dep.status():
            changed["code" if dep.def_path.endswith(_CODE) else "data"].append(dep.def_path)
    changed["outs"] = [out.def_path for out in stage.outs if out.status()]
    parts = [f"{kind} {listed(names, 3)}" for kind, names in changed.items() if names]
    if stage.cmd_changed:
        parts.append("command")
    return f"changed: {'; '.join(parts)}" if parts else ""


def _changed_keys(recorded: Mapping[str, Any], present: Mapping[str, Any]) -> list[str]:
    # DVC compares whole sections, where these may be declared; a reader wants the key.
    before, after = flatten(recorded), flatten(present)
    return [
        key
        for key in dict.fromkeys([*after, *before])
        if canonical_json(before.get(key)) != canonical_json(after.get(key))
    ]


def _layout(rows: Sequence[StageRow]) -> Layout:
    layout: dict[str, dict[str, Sequence[str]]] = {}
    for row in rows:
        stage, _, cell = row.name.partition("@")
        layout.setdefault(stage, {})[cell] = row.outs
    return layout


def _histories(files: Files, layout: Layout) -> Iterator[tuple[str, str, pl.DataFrame]]:
    """Yield cell, path and table of each history: a CSV out of a cell with a column `epoch`."""
    outs = (
        (cell, path)
        for cells in layout.values()
        for cell, paths in cells.items()
        for path in paths
        if cell and path.endswith(".csv")
    )
    for cell, path in outs:
        table = pl.read_csv(files.find(path))
        if "epoch" in table.columns:
            yield cell, path, table


def _log_epoch(tracker: ExperimentTracker, row: Mapping[str, float]) -> None:
    """Log a row of a history, whose columns are named after phase and metric: val_loss."""
    epoch = int(row["epoch"])
    for name, value in row.items():
        phase, _, metric = name.partition("_")
        if metric:
            tracker.log({metric: value}, step=epoch, epoch=epoch, phase=phase)


def _print(text: str) -> None:
    print(f"pipeline: {text}")
