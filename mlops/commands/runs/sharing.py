"""A run as a file for another clone, and such a file taken up."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from mlops.applying import (
    Record,
    Setting,
    apply_setting,
    missing_data,
    other_code,
    other_versions,
    place_run,
    read_record,
    setting_for,
)
from mlops.bundle import LOCK, PARAMS, Manifest, unpacked
from mlops.commands.runs.wording import DIGITS, listed, text
from mlops.errors import PipelineError
from mlops.exporting import Export, State, export_run
from mlops.history import find_commit
from mlops.lock_entries import File
from mlops.places import runs_root
from mlops.progress import counted
from mlops.remotes import remotes, without_secrets
from mlops.run_records import read_record as read_run
from mlops.runs import find_run
from mlops.tables import aligned, size

MOST_CHANGES = 20


def export_one(options: argparse.Namespace) -> None:
    run = read_run(find_run(runs_root(), options.run))
    path = options.output or Path(f"{run.id}.zip")
    print_export(export_run(run, path, with_checkpoint=options.with_checkpoint))


def print_export(export: Export) -> None:
    manifest = export.manifest
    where = f"commit {export.state.commit}" if export.state.commit else "the workspace"
    print(f"wrote {export.path}, {size(export.path.stat().st_size)}")
    print(f"parameters and dvc.lock of {where}")
    print(f"code of commit {manifest.commit}" if manifest.commit else "code that no commit has")
    print(f"for a colleague: git push, {how_to_push(export.state)}, and this file")


def how_to_push(state: State) -> str:
    if state.experiment:
        return f"dvc exp push origin {state.experiment}"
    is_here = state.commit in (None, find_commit("HEAD"))
    return "dvc push" if is_here else "dvc push --all-commits"


def apply_one(options: argparse.Namespace) -> None:
    root = runs_root()
    with unpacked(options.bundle, root) as (directory, manifest):
        record = read_record(directory, manifest)
        run_dir, new = place_run(directory, manifest, root)
    print(f"{run_dir}: {placed(record, new)}")
    if options.record_only:
        return
    if different := other_code(record):
        raise PipelineError(
            f"code: expected that of the run, got another {listed(different)}; "
            + how_to_get(manifest)
        )
    print("code: the same")
    versions = other_versions(record)
    print(f"versions: {', '.join(versions) or 'the same'}")
    setting = setting_for(record)
    apply_setting(setting)
    print_setting(setting)
    missing = missing_data(record)
    print_data(record, missing)
    target = f" {manifest.stage}" if manifest.stage else ""
    print("next")
    if missing and remotes():
        print(f"  dvc pull --with-deps{target}" if target else "  dvc pull")
    print(f"  dvc repro{target}")


def placed(record: Record, new: Sequence[str]) -> str:
    if not new:
        return "is there already"
    kind = "with a checkpoint" if record.has_state else "the record, without a checkpoint"
    return f"{counted(len(new), 'file')}, {kind}"


def how_to_get(manifest: Manifest) -> str:
    """What brings the run's code."""
    if manifest.commit is None:
        return "no commit has it, for files were changed; ask for them, or apply --record-only"
    fetch = "" if find_commit(manifest.commit) else "git fetch, for it is not here yet, and "
    return f"{fetch}git checkout {manifest.commit}, and apply again"


def print_setting(setting: Setting) -> None:
    if setting.changes:
        shown = setting.changes[:MOST_CHANGES]
        rows = [[change.key, text(change.before), text(change.after)] for change in shown]
        print(aligned([PARAMS, "was", "is"], rows))
        if more := len(setting.changes) - len(shown):
            print(f"and {more} more: git diff {PARAMS}")
    else:
        print(f"{PARAMS}: the same values")
    if setting.only_there:
        print(f"{PARAMS} here has no {listed(setting.only_there)}, which the run had")
    if setting.stages:
        print(f"{LOCK}: the run's record of {listed(setting.stages)}")
    else:
        print(f"{LOCK}: the same")


def print_data(record: Record, missing: Sequence[File]) -> None:
    if not missing:
        print("data: all of it in DVC's cache")
        return
    rows = [[file.path, file.md5[:DIGITS], size(file.size_bytes)] for file in missing]
    print(aligned(["data that DVC's cache lacks", "md5", "size"], rows, numbers={"size"}))
    here, there = remotes(), record.manifest.remotes
    if here:
        places = [f"{name} {without_secrets(url)}" for name, url in here.items()]
        print(f"dvc pull brings what is in {listed(places)}")
    elif there:
        urls = listed([f"{name} {url}" for name, url in there.items()])
        print(f"no remote is set here; the run's clone had {urls}: dvc remote add, then dvc pull")
    else:
        print("no remote is set, neither here nor where the run was made: dvc repro makes it anew")
