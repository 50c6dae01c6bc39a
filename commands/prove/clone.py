"""A clone of the repository in which training can be killed without harm.

It has the commit, the uncommitted changes of tracked files, and of DVC's cache what the stage
reads, linked, not copied, if the file system can. Its own cache has no runs, so that DVC trains
instead of looking the result up, and what a broken resume makes never reaches the user's cache.
"""

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from mlops.config import RunConfig
from mlops.errors import PipelineError
from mlops.files.canonical import flatten
from mlops.files.yaml_text import replace_values
from mlops.recorded.dvc_cache import cache_directory
from mlops.recorded.dvc_lock import recorded_stages

LOCK = "dvc.lock"
PARAMS = "params.yaml"
GIT = ("git", "-c", "user.name=prove", "-c", "user.email=prove@localhost")

# A short training with many saves.
SHORT = {"train.epochs": 3, "runtime.checkpoint_every_sec": 0.2}


@dataclass(frozen=True, kw_only=True)
class Target:
    """The stage to kill, as dvc.lock records it.

    `deps` maps the paths that it reads to their md5, a directory's with suffix `.dir`.
    """

    name: str
    command: tuple[str, ...]
    deps: Mapping[str, str]
    outs: tuple[str, ...]


def find_target(root: Path, name: str) -> Target:
    """Find the stage `name`, or the first of its cells: for `train`, `train@small3d-0-0`."""
    if not (root / LOCK).exists():
        raise PipelineError(
            f"{LOCK}: expected what DVC recorded of {name}, found no file; run dvc repro"
        )
    stages = recorded_stages((root / LOCK).read_bytes())
    cells = sorted(stage for stage in stages if stage == name or stage.startswith(f"{name}@"))
    if not cells:
        raise PipelineError(
            f"{LOCK}: expected a record of {name}, got {', '.join(sorted(stages)) or 'none'}; run "
            f"dvc repro {name} or choose another --target"
        )
    stage = stages[cells[0]]
    command, outs = tuple(shlex.split(stage.cmd)), tuple(stage.made_md5s)
    return Target(name=cells[0], command=command, deps=stage.read_md5s, outs=outs)


@dataclass(frozen=True, kw_only=True)
class Clone:
    root: Path
    target: Target

    @property
    def runs(self) -> Path:
        return self.root / "runs"

    @property
    def objects(self) -> Path:
        return self.root / ".dvc/cache/files/md5"

    def environment(self) -> dict[str, str]:
        """Return that of this process, without what DVC told it, and nothing sent to anyone."""
        clean = {name: value for name, value in os.environ.items() if not name.startswith("DVC_")}
        return clean | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "DVC_NO_ANALYTICS": "1",
            "DVC_STUDIO_OFFLINE": "1",
            # DVC's own notes about a repository; else they would outlive the clone.
            "DVC_SITE_CACHE_DIR": str(self.root / ".dvc/tmp/site"),
        }

    def git(self, *arguments: str, stdin: bytes = b"") -> str:
        return self.run(*GIT, *arguments, stdin=stdin)

    def dvc(self, *arguments: str) -> str:
        return self.run(sys.executable, "-m", "dvc", *arguments)

    def run(self, *command: str, cwd: Path | None = None, stdin: bytes = b"") -> str:
        """Return what a program prints, run in the clone or in `cwd`."""
        answer = subprocess.run(
            command,
            cwd=cwd or self.root,
            env=self.environment(),
            input=stdin,
            capture_output=True,
            check=False,
        )
        output = answer.stdout.decode(errors="surrogateescape")
        if answer.returncode != 0:
            said = (answer.stderr.decode(errors="replace") or output).strip().splitlines()
            words = " ".join(word for word in command if not word.startswith("/"))
            raise PipelineError(
                f"{words}: expected it to end without a fault, got '{said[-1] if said else ''}' "
                f"(exit code {answer.returncode}); mend that and run again"
            )
        return output

    def reset(self) -> None:
        """Remove runs, experiments and outs, and what is recorded of the stage."""
        self.git("reset", "--quiet", "--hard")
        for reference in self.git("for-each-ref", "--format=%(refname)", "refs/exps").split():
            self.git("update-ref", "-d", reference)
        for path in (self.runs, self.root / ".dvc/cache/runs", self.root / ".dvc/tmp/exps"):
            shutil.rmtree(path, ignore_errors=True)
        for out in self.target.outs:
            (self.root / out).unlink(missing_ok=True)

    def recorded(self, *, in_experiments: bool) -> Iterator[dict[str, str]]:
        """Yield the md5s of the stage's outs in each dvc.lock: the workspace's, or those of all
        experiments."""
        if in_experiments:
            names = self.git("for-each-ref", "--format=%(refname)", "refs/exps/??/*/*").split()
            locks = [self.git("show", f"{name}:./{LOCK}").encode() for name in names]
        else:
            locks = [(self.root / LOCK).read_bytes()] if (self.root / LOCK).exists() else []
        for lock in locks:
            if stage := recorded_stages(lock).get(self.target.name):
                yield stage.made_md5s


