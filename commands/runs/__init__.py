"""The runs below runs/: a table, one in full, several side by side, and their removal.

python -m commands runs                       every run, newest last
python -m commands runs show RUN              what made it, and what brings its results back
python -m commands runs compare A B …         metrics, curves, parameters and data side by side
python -m commands runs gc                    what could be removed; with --yes it is
"""

import argparse
from pathlib import Path

from commands.runs.collection import collect
from commands.runs.comparison import compare_runs
from commands.runs.details import show_run
from commands.runs.table import list_runs
from mlops.files.places import runs_root
from mlops.run.directory import find_run
from mlops.run.records import VAL, read_record


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = __doc__
    as_json = "print all of it as JSON"
    parser.add_argument("--experiment", metavar="NAME", help="of this one alone")
    parser.add_argument("--metric", metavar="NAME", help="best value of this (train.monitor)")
    parser.add_argument("--phase", default=VAL, help="of the metric (val)")
    parser.add_argument("--json", action="store_true", help=as_json)
    questions = parser.add_subparsers(dest="question", metavar="{show,compare,gc}")

    name = "a run's id, or its directory below runs/"
    show = questions.add_parser("show", help="what made a run, and what brings its results back")
    show.add_argument("run", metavar="RUN", help=name)
    show.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help=as_json)

    compare = questions.add_parser("compare", help="several runs side by side")
    compare.add_argument("runs", metavar="RUN", nargs="+", help=name)
    compare.add_argument("--csv", type=Path, metavar="FILE", help="write all logged values there")
    compare.add_argument("--html", type=Path, metavar="FILE", help="write it with charts there")

    gc = questions.add_parser("gc", help="remove runs that are of no more use")
    gc.add_argument("--keep", type=int, default=3, metavar="N", help="of an experiment, newest (3)")
    gc.add_argument(
        "--older-than",
        type=float,
        metavar="DAYS",
        help="also dead, failed and interrupted runs that were last at work longer ago",
    )
    gc.add_argument("--yes", action="store_true", help="remove them; without it they are listed")


def main(options: argparse.Namespace) -> None:
    if options.question == "show":
        show_run(read_record(find_run(runs_root(), options.run)), as_json=options.json)
    elif options.question == "compare":
        compare_runs(options)
    elif options.question == "gc":
        collect(options)
    else:
        list_runs(options)
