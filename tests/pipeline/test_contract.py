"""dvc.yaml, params.yaml, the scripts and the direction of the imports say the same."""

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mlops.files.yaml_text import load_yaml
from mlops.inputs import undeclared_imports
from mlops.recorded.dvc_yaml import data_tables
from mlops.run.identity import imported_sources
from stages import identity, paths
from stages.paths import Cell

ROOT = Path(__file__).parents[2]
PIPELINE = load_yaml(ROOT / "dvc.yaml")
STAGES = sorted(PIPELINE["stages"])

# Modules of mlops/ that can change a result: all others read, record, wait, or keep bytes that are
# else made again.
DECISIVE = {
    "mlops/determinism.py",
    "mlops/files/checkpoint_file.py",
    "mlops/processes/group.py",
}

MAX_CODE_PATHS = (
    10  # of a stage: dvc.lock has each for each cell, and is written at each stage's end
)

# Sections that change no result and are in no stage's params.
UNDECLARED_SECTIONS = {"runtime", "experiment"}

# Modules of `stages` that are no scripts: of all stages, and of the one stage that imports it.
SHARED = {"params", "paths"}
HELPERS = {"identity": "train"}

# What each layer may import of the repository, and which modules of `stages` besides.
MAY_IMPORT = {
    "commands": {"commands", "video", "mlops"},
    "stages": {"video", "mlops"},
    "video": {"video"},
    "mlops": {"mlops"},
}
MAY_IMPORT_PARAMS = ("commands", "stages")

# The rooms of a package, the lowest last; a module imports of its own room and of lower ones. The
# modules at the top of mlops/ are above its rooms; mlops/errors.py is below all.
ROOMS = {
    "mlops": [
        {"mlops"},
        {"notebook"},
        {"run", "workers"},
        {"recorded", "processes", "metrics"},
        {"files"},
    ],
    "video": [
        {"index"},
        {"source", "learning", "report", "card", "export", "synthesis"},
        {"splitting", "clips", "augmentation", "scoring", "models"},
    ],
}

# Asked for a path, it gives that of dvc.yaml with the keys of the matrix in braces.
ANY_CELL = Cell(model="{model}", fold="{fold}", seed="{seed}")  # type: ignore[arg-type]

# Functions of stages/paths.py for the stages without a fold, and what a cell calls their paths.
OF_CELLS = {"initial_weights": "initial_weights", "features_file": "features"}

KNOWS_DVC = "mlops/pipeline.py"


def script(stage: str) -> Path:
    return ROOT / "stages" / f"{stage}.py"


def sources(stage: str) -> list[Path]:
    """Return the script of a stage and the modules that are a part of it."""
    return [script(name) for name in (stage, *HELPERS) if HELPERS.get(name, stage) == stage]


def declared(stage: str, kind: str) -> list[str]:
    """Return the paths of a stage's deps or outs in dvc.yaml, metrics and plots included."""
    items = PIPELINE["stages"][stage].get(kind, [])
    if kind == "outs":
        items = items + PIPELINE["stages"][stage].get("metrics", [])
    return [next(iter(item)) if isinstance(item, dict) else item for item in items]


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def imported_modules(path: Path) -> Iterator[str]:
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import in line {node.lineno}"
            yield node.module or ""


def module_names(path: Path) -> Iterator[str]:
    """Yield the names of `imported_modules` and the modules of `from package import module`."""
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
    yield from imported_modules(path)


def python_files() -> list[Path]:
    return [path for layer in MAY_IMPORT for path in sorted((ROOT / layer).rglob("*.py"))]


def test_every_stage_has_its_script_and_every_script_its_stage() -> None:
    modules = {path.stem for path in (ROOT / "stages").glob("*.py")}
    assert set(STAGES) == modules - SHARED - set(HELPERS) - {"__init__"}


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_runs_its_own_script(stage: str) -> None:
    command = PIPELINE["stages"][stage]["cmd"]
    assert command.split(" --")[0] == f"python -m stages.{stage}"
    assert f"stages/{stage}.py" in declared(stage, "deps")


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_declares_exactly_the_parameters_that_it_reads(stage: str) -> None:
    listed = PIPELINE["stages"][stage].get("params", [])
    keys = {re.sub(r"\.\$\{item\.\w+\}$", "", key) for key in listed}  # of a cell's own part
    read = {name for path in sources(stage) for name in parameters_read(path)}
    assert keys == {covering(name, keys) for name in read}


def covering(name: str, keys: set[str]) -> str:
    """Return the declared key that covers what is read, or the name read if none does."""
    parts = name.split(".")
    candidates = [".".join(parts[:depth]) for depth in range(1, len(parts) + 1)]
    return next((key for key in candidates if key in keys), name)


