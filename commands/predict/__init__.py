"""Predictions of trained models for videos of your own; needs nothing but the models' files."""

from pathlib import Path
from typing import Any

import click

from commands.predict.request import Request


@click.command(help=__doc__)
@click.argument("paths", nargs=-1, required=True, metavar="MODEL… VIDEO_OR_FOLDER…")
@click.option(
    "--top", type=click.IntRange(min=1), metavar="K", help="Name the K likeliest classes."
)
@click.option("--every", type=float, metavar="SECONDS", help="Predict a window each so often.")
@click.option("--out", type=Path, metavar="FILE", help="Table: .csv, .json, .jsonl or .parquet.")
@click.option("--html", type=Path, metavar="FILE", help="Page with pictures and probabilities.")
@click.option(
    "--known",
    metavar="FILE",
    help="Videos of the training, to warn of copies and of others; or none.  [data/videos.parquet]",
)
@click.option("--device", default="auto", help="auto, cpu or cuda.  [auto]")
@click.option("--workers", default=2, metavar="N", help="Processes that decode.  [2]")
@click.option(
    "--threads", type=int, metavar="N", help="CPU threads of the models.  [1 if small, else 2]"
)
@click.option("--time-limit", default=300.0, metavar="SECONDS", help="Of one video.  [300]")
@click.option("--memory-limit", default=2000, metavar="MB", help="Of one video.  [2000]")
@click.option("--max-duration", default=600.0, metavar="SECONDS", help="Of a video.  [600]")
def command(**arguments: Any) -> None:
    """Predict; the files that end in .pt are the models, whose probabilities are averaged."""
    request = Request(**arguments)
    # Not above: the processes that decode import this package as well, and need no torch.
    from commands.predict.answer import answer

    answer(request)