def make_clone(root: Path, target: Target, changes: Mapping[str, Any]) -> Clone:
    """Clone the repository of the current directory to the new directory `root`.

    `changes` maps keys of params.yaml, as `train.epochs`, to values.
    """
    clone, source = Clone(root=root, target=target), Path()
    clone.run("git", "clone", "--quiet", str(source.resolve()), str(root), cwd=source)
    difference = clone.run("git", "diff", "--binary", "HEAD", cwd=source)
    if difference:
        clone.git("apply", "--whitespace=nowarn", stdin=difference.encode(errors="surrogateescape"))
    clone.git("checkout", "--quiet", "-B", "prove")
    params = root / PARAMS
    params.write_text(replace_values(params.read_text("utf-8"), changes), "utf-8")
    shutil.copy2(source / LOCK, root / LOCK)
    forget(root / LOCK, target.name)
    clone.git("add", "--all")
    clone.git("commit", "--quiet", "--allow-empty", "--message", "prove")
    clone.dvc("cache", "dir", "--local", str(root / ".dvc/cache"))
    missing = [path for path in target.deps if not (root / path).exists()]
    link_objects(target, missing, clone.objects)
    if missing:
        clone.dvc("checkout", *missing)
    return clone


def training_changes(set_params: Sequence[str] = ()) -> dict[str, Any]:
    """Return what `set_params`, texts such as "train.epochs=3", change in params.yaml, and the
    values of a short training that they do not name, as far as it has such keys."""
    present = RunConfig.from_params(Path(PARAMS))
    short = [f"{key}={value}" for key, value in SHORT.items() if key in flatten(present.params)]
    changes = present.diff(RunConfig.from_params(Path(PARAMS), [*short, *set_params]))
    return {key: new for key, (_, new) in changes.items()}


def forget(lock: Path, name: str) -> None:
    """Remove a stage's entry from dvc.lock, so that DVC runs the stage without being forced."""
    yaml = YAML()
    document = yaml.load(lock)
    del document["stages"][name]
    yaml.dump(document, lock)


def link_objects(target: Target, paths: list[str], objects: Path) -> None:
    """Link what the target reads from the cache of the current directory to `objects`."""
    cache = cache_directory()
    for path in paths:
        md5 = target.deps[path]
        if cache is None or not (found := cache / "files/md5" / md5[:2] / md5[2:]).is_file():
            raise PipelineError(
                f"{path}: expected its content {md5} in DVC's cache, found none; run dvc repro, or "
                "dvc pull"
            )
        link(found, objects)
        if md5.endswith(".dir"):
            for entry in json.loads(found.read_bytes()):
                link(cache / "files/md5" / entry["md5"][:2] / entry["md5"][2:], objects)


def link(content: Path, objects: Path) -> None:
    """Make a hard link, or a symbolic one to another device."""
    path = objects / content.parent.name / content.name
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        return
    try:
        path.hardlink_to(content)
    except OSError:
        path.symlink_to(content.resolve())
