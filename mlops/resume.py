"""How a training starts: from nothing, from a saved state, or with nothing left to do.

Decided by fingerprints alone, never by dates or names: a run goes on from its own state, and
from no other, except where another run's state is known to be the same trajectory.

| what is found below runs/ | the start |
| --- | --- |
| a run of the same fingerprint, not finished | resumes |
| one that is finished, its result not recorded in dvc.lock | publishes it again |
| one that is finished and recorded: `dvc repro --force` | afresh |
| one that differs in the number of epochs alone, which nothing but the end depends on | extends |
| with `runtime.resume: compatible`, one not finished that differs in versions or device alone | \
adopts |
| anything else | afresh, and says what differs from the run that is closest |

With `runtime.resume: never` every start is afresh.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mlops.config import config_hash, flatten
from mlops.errors import PipelineError
from mlops.fingerprint import Fingerprint

FINISHED = "finished"

Mode = Literal["exact", "compatible", "never"]
How = Literal["afresh", "resumes", "publishes", "extends", "adopts"]

# What may differ for `compatible`: the same mathematics, rounded elsewhere.
INEXACT = ("versions", "device")

_MOST_SHOWN = 3


@dataclass(frozen=True, kw_only=True)
class Start:
    """`run_dir` is the run's own, None before it is made; `source` the other run whose state is
    taken; `differs` what is not the same as in the closest run, in words."""

    how: How
    run_dir: Path | None = None
    source: Path | None = None
    differs: str = ""
    is_exact: bool = True  # whether the source's state is what this training would have come to


@dataclass(frozen=True, kw_only=True)
class Wanted:
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


@dataclass(frozen=True, kw_only=True)
class _Run:
    path: Path
    metadata: Mapping[str, Any]
    config: Mapping[str, Any]

    @property
    def is_exact(self) -> bool:
        """Whether it went on from no state of other versions or another device."""
        return bool((self.metadata.get("goes_on_from") or {}).get("exact", True))

    @property
    def has_state(self) -> bool:
        found = (self.path / "checkpoints").glob("*checkpoint*.pt")
        return any(not path.name.startswith(".") for path in found)  # but for half-written ones


def trajectory_hash(
    fingerprint: Fingerprint, config: Mapping[str, Any], *, without: tuple[str, ...]
) -> str:
    """The hash of a fingerprint, and hence of its config, but for the dotted keys `without`."""
    kept = {key: value for key, value in flatten(config).items() if key not in without}
    return config_hash({**fingerprint, "config": config_hash(kept)})


def choose_start(
    output_base: Path,
    wanted: Wanted,
    *,
    mode: Mode,
    recorded: Callable[[str], str | None],
) -> Start:
    """`recorded` gives the md5 that dvc.lock names for an out now, None where it names none."""
    if mode == "never":
        return Start(how="afresh", differs="runtime.resume is never")
    runs = [run for run in _newest_first(output_base) if mode == "compatible" or run.is_exact]
    other = _other_run(runs, wanted, mode)
    own = [run for run in runs if run.metadata["fingerprint"] == wanted.fingerprint]
    if own and own[0].metadata["status"] != FINISHED:
        # The other run counts only if no state of this one is sound.
        source = other[1] if other else None
        return Start(
            how="resumes",
            run_dir=own[0].path,
            source=source.path if source else None,
            is_exact=other is None or _stays_exact(*other),
        )
    if own:
        published = own[0].metadata["published"]
        if {name: recorded(name) for name in published} != published:
            return Start(how="publishes", run_dir=own[0].path)
        return Start(how="afresh", differs=f"{own[0].path.name} is finished and recorded")
    if other is None:
        return Start(how="afresh", differs=_closest(runs, wanted))
    how, run = other
    return Start(
        how=how,
        source=run.path,
        differs=differences(run.config, run.metadata, wanted),
        is_exact=_stays_exact(how, run),
    )


def _stays_exact(how: How, run: _Run) -> bool:
    return how == "extends" and run.is_exact


def differences(config: Mapping[str, Any], metadata: Mapping[str, Any], wanted: Wanted) -> str:
    """What differs in a run from what is wanted, by key and old and new value, in one line."""
    texts = []
    for before, after in (
        (flatten(config), flatten(wanted.config)),
        *(
            (_entries(metadata["fingerprint"], part), _entries(wanted.fingerprint, part))
            for part in ("inputs", "code", "versions", "device")
        ),
    ):
        for key in sorted(before.keys() | after.keys()):
            old, new = before.get(key), after.get(key)
            if config_hash([old]) != config_hash([new]):
                texts.append(f"{key} {_short(old)} -> {_short(new)}")
    more = len(texts) - _MOST_SHOWN
    return ", ".join(texts[:_MOST_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _newest_first(output_base: Path) -> Iterator[_Run]:
    paths = output_base.glob("*/run_*/metadata.json")
    for path in sorted(paths, key=lambda path: path.parent.name, reverse=True):
        try:
            metadata = dict(json.loads(path.read_text()))
            config = json.loads((path.parent / "config.json").read_text())["config"]
        except FileNotFoundError:  # one that was killed while it was being made
            continue
        except (ValueError, KeyError, TypeError) as error:
            raise PipelineError(
                f"{path.parent}: expected metadata.json and config.json of a run, got a damaged "
                f"file ({error}); move the directory away and run again"
            ) from None
        if {"fingerprint", "status"} <= metadata.keys():
            yield _Run(path=path.parent, metadata=metadata, config=config)


def _other_run(runs: list[_Run], wanted: Wanted, mode: Mode) -> tuple[How, _Run] | None:
    """The run whose state may be taken: a shorter one, the longest, or else an inexact one."""
    shorter = [
        run
        for run in runs
        if run.metadata.get("trajectory") == wanted.trajectory
        and run.has_state
        and flatten(run.config)["train.epochs"] < wanted.num_epochs
    ]
    if shorter:
        return "extends", max(shorter, key=lambda run: flatten(run.config)["train.epochs"])
    if mode == "compatible":
        for run in runs:
            same = _exact_part(run.metadata["fingerprint"]) == _exact_part(wanted.fingerprint)
            differs = run.metadata["fingerprint"] != wanted.fingerprint
            if same and differs and run.has_state and run.metadata["status"] != FINISHED:
                return "adopts", run
    return None


def _exact_part(fingerprint: Fingerprint) -> Fingerprint:
    return {key: value for key, value in fingerprint.items() if key not in INEXACT}


def _closest(runs: list[_Run], wanted: Wanted) -> str:
    """What differs from the newest run of the same cell; nothing if there is none."""
    cell = {key: wanted.config[key] for key in wanted.cell}
    for run in runs:
        if {key: run.config.get(key) for key in wanted.cell} == cell:
            return f"beside {run.path.name}: {differences(run.config, run.metadata, wanted)}"
    return ""


def _entries(fingerprint: Fingerprint, part: str) -> dict[str, Any]:
    entries = fingerprint[part]
    return flatten(entries) if isinstance(entries, dict) else {part: entries}


def _short(value: Any) -> str:
    text = "none" if value is None else str(value)
    return text[:8] if len(text) == 64 else text