def parameters_read(path: Path) -> Iterator[str]:
    """Yield `params.a.b` as "a.b"; the name `params` itself may be passed to functions."""
    tree = parsed(path)
    inner = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and id(node) not in inner:
            chain = attribute_chain(node)
            if chain and chain[0] == "params" and chain[1] not in UNDECLARED_SECTIONS:
                yield ".".join(chain[1:3])


def attribute_chain(node: ast.expr) -> list[str]:
    names: list[str] = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    return [node.id, *reversed(names)] if isinstance(node, ast.Name) else []


def test_params_reach_a_function_only_under_their_name() -> None:
    """So that the reading of the sections above misses none."""
    for path in (path for stage in STAGES for path in sources(stage)):
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.FunctionDef):
                for argument in node.args.args:
                    annotation = argument.annotation
                    if isinstance(annotation, ast.Name) and annotation.id == "Params":
                        assert argument.arg == "params", f"{path}: {node.name}"


def test_every_section_of_params_yaml_is_declared_by_a_stage() -> None:
    sections = set(load_yaml(ROOT / "params.yaml")) - UNDECLARED_SECTIONS
    keys = {key for stage in STAGES for key in PIPELINE["stages"][stage].get("params", [])}
    assert sections == {key.split(".")[0] for key in keys}
    assert not UNDECLARED_SECTIONS & {key.split(".")[0] for key in keys}


def code(stage: str) -> list[str]:
    return [dep for dep in declared(stage, "deps") if re.match(r"(stages|video|mlops)/", dep)]


@pytest.mark.parametrize("stage", STAGES)
def test_the_code_that_a_stage_imports_lies_in_its_deps(stage: str) -> None:
    assert undeclared_imports(stage, code(stage)) == []
    # Of what reads and checks the parameters, DVC compares the values itself.
    imported = imported_sources(f"stages.{stage}", ROOT)
    decisive = DECISIVE & {path.relative_to(ROOT).as_posix() for path in imported}
    assert {path for path in code(stage) if path.startswith("mlops/")} == decisive


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_imports_something_of_each_of_its_deps(stage: str) -> None:
    assert len(code(stage)) <= MAX_CODE_PATHS
    imported = [path.relative_to(ROOT) for path in imported_sources(f"stages.{stage}", ROOT)]
    for dep in code(stage):
        assert any(path.is_relative_to(dep) for path in imported), dep


def test_the_modules_that_identify_a_training_are_those_that_can_change_it() -> None:
    assert {path.as_posix() for path in identity.DECISIVE} == DECISIVE | {"stages/train.py"}


@pytest.mark.parametrize("stage", STAGES)
def test_the_paths_in_the_script_are_the_paths_in_dvc_yaml(stage: str) -> None:
    named = {name for path in sources(stage) for name in paths_named(path)}
    data = {
        re.sub(r"\$\{item\.(\w+)\}", r"{\1}", path)
        for path in declared(stage, "deps") + declared(stage, "outs")
        if not re.match(r"(stages|video|mlops)/|\$\{(data|init_model)\.", path)
    }
    # `report` depends on the directory that holds all cells, and names files in it.
    if "results" in data:
        data.remove("results")
        named = {path for path in named if not path.startswith("results")}
    assert named == data


def paths_named(path: Path) -> Iterator[str]:
    """Yield the paths that a script takes from stages/paths.py or asks a cell for."""
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Attribute) and attribute_chain(node) == ["cell", node.attr]:
            found = getattr(ANY_CELL, node.attr, None)
            if isinstance(found, Path):
                yield found.as_posix()
        if isinstance(node, ast.ImportFrom) and node.module == "stages.paths":
            for alias in node.names:
                found = getattr(paths, alias.name)
                if isinstance(found, Path):
                    yield found.as_posix()
                if alias.name in OF_CELLS:
                    yield getattr(ANY_CELL, OF_CELLS[alias.name]).as_posix()


def test_the_tables_of_the_data_are_outs_of_a_stage() -> None:
    outs = {path for stage in STAGES for path in declared(stage, "outs")}
    assert {table.path for table in data_tables(ROOT).values()} <= outs
    assert {table.directory for table in data_tables(ROOT).values()} - {None} <= outs


def test_no_stage_has_a_path_of_its_own() -> None:
    for path in (path for stage in STAGES for path in sources(stage)):
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                assert not re.match(r"(data|models|results|plots)/\w|metrics\.json$", node.value)


def paths_of_the_pipeline() -> set[str]:
    """Return every path in stages/paths.py but those of any repository with DVC."""
    named = [path for value in vars(paths).values() for path in as_paths(value)]
    cells = [getattr(ANY_CELL, name) for name in dir(ANY_CELL) if not name.startswith("_")]
    found = {path.as_posix() for path in [*named, *cells] if isinstance(path, Path)}
    return found - {"params.yaml", "runs", ".dvc"}


def as_paths(value: object) -> list[object]:
    return value if isinstance(value, list) else [value]


