"""Start of a training: from nothing, from a saved state, or with nothing left to do.

Decided by fingerprints alone, never by dates or names: a run goes on from its own state, and
from no other, except where another run's state is known to be the same trajectory.

| what is found below runs/ | the start |
| --- | --- |
| a run of the same fingerprint, not finished | resume |
| one that is finished | republish: its result is published again, in seconds |
| a damaged record of a run of the same fingerprint, and no sound one | none: it stops and says so |
| one that differs in the number of epochs alone, which nothing but the end depends on | extend |
| with `runtime.resume: compatible`, one not finished that differs in code, versions or device \
alone | adopt |
| anything else | new, and says what differs from the run that is closest |

With `runtime.resume: never` every start is new, and trains a finished run again. The damaged
record of any other run is told in a line, and passed over.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mlops.errors import PipelineError
from mlops.files.canonical import config_hash, flatten
from mlops.files.tables import listed
from mlops.run.documents import DamagedRecordError, read_config, read_metadata, run_directories
from mlops.run.identity import Fingerprint, TrainingIdentity, fingerprint_hash

FINISHED = "finished"

Mode = Literal["exact", "compatible", "never"]
How = Literal["new", "resume", "republish", "extend", "adopt"]

# What may differ for `compatible`: whoever asks for it says that a state still has its meaning.
INEXACT = ("code", "versions", "device")

_MAX_SHOWN = 3

_NO_FINGERPRINT = "metadata.json: no fingerprint"


@dataclass(frozen=True, kw_only=True)
class Start:
    """Start of a training. `run_dir` is the run's own, None before it is made; `source` is the
    other run whose state is used; `differs` says what differs from the closest run."""

    how: How
    run_dir: Path | None = None
    source: Path | None = None
    differs: str = ""
    is_exact: bool = True  # whether the source's state is what this training would have come to


@dataclass(frozen=True, kw_only=True)
class _Run:
    path: Path
    metadata: Mapping[str, Any]
    config: Mapping[str, Any]

    @property
    def is_exact(self) -> bool:
        """True if it used no state of other code, of other versions or of another device."""
        return bool((self.metadata.get("goes_on_from") or {}).get("exact", True))

    @property
    def num_epochs(self) -> int | None:
        """The number of epochs that it was to train; None if its configuration does not tell."""
        value = flatten(self.config).get("train.epochs")
        return value if isinstance(value, int) else None


def _has_state(run_dir: Path) -> bool:
    found = (run_dir / "checkpoints").glob("*checkpoint*.pt")
    return any(not path.name.startswith(".") for path in found)  # but for half-written ones


def choose_start(
    output_base: Path,
    wanted: TrainingIdentity,
    *,
    mode: Mode,
    log: Callable[[str], None] = print,
) -> Start:
    """Decide how a training starts; a `PipelineError` says that its own run is damaged."""
    if mode == "never":
        return Start(how="new", differs="runtime.resume is never")
    found, damaged = _newest_first(output_base)
    runs = [run for run in found if mode == "compatible" or run.is_exact]
    other = _other_run(runs, wanted, mode)
    own = [run for run in runs if run.metadata["fingerprint"] == wanted.fingerprint]
    _check_damaged(damaged, wanted, log, has_sound=bool(own))
    if own and own[0].metadata.get("status") != FINISHED:
        # The other run counts only if no state of this one is sound.
        return Start(how="resume", run_dir=own[0].path, **_going_on_from(other, wanted))
    if own:
        return Start(how="republish", run_dir=own[0].path)
    if other is None:
        return Start(how="new", differs=_closest(runs, wanted))
    return Start(how=other[0], **_going_on_from(other, wanted))


def _going_on_from(other: tuple[How, _Run] | None, wanted: TrainingIdentity) -> dict[str, Any]:
    if other is None:
        return {}
    how, run = other
    return {
        "source": run.path,
        "differs": differences(run.config, run.metadata, wanted),
        "is_exact": how == "extend" and run.is_exact,
    }


def differences(
    config: Mapping[str, Any], metadata: Mapping[str, Any], wanted: TrainingIdentity
) -> str:
    """Return what differs in a run, by key and old and new value, in one line."""
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
    return listed(texts, _MAX_SHOWN)


def _newest_first(output_base: Path) -> tuple[list[_Run], dict[Path, str]]:
    """Return the trainings below `output_base`, and by its path what is damaged of each other."""
    runs, damaged = [], {}
    for path in reversed(run_directories(output_base)):
        try:
            metadata = read_metadata(path)
            if metadata.get("fingerprint"):
                runs.append(_Run(path=path, metadata=metadata, config=read_config(path)))
            elif _has_state(path):
                damaged[path] = _NO_FINGERPRINT
        except FileNotFoundError as error:
            # One that is being made or removed has no state.
            if _has_state(path):
                damaged[path] = f"{Path(error.filename).name}: no such file"
        except DamagedRecordError as error:
            damaged[path] = error.reason
    return runs, damaged


def _check_damaged(
    damaged: Mapping[Path, str],
    wanted: TrainingIdentity,
    log: Callable[[str], None],
    *,
    has_sound: bool,
) -> None:
    """Log the damaged runs; raise if one is this training's own and has no sound twin."""
    own_suffix = f"_{fingerprint_hash(wanted.fingerprint)[:8]}"
    for path, reason in damaged.items():
        fault = (
            f"{path}: expected metadata.json and config.json of a run, got a damaged file "
            f"({reason})"
        )
        is_own = path.name.endswith(own_suffix)
        if is_own and not has_sound:
            raise PipelineError(f"{fault}; restore it, or move the directory away to train anew")
        if is_own or reason != _NO_FINGERPRINT:  # which the run of a notebook has not either
            log(f"{fault}; it is passed over: restore the file, or move the directory away")


def _other_run(runs: list[_Run], wanted: TrainingIdentity, mode: Mode) -> tuple[How, _Run] | None:
    """Return the run whose state may be taken: the longest shorter one, or else an inexact one."""
    shorter = [
        run
        for run in runs
        if run.metadata.get("trajectory") == wanted.trajectory
        and (run.num_epochs or wanted.num_epochs) < wanted.num_epochs
        and _has_state(run.path)
    ]
    if shorter:
        return "extend", max(shorter, key=lambda run: run.num_epochs or 0)
    if mode == "compatible":
        for run in runs:
            same = _exact_part(run.metadata["fingerprint"]) == _exact_part(wanted.fingerprint)
            differs = run.metadata["fingerprint"] != wanted.fingerprint
            unfinished = run.metadata.get("status") != FINISHED
            if same and differs and _has_state(run.path) and unfinished:
                return "adopt", run
    return None


def _exact_part(fingerprint: Fingerprint) -> Fingerprint:
    return {key: value for key, value in fingerprint.items() if key not in INEXACT}


def _closest(runs: list[_Run], wanted: TrainingIdentity) -> str:
    """Return what differs from the newest run of the same cell; nothing if there is none."""
    cell = {key: wanted.config[key] for key in wanted.cell}
    for run in runs:
        if {key: run.config.get(key) for key in wanted.cell} == cell:
            return f"beside {run.path.name}: {differences(run.config, run.metadata, wanted)}"
    return ""


def _entries(fingerprint: Fingerprint, part: str) -> dict[str, Any]:
    entries = fingerprint.get(part, {})
    return flatten(entries) if isinstance(entries, dict) else {part: entries}


def _short(value: Any) -> str:
    text = "none" if value is None else str(value)
    return text[:8] if len(text) == 64 else text
