"""A clone of the repository in which training can be killed without harm.

It has the commit, the uncommitted changes of tracked files, and of DVC's cache what the stage
reads, linked, not copied, where the file system can. Its own cache has no runs, so that DVC trains
instead of looking the result up, and what a broken resume makes never reaches the user's cache.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from commands.prove.target import LOCK, Target
from mlops.config import RunConfig
from mlops.errors import PipelineError
from mlops.files.canonical import flatten
from mlops.files.yaml_text import replace_values
from mlops.recorded.dvc_cache import cache_directory
from mlops.recorded.dvc_lock import recorded_stages

PARAMS = "params.yaml"
IDENTITY = ("-c", "user.name=prove", "-c", "user.email=prove@localhost")

# A short training with many saves.
SHORT = {"train.epochs": 3, "runtime.checkpoint_every_sec": 0.2}


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
        """That of this process, without what DVC told it, and nothing said to anyone outside."""
        clean = {name: value for name, value in os.environ.items() if not name.startswith("DVC_")}
        return clean | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "DVC_NO_ANALYTICS": "1",
            "DVC_STUDIO_OFFLINE": "1",
            # DVC's own notes about a repository; else they would outlive the clone.
            "DVC_SITE_CACHE_DIR": str(self.root / ".dvc/tmp/site"),
        }

    def git(self, *arguments: str, stdin: bytes = b"") -> str:
        return run(["git", *IDENTITY, *arguments], self, stdin)

    def dvc(self, *arguments: str) -> str:
        return run([sys.executable, "-m", "dvc", *arguments], self)

    def reset(self) -> None:
        """As before the first start: no run, no experiment, nothing recorded of the stage."""
        self.git("reset", "--quiet", "--hard")
        for reference in self.git("for-each-ref", "--format=%(refname)", "refs/exps").split():
            self.git("update-ref", "-d", reference)
        for path in (self.runs, self.root / ".dvc/cache/runs", self.root / ".dvc/tmp/exps"):
            shutil.rmtree(path, ignore_errors=True)
        for out in self.target.outs:
            remove(self.root / out)

    def recorded(self, *, in_experiments: bool) -> Iterator[dict[str, str]]:
        """The md5 of the stage's outs as each dvc.lock has them: the workspace's, or those of
        all experiments."""
        if in_experiments:
            names = self.git("for-each-ref", "--format=%(refname)", "refs/exps/??/*/*").split()
            locks = [self.git("show", f"{name}:./{LOCK}").encode() for name in names]
        else:
            locks = [(self.root / LOCK).read_bytes()] if (self.root / LOCK).exists() else []
        for lock in locks:
            if stage := recorded_stages(lock).get(self.target.name):
                yield stage.made_md5s


def make_clone(source: Path, root: Path, target: Target, changes: Mapping[str, Any]) -> Clone:
    """Clone the repository at `source` to the new directory `root`, ready to run the target.

    `changes` maps keys of params.yaml, as `train.epochs`, to values.
    """
    clone = Clone(root=root, target=target)
    source_git = ["git", "-C", str(source)]
    run([*source_git, "clone", "--quiet", str(source.resolve()), str(root)], clone, cwd=source)
    difference = run([*source_git, "diff", "--binary", "HEAD"], clone, cwd=source)
    if difference:
        clone.git("apply", "--whitespace=nowarn", stdin=difference.encode(errors="surrogateescape"))
    clone.git("checkout", "--quiet", "-B", "prove")
    set_parameters(root / PARAMS, changes)
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


def run(command: list[str], clone: Clone, stdin: bytes = b"", *, cwd: Path | None = None) -> str:
    """What a program prints, run in the clone."""
    answer = subprocess.run(
        command,
        cwd=cwd or clone.root,
        env=clone.environment(),
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


def training_changes(path: Path, set_params: Sequence[str] = ()) -> dict[str, Any]:
    """Return what `set_params`, texts such as "train.epochs=3", change in a params.yaml, and the
    values of a short training that they do not name, as far as it has such keys."""
    present = RunConfig.from_params(path)
    short = [f"{key}={value}" for key, value in SHORT.items() if key in flatten(present.params)]
    changes = present.diff(RunConfig.from_params(path, [*short, *set_params]))
    return {key: new for key, (_, new) in changes.items()}


def set_parameters(path: Path, changes: Mapping[str, Any]) -> None:
    path.write_text(replace_values(path.read_text("utf-8"), changes), "utf-8")


def forget(lock: Path, name: str) -> None:
    """Take a stage's entry out of dvc.lock, so that DVC runs the stage without being forced."""
    yaml = YAML()
    document = yaml.load(lock)
    del document["stages"][name]
    yaml.dump(document, lock)


def link_objects(target: Target, paths: list[str], objects: Path) -> None:
    """Bring what the target reads from the cache of the current directory to `objects`."""
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
    """A hard link, or a symbolic one to another device."""
    path = objects / content.parent.name / content.name
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        return
    try:
        path.hardlink_to(content)
    except OSError:
        path.symlink_to(content.resolve())


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