@pytest.mark.parametrize("path", sorted((ROOT / "mlops").rglob("*.py")), ids=str)
def test_mlops_knows_no_path_of_the_pipeline_and_no_column_of_its_tables(path: Path) -> None:
    tables = [item["meta"] for item in PIPELINE["artifacts"].values() if "meta" in item]
    columns = {meta[name] for meta in tables for name in ("key", "made") if name in meta}
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            words = set(re.findall(r"[\w./{}-]+", node.value))
            assert not words & paths_of_the_pipeline() - {"models", "results", "plots"}
            assert node.value not in paths_of_the_pipeline() | columns


@pytest.mark.parametrize("path", python_files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_one_way(path: Path) -> None:
    layer = path.relative_to(ROOT).parts[0]
    for name in imported_modules(path):
        package = name.split(".")[0]
        if name in ("stages.params", "stages.paths"):
            assert layer in MAY_IMPORT_PARAMS
        elif name.removeprefix("stages.") in HELPERS:
            assert path == script(HELPERS[name.removeprefix("stages.")])
        elif package in MAY_IMPORT:
            assert package in MAY_IMPORT[layer], f"{path.relative_to(ROOT)} imports {name}"


@pytest.mark.parametrize("path", python_files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_room_imports_of_lower_rooms_alone(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    if package in ROOMS and path.name != "__init__.py":
        own = level(path)
        for name in set(module_names(path)):
            source = ROOT.joinpath(*name.split(".")).with_suffix(".py")
            if name.startswith(f"{package}.") and source.is_file() and name != "mlops.errors":
                other = level(source)
                assert source.parent == path.parent or other > own, f"{path}: {name}"


def level(path: Path) -> int:
    """Return how far down the folder of a module lies."""
    package, *room, _ = path.relative_to(ROOT).parts
    return next(i for i, rooms in enumerate(ROOMS[package]) if (room or [package])[0] in rooms)


@pytest.mark.parametrize("path", python_files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_only_the_facade_imports_dvc(path: Path) -> None:
    if path.relative_to(ROOT).as_posix() != KNOWS_DVC:
        assert not [name for name in imported_modules(path) if name.split(".")[0] == "dvc"]


@pytest.mark.parametrize("stage", sorted(set(STAGES) - {"init_model", "train", "evaluate"}))
def test_only_stages_with_a_model_import_torch(stage: str) -> None:
    assert "torch" not in modules_of(stage)


@pytest.mark.parametrize("stage", ["train", "evaluate", "init_model"])
def test_torchvision_is_imported_for_its_own_models_alone(stage: str) -> None:
    assert "torchvision" not in modules_of(stage)


def modules_of(stage: str) -> set[str]:
    """Return what importing a stage's script imports, in a process of its own."""
    code = f"import sys, stages.{stage}; print(*sys.modules)"
    output = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, text=True, capture_output=True
    )
    return set(output.stdout.split())


# Small texts in git, one of which the next run of its stage reads.
REBALANCE, METRICS = "data/rebalance.yaml", "metrics.json"


def without(place: str, stage: dict[str, Any]) -> list[Any]:
    return [out for out in stage.get("outs", []) if place not in out]


def test_no_stage_but_the_sample_is_persistent_and_none_keeps_its_outs() -> None:
    """A finished checkpoint that outlives its parameters would be recorded under the next ones."""
    for stage in STAGES:
        persistent = "persist" in json.dumps(without(REBALANCE, PIPELINE["stages"][stage]))
        assert persistent == (stage == "sample"), stage


def test_every_directory_says_what_names_its_files_have() -> None:
    """The pattern is what tells files of the user's from those of the stage."""
    for stage in set(STAGES) - {"sample"}:
        for out in PIPELINE["stages"][stage].get("outs", []):
            place = next(iter(out)) if isinstance(out, dict) else out
            named = isinstance(out, dict) and bool(out[place].get("meta", {}).get("files"))
            assert named == (Path(place).suffix == ""), place


def test_outs_are_ignored_by_git_before_dvc_has_run() -> None:
    outs = {path for stage in STAGES for path in declared(stage, "outs")} - {REBALANCE, METRICS}
    for out in outs:
        path = re.sub(r"\$\{item\.(\w+)\}", r"\1", out)
        ignored = subprocess.run(["git", "check-ignore", "-q", path], cwd=ROOT, check=False)
        assert ignored.returncode == 0, path


def test_the_lock_names_versions_and_no_address() -> None:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.]*", line) for line in pins)


def test_the_lock_pins_every_direct_dependency() -> None:
    import tomllib

    project: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    direct = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    pinned = {
        line.split("==")[0].lower().replace("_", "-")
        for line in (ROOT / "requirements.lock").read_text().splitlines()
    }
    assert {re.split(r"[\[><=]", name)[0].lower() for name in direct} <= pinned
