"""What this machine and this clone lack, and what to do about it.

Exits with 1 if something must be done. With --torch it also imports torch and asks it for GPUs, and
with --remote it asks the remotes of DVC whether they answer. With --outs it only looks for files
that `dvc repro` would remove though no stage has made them, as `make repro` does first.
"""

import argparse

from commands.doctor.diagnosis import LEVELS, Finding, findings, outs
from mlops.errors import PipelineError
from mlops.files.tables import aligned
from mlops.processes.progress import counted


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = __doc__
    parser.add_argument("--torch", action="store_true", help="import torch, which takes seconds")
    parser.add_argument("--remote", action="store_true", help="ask DVC's remotes, over the network")
    parser.add_argument("--outs", action="store_true", help="only look for files of yours in outs")


def main(options: argparse.Namespace) -> None:
    if options.outs:
        found = [outs()]
    else:
        found = findings(with_torch=options.torch, ask_remotes=options.remote)
        print_findings(found)
    wrong = [finding for finding in found if finding.level == "wrong"]
    if wrong:
        raise PipelineError(*(f"{one.subject}: {one.said}; {one.advice}" for one in wrong))
    if not options.outs:
        print(f"\n{counted(len(found), 'check')}, nothing that must be done")


def print_findings(found: list[Finding]) -> None:
    rows = [
        [LEVELS[one.level], one.subject, f"{one.said}{one.advice and f'; {one.advice}'}"]
        for one in found
    ]
    print(aligned(["", "what", "found"], rows))
