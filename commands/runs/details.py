"""Details of one run: what made it, and how to restore its results."""

import json
from collections.abc import Mapping
from typing import Any

from commands.runs.wording import document, duration, epochs, metric_text, pairs
from mlops.files.tables import aligned, listed, size
from mlops.lineage import how_to_fetch
from mlops.recorded.git import find_commit
from mlops.recorded.restore import Recorded
from mlops.run.records import VAL, RunRecord


def show_run(record: RunRecord, *, as_json: bool) -> None:
    restore = how_to_restore(record)
    if as_json:
        whole = {"metadata": dict(record.metadata), "restore": restore}
        print(json.dumps(document(record, VAL, None) | whole, indent=2))
        return
    print(f"{record.path}: {record.status}")
    print("\n".join(summary(record)))
    sections = {
        "to restore what it published": "\n".join(f"  {line}" for line in restore),
        "attempts": attempts_table(record),
        "read (md5, as dvc.lock has it)": pairs(record.inputs),
        "published (md5)": pairs(record.published),
        "parameters": pairs(record.parameters),
    }
    for title, content in sections.items():
        print(f"\n{title}\n{content}")


def summary(record: RunRecord) -> list[str]:
    best = None if record.monitor is None else record.best(VAL, record.monitor)
    lines = [f"epochs {epochs(record)}, took {duration(record.duration_sec)}"]
    if best is not None:
        at = record.metadata.get("published_epoch")
        lines.append(
            f"best {VAL} {record.monitor} {metric_text(best)}"
            + (f" in any epoch; published from epoch {at}" if at is not None else "")
        )
    if goes_on := record.metadata.get("goes_on_from"):
        exact = "" if goes_on.get("exact", True) else f", inexactly: {goes_on.get('differs')}"
        place = f"epoch {goes_on['epoch']}, step {goes_on['step']}"
        lines.append(f"goes on from {goes_on['run']}, {place}{exact}")
    return [*lines, f"commit {commit_text(record.environment.get('git'))}", *machine(record)]


def commit_text(git: Mapping[str, Any] | None) -> str:
    """Return the commit of the code that the last attempt ran."""
    if git is None:
        return "not known: there was no git repository, or an earlier version made the run"
    if git["dirty"] is None:
        return f"{git['commit']}; git took too long to tell whether files differed from it"
    if not git["dirty"]:
        return f"{git['commit']}, with no file changed"
    return f"{git['commit']}, with changes in {listed(git['changed'])}"


def machine(record: RunRecord) -> list[str]:
    known = record.environment
    if not known:
        return []
    cpu, gpu = known["cpu"], known["gpu"]
    where = f"{known['host']}, {cpu['cores']} cores of {cpu['model']}"
    where += f", memory {size(known['memory_bytes'])}"
    where += f", GPU {', '.join(gpu['names'])} (driver {gpu['driver']})" if gpu else ", no GPU"
    versions = ", ".join(f"{name} {version}" for name, version in known["libraries"].items())
    lines = [f"machine {where}", f"versions python {known['python']}, {versions}"]
    if job := known["job"]:
        lines.append("job " + ", ".join(f"{name}={value}" for name, value in job.items()))
    return lines


def attempts_table(record: RunRecord) -> str:
    header = ["", "started", "ended", "host", "start", "reason"]
    rows = [
        [
            str(attempt["number"]),
            attempt["started"],
            attempt["ended"] or "",
            attempt["host"],
            attempt.get("start", ""),
            attempt["reason"] or ("at work" if record.status == "running" else "no end noted"),
        ]
        for attempt in record.attempts
    ]
    return aligned(header, rows) if rows else "  none"


def how_to_restore(record: RunRecord) -> list[str]:
    """Return commands, and sentences where there is no command."""
    if not record.published:
        return [f"nothing was published: the run is {record.status}"]
    recorded = Recorded()
    holder = recorded.holder(record.published)
    if holder is None and not recorded.in_workspace(record.published):
        return [
            "no dvc.lock of any commit, branch, tag or experiment names all of it; the model is "
            f"also {record.path / 'artifacts/best_model.pt'}",
            *code_of(record),
        ]
    lines = []
    if holder is not None:
        lines.append(f"git checkout {holder.commit.hash} && dvc checkout")
        if holder.experiment:
            lines.append(f"# or, into the present work tree: dvc exp apply {holder.experiment}")
    else:
        lines.append("dvc checkout  # the workspace's dvc.lock names it, and no commit does yet")
    if not recorded.is_cached(record.published):
        lines.append(f"# DVC's cache lacks some of it: {how_to_fetch()}")
    return lines


def code_of(record: RunRecord) -> list[str]:
    """Return where the code is from which the run could be made again."""
    git = record.environment.get("git")
    if git is None:
        return []
    if find_commit(git["commit"]) is None:
        return [f"its code was that of {git['commit']}, which this repository does not have"]
    changed = "" if git["dirty"] is False else ", but for files that were changed"
    return [f"git checkout {git['commit']} has its code{changed}; dvc repro trains it again"]
