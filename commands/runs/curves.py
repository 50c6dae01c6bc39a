"""The curves of several runs: as signs of a terminal, as CSV, as a page of HTML."""

import html
import io
import math
import re
from collections.abc import Mapping, Sequence

import polars as pl

from mlops.metrics.log import read_runs
from mlops.run.records import RunRecord

SIGNS = "▁▂▃▄▅▆▇█"
NOT_FINITE = "×"
WIDTH = 40  # signs at most

Curve = tuple[list[int], list[float]]  # epochs, and a value each; NaN and infinities as logged


def epoch_curves(records: Sequence[RunRecord]) -> dict[str, dict[str, Curve]]:
    """By "phase metric", then by the run's directory: the last value of each epoch.

    What is logged within an epoch, as the loss of single steps, is left out.
    """
    curves: dict[str, dict[str, Curve]] = {}
    for record in records:
        rows = read_runs([record.path]).filter(pl.col("phase") != "step")
        last = rows.group_by("phase", "metric", "epoch", maintain_order=True).last()
        for (phase, metric), of in last.group_by("phase", "metric", maintain_order=True):
            of = of.sort("epoch")
            curve = of["epoch"].to_list(), of["value"].to_list()
            curves.setdefault(f"{phase} {metric}", {})[str(record.path)] = curve
    return curves


def limits(values: Sequence[float]) -> tuple[float, float]:
    """The least and the greatest finite value; 0 and 0 if there is none."""
    finite = [value for value in values if math.isfinite(value)]
    return min(finite, default=0.0), max(finite, default=0.0)


def sparkline(values: Sequence[float], low: float, high: float) -> str:
    """A sign a value, or the last of each of `WIDTH` parts of a longer curve.

    >>> sparkline([0.0, 0.5, 1.0, math.nan], 0.0, 1.0)
    '▁▅█×'
    """
    if len(values) > WIDTH:
        ends = [len(values) * (part + 1) // WIDTH - 1 for part in range(WIDTH)]
        values = [values[end] for end in ends]
    return "".join(_sign(value, low, high) for value in values)


def _sign(value: float, low: float, high: float) -> str:
    if not math.isfinite(value):
        return NOT_FINITE
    share = (value - low) / (high - low) if high > low else 0.0
    return SIGNS[min(int(share * len(SIGNS)), len(SIGNS) - 1)]


def curves_csv(records: Sequence[RunRecord]) -> str:
    """All rows of the logs: run_id, experiment, step, epoch, phase, metric, value, time."""
    return read_runs([record.path for record in records]).write_csv()


PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Comparison of runs</title>
<style>
body {{ font: 16px/1.4 sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem }}
pre {{ overflow-x: auto; font-size: 13px }}
figure {{ display: inline-block; margin: 0 1rem 1rem 0; max-width: 100% }}
svg {{ max-width: 100%; height: auto }}
</style>
<h1>Comparison of runs</h1>
<pre>{text}</pre>
{figures}
</html>
"""


def curves_page(
    curves: Mapping[str, Mapping[str, Curve]], names: Mapping[str, str], text: str
) -> str:
    """`text`, and below it a chart a metric; `names` are those of the runs in the legends.

    The page needs nothing beside it.
    """
    figures = [
        f"<figure><figcaption>{html.escape(title)}</figcaption>\n{_svg(title, of, names)}</figure>"
        for title, of in curves.items()
    ]
    return PAGE.format(text=html.escape(text), figures="\n".join(figures))


def _svg(title: str, curves: Mapping[str, Curve], names: Mapping[str, str]) -> str:
    # Imported here: it takes most of a second, and few comparisons ask for a page.
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    # rcdefaults: a user's own matplotlibrc must not change the page.
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": title})
        figure = Figure(figsize=(5.4, 2.9), layout="constrained")
        axes = figure.add_subplot()
        for run, (epochs, values) in curves.items():
            axes.plot(epochs, values, label=names[run], marker=".")
        axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
        axes.set_xlabel("epoch")
        axes.legend()
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    svg = text.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    # The names of groups repeat from drawing to drawing; those pointed at are hashes of more.
    used = set(re.findall(r"(?:href=\"#|url\(#)([^\")]+)", svg))
    return re.sub(r' id="([^"]*)"', lambda found: found[0] if found[1] in used else "", svg)
