"""A fingerprint changes with all that can change a result, and with nothing else."""

import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlops.run.identity import Fingerprint, fingerprint_hash, imported_sources, run_fingerprint

SOURCES = {
    "app/__init__.py": "",
    "app/main.py": "import json\nimport app.plain\nfrom app import named\nfrom app.of import f\n",
    "app/plain.py": "import numpy as np\n",
    "app/named.py": "def g():\n    from deep.down import inner\n    return inner\n",
    "app/of.py": "f = 1\n",
    "app/unused.py": "import app.main\n",
    "deep/__init__.py": "import side\n",
    "deep/down/__init__.py": "",
    "deep/down/inner.py": "import app.main\n",
    "side.py": "",
    "json_like.py": "",
}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name, text in SOURCES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.csv").write_text("1")
    (tmp_path / "clips.parquet").write_text("2")
    return tmp_path


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Install a distribution `somelib`, or replace it by another version."""
    metadata = tmp_path / "site/somelib.dist-info/METADATA"
    metadata.parent.mkdir(parents=True)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))

    def install(version: str) -> None:
        metadata.write_text(f"Metadata-Version: 2.1\nName: somelib\nVersion: {version}\n")

    install("1.0")
    return install


def fingerprint(root: Path, **changes: Any) -> Fingerprint:
    arguments: dict[str, Any] = {
        "config": {"seed": 0, "train": {"epochs": 2}},
        "inputs": [root / "in", root / "clips.parquet"],
        "code": [root / name for name in ("app/main.py", "deep/down/inner.py")],
        "libraries": ["somelib", "numpy"],
        "builds": {},
        "device": "cpu",
    }
    return run_fingerprint(**(arguments | changes))


@pytest.mark.usefixtures("library")
def test_the_same_run_has_the_same_fingerprint(project: Path) -> None:
    one = fingerprint(project)
    other = fingerprint(
        project,
        config={"train": {"epochs": 2}, "seed": 0},
        inputs=[project / "clips.parquet", project / "in"],
        libraries=["numpy", "somelib"],
    )
    assert fingerprint_hash(one) == fingerprint_hash(other)


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize(
    "changes",
    [
        {"config": {"seed": 1, "train": {"epochs": 2}}},
        {"device": "cuda NVIDIA H100"},
        {"libraries": ["numpy"]},
        {"code": []},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_another_argument_changes_the_hash(project: Path, changes: dict[str, Any]) -> None:
    changed = fingerprint_hash(fingerprint(project, **changes))
    assert changed != fingerprint_hash(fingerprint(project))


@pytest.mark.usefixtures("library")
def test_a_missing_input_changes_the_hash(project: Path) -> None:
    fewer = fingerprint(project, inputs=[project / "in"])
    assert fingerprint_hash(fewer) != fingerprint_hash(fingerprint(project))


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("name", ["in/a.csv", "clips.parquet", "app/main.py", "deep/down/inner.py"])
def test_another_content_of_a_file_that_counts_changes_the_hash(project: Path, name: str) -> None:
    before = fingerprint(project)
    with (project / name).open("a") as stream:
        stream.write("other = 1\n")
    assert fingerprint_hash(fingerprint(project)) != fingerprint_hash(before)


@pytest.mark.usefixtures("library")
def test_comments_docstrings_and_layout_of_code_change_nothing(project: Path) -> None:
    code = "def f(x):\n    return x + 1\n"
    (project / "app/main.py").write_text(code)
    before = fingerprint(project)
    for same in (
        f"# said\n{code}",
        f'"""Said."""\n{code}',
        'def f(x):\n    """Add one."""\n    return (x  +  1)\n',
    ):
        (project / "app/main.py").write_text(same)
        assert fingerprint(project) == before
    (project / "app/main.py").write_text(code.replace("+", "-"))
    assert fingerprint(project) != before


@pytest.mark.usefixtures("library")
def test_a_new_file_in_an_input_directory_changes_the_hash(project: Path) -> None:
    before = fingerprint(project)
    (project / "in/b.csv").touch()
    assert fingerprint_hash(fingerprint(project)) != fingerprint_hash(before)


def test_another_version_of_a_library_changes_the_hash(
    project: Path, library: Callable[[str], None]
) -> None:
    before = fingerprint(project)
    library("1.1")
    assert fingerprint_hash(fingerprint(project)) != fingerprint_hash(before)


@pytest.mark.usefixtures("library")
def test_time_and_files_that_are_not_used_change_nothing(project: Path) -> None:
    before = fingerprint(project)
    (project / "app/unused.py").write_text("other = 1\n")
    (project / "README.md").write_text("other\n")
    os.utime(project / "clips.parquet", (0, 0))
    assert fingerprint(project) == before


@pytest.mark.usefixtures("library")
def test_the_versions_are_those_of_python_and_of_the_libraries(project: Path) -> None:
    versions = fingerprint(project)["versions"]
    assert (versions["python"], versions["somelib"]) == (platform.python_version(), "1.0")


@pytest.mark.usefixtures("library")
def test_a_build_tells_more_than_the_version(project: Path) -> None:
    built = fingerprint(project, builds={"somelib": "1.0+cu132"})
    assert built["versions"]["somelib"] == "1.0+cu132"
    assert fingerprint_hash(built) != fingerprint_hash(fingerprint(project))


def sources(root: Path, module: str) -> set[str]:
    return {path.relative_to(root).as_posix() for path in imported_sources(module, root)}


def test_the_sources_are_those_that_an_import_runs_and_no_others(project: Path) -> None:
    assert sources(project, "app.main") == set(SOURCES) - {"app/unused.py", "json_like.py"}


@pytest.mark.parametrize(
    ("statement", "found"),
    [
        ("import app.plain", {"app/__init__.py", "app/plain.py"}),
        ("import app.plain as p, side", {"app/__init__.py", "app/plain.py", "side.py"}),
        ("from app import plain", {"app/__init__.py", "app/plain.py"}),
        ("from app import *", {"app/__init__.py"}),
        ("from app.of import f", {"app/__init__.py", "app/of.py"}),
        ("def g():\n    import app.of", {"app/__init__.py", "app/of.py"}),
        ("if 1:\n    from app.of import f", {"app/__init__.py", "app/of.py"}),
        ("try:\n    import side\nexcept ImportError:\n    pass", {"side.py"}),
        ("import deep", {"deep/__init__.py", "side.py"}),
        ("import numpy.random, json", set()),
        ("# import side", set()),
    ],
)
def test_every_way_to_write_an_import_is_followed(
    statement: str, found: set[str], project: Path
) -> None:
    (project / "start.py").write_text(statement + "\n")
    assert sources(project, "start") == found | {"start.py"}


@pytest.mark.parametrize(
    ("file", "statement", "found"),
    [
        ("app/start.py", "from . import plain", "app/plain.py"),
        ("app/start.py", "from .of import f", "app/of.py"),
        ("deep/down/start.py", "from ..up import x", "deep/up.py"),
        ("deep/down/start/__init__.py", "from . import part", "deep/down/start/part.py"),
    ],
)
def test_relative_imports_are_followed(
    file: str, statement: str, found: str, project: Path
) -> None:
    for path in (project / file, project / found):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (project / file).write_text(statement + "\n")
    module = file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    assert found in sources(project, module)


def test_what_does_not_count_is_left_out_with_what_it_alone_imports(project: Path) -> None:
    found = imported_sources("app.main", project, counts=lambda path: path.name != "named.py")
    assert project / "app/of.py" in found
    assert not {path.name for path in found} & {"named.py", "inner.py", "side.py"}
