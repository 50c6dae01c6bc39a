"""The Markdown pages: links resolve, named files, modules, commands and flags exist."""

import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    *(ROOT / name for name in ("data/README.md", "benchmarks/README.md")),
]
MAX_README_LINES = 150

# The folders whose files are in git; data/, models/, results/ and runs/ are filled by the pipeline.
FOLDERS = "stages|commands|video|mlops|tests|docs|examples|benchmarks"
CODE = "stages|commands|video|mlops|tests|benchmarks"

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
PATH = re.compile(rf"(?<![\w/.<>-])((?:{FOLDERS})/[\w./-]*\w/?)")
MODULE = re.compile(rf"(?<![\w./-])((?:{CODE})(?:\.(?!md\b)\w+)+)")
COMMAND = re.compile(r"python -m commands\b([^\n`|]*)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.fixture(params=PAGES, ids=name)
def page(request: pytest.FixtureRequest) -> Path:
    return Path(request.param)


@cache
def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub gives to the headings of a page."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in HEADING.findall(text))
    return {heading.strip().replace(" ", "-") for heading in headings}


def broken_links(page: Path, text: str) -> list[str]:
    return [link for link in LINK.findall(text) if not resolves(link, page)]


def resolves(link: str, page: Path) -> bool:
    if "://" in link:
        return True
    path, _, anchor = link.partition("#")
    target = page.parent / path if path else page
    return target.exists() and (not anchor or anchor in anchors(target))


def missing_paths(text: str) -> list[str]:
    paths = [path for path in PATH.findall(text) if "NAME" not in path]
    return [path for path in paths if not (ROOT / path).exists()]


def missing_modules(text: str) -> list[str]:
    return [module for module in MODULE.findall(text) if not is_found(module)]


def is_found(dotted: str) -> bool:
    """Return whether a dotted name is a module, or a name that is written in one."""
    parts = dotted.split(".")
    for depth in range(len(parts), 0, -1):
        place = ROOT.joinpath(*parts[:depth])
        source = place.with_suffix(".py") if place.with_suffix(".py").is_file() else place
        if depth == len(parts) and source.exists():
            return True
        if source.is_file():
            return all(re.search(rf"\b{part}\b", source.read_text()) for part in parts[depth:])
    return False


def missing_flags(text: str) -> Iterator[str]:
    for arguments in COMMAND.findall(text):
        command, *rest = arguments.split("#")[0].split() or ["NAME"]
        if not re.fullmatch(r"[a-z]+", command):
            continue  # a placeholder
        sources = command_sources(command)
        if not sources:
            yield command
        for word in rest:
            if word.startswith("--") and f'"{word}"' not in sources:
                yield f"{command} {word}"


@cache
def command_sources(command: str) -> str:
    """Return the source of a command, "" if there is no such command."""
    folder = ROOT / "commands"
    own = [folder / f"{command}.py", *sorted((folder / command).glob("*.py"))]
    paths = [path for path in own if path.is_file()]
    shared = [folder / "__init__.py"] if paths else []
    return "\n".join(path.read_text() for path in paths + shared)


def test_links_resolve(page: Path) -> None:
    assert not broken_links(page, page.read_text())


def test_named_files_and_modules_exist(page: Path) -> None:
    # What a diff adds is not there before someone applies it.
    text = re.sub(r"^\+.*$", "", page.read_text(), flags=re.MULTILINE)
    assert not missing_paths(text)
    assert not missing_modules(text)


def test_named_commands_and_their_flags_exist(page: Path) -> None:
    assert not list(missing_flags(page.read_text()))


def test_a_broken_page_is_found() -> None:
    page = ROOT / "docs/architecture.md"
    text = "[a](nowhere.md) [b](#nowhere) [c](restoring.md#nowhere) [d](restoring.md#the-way-back)"
    assert broken_links(page, text) == ["nowhere.md", "#nowhere", "restoring.md#nowhere"]
    assert missing_paths("`video/old.py` and `video/source/`") == ["video/old.py"]
    assert missing_modules("`mlops.lineage.Nothing` and `mlops.lineage.DataVersionManager`") == [
        "mlops.lineage.Nothing"
    ]
    commands = "python -m commands lost\npython -m commands runs gc --never --yes"
    assert list(missing_flags(commands)) == ["lost", "runs --never"]


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= MAX_README_LINES


def test_the_readme_leads_to_every_page() -> None:
    linked = {link.partition("#")[0] for link in LINK.findall((ROOT / "README.md").read_text())}
    assert {name(page) for page in PAGES} - {"README.md"} <= linked


def test_readme_and_architecture_name_every_folder_of_code() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "stages", "commands", "video", "mlops"],
        cwd=ROOT,
        check=True,
        text=True,
        capture_output=True,
    ).stdout.splitlines()
    folders = {"/".join(path.split("/")[:-1]) for path in listed}
    folders = {folder for folder in folders if not folder.startswith("commands/")}
    for page in ("README.md", "docs/architecture.md"):
        text = (ROOT / page).read_text()
        assert not {folder for folder in folders if f"{folder}/" not in text}, page
