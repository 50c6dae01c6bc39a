"""Python source as it was when this process began, and its meaning."""

import ast
import hashlib
from pathlib import Path

PACKAGES = ("stages", "video", "mlops")

_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def source_at_start(path: Path) -> bytes:
    """Return the bytes of a source file as this process has imported it.

    `path` is relative to the current directory. A file that was not there when the process began,
    or that lies outside of the packages, is read now.
    """
    known = _SOURCES.get(path) if Path.cwd() == _ROOT else None
    return path.read_bytes() if known is None else known


def meaning(source: bytes) -> str | bytes:
    """Return a text that comments, docstrings and layout do not change.

    It is the syntax tree without docstrings; the source itself if it has none, for its syntax is
    at fault.
    """
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return source
    for node in ast.walk(tree):
        if isinstance(node, _DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            del node.body[0]
    return ast.dump(tree)


def meaning_hash(path: Path) -> str:
    """Return the sha256 of the meaning of a source file, as this process has imported it."""
    text = meaning(source_at_start(path))
    return hashlib.sha256(text.encode() if isinstance(text, str) else text).hexdigest()


def _read_sources() -> dict[Path, bytes]:
    paths = (path for package in PACKAGES for path in Path(package).rglob("*.py"))
    return {path: path.read_bytes() for path in paths}


# Noted before the imports of a stage (see stages/__init__.py), which take seconds: an edit made
# meanwhile would else pass for the code that runs. 150 files take 5 ms.
_ROOT = Path.cwd()
_SOURCES = _read_sources()
