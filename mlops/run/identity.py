"""Fingerprint of a training: configuration, data, code, versions and device.

Time and names decide nothing. Two runs with one fingerprint would compute the same bytes, so
one may go on from the other's state; where a single entry differs, it may not.
"""

import ast
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mlops.files.atomic import content_hash
from mlops.files.canonical import config_hash, flatten
from mlops.files.source import meaning_hash

Fingerprint = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class TrainingIdentity:
    """The training to be done.

    `config`: its parameters, of which `cell` names the keys that say which model on which data
    it is; `trajectory`: the hash of what decides each step, apart from how many there are.
    """

    config: Mapping[str, Any]
    fingerprint: Fingerprint
    trajectory: str
    cell: tuple[str, ...]
    num_epochs: int

    @property
    def inputs(self) -> list[str]:
        """The paths that are read."""
        return list(self.fingerprint["inputs"])


def run_fingerprint(
    *,
    config: Mapping[str, Any],
    inputs: Iterable[Path],
    code: Iterable[Path],
    libraries: Iterable[str],
    builds: Mapping[str, str],
    device: str,
) -> Fingerprint:
    """Return the fingerprint document of a run, plain types only.

    `config` holds the values that the run reads, `inputs` its files and directories, `code` the
    modules that can change a result, which count by their meaning: a comment changes nothing.
    `libraries` are the distributions whose version can change a result, `builds` what tells more of
    them than their version, as `2.15.0+cu132` does.
    """
    return {
        "config": config_hash(config),
        "inputs": {path.as_posix(): content_hash(path) for path in sorted(inputs)},
        "code": {path.as_posix(): meaning_hash(path) for path in sorted(code)},
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in sorted(libraries)}
        | dict(builds),
        "device": device,
    }


def fingerprint_hash(fingerprint: Fingerprint) -> str:
    """Return 64 hex digits; the first 8 are part of the run directory's name."""
    return config_hash(fingerprint)


def trajectory_hash(
    fingerprint: Fingerprint, config: Mapping[str, Any], *, without: tuple[str, ...]
) -> str:
    """Return the hash of a fingerprint and its config, but for the dotted keys `without`."""
    kept = {key: value for key, value in flatten(config).items() if key not in without}
    return config_hash({**fingerprint, "config": config_hash(kept)})


def imported_sources(
    module: str, root: Path = Path(), *, counts: Callable[[Path], bool] = lambda path: True
) -> list[Path]:
    """Return every source file below `root` that importing `module` runs, itself included, sorted.

    Read from the text of the imports, also of those inside functions; what is not found below
    `root` belongs to a library and is covered by the versions. Importing `a.b` runs
    `a/__init__.py` as well. A file that does not count, by its path relative to `root`, is left
    out, with what it alone imports.
    """
    found: set[Path] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        for path in _source_files(name, root):
            if path not in found and counts(path.relative_to(root)):
                found.add(path)
                waiting.extend(_imports(path, path.relative_to(root).parent.parts))
    return sorted(found)


def _source_files(module: str, root: Path) -> Iterable[Path]:
    parts = module.split(".")
    for depth in range(1, len(parts)):
        package = root.joinpath(*parts[:depth], "__init__.py")
        if package.is_file():
            yield package
    for path in (root.joinpath(*parts).with_suffix(".py"), root.joinpath(*parts, "__init__.py")):
        if path.is_file():
            yield path


def _imports(path: Path, package: Sequence[str]) -> Iterable[str]:
    for node in ast.walk(ast.parse(path.read_bytes(), filename=str(path))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            # `from . import x` counts its dots from the package of the file it stands in.
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *filter(None, [node.module])])
            yield module
            # `from video.splitting import splits` imports a module, `from video.splitting.splits
            # import f` does not; a name that is no module is simply not found.
            yield from (f"{module}.{alias.name}" for alias in node.names)
