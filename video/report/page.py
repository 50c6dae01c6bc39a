"""The report of an experiment: rendering of plain data as one HTML file.

The page is self-contained, with style, drawings and images inline, and runs no script. The same
data gives the same bytes. A number that is missing or not finite is shown as such, also in a mean
over folds, which it would otherwise be hidden in.
"""

import base64
import math
import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
import numpy as np
import polars as pl
from markupsafe import Markup

from video.report import figures
from video.report.page_content import Example, ReportPage
from video.scoring.outcomes import Outcome

FOLDER = Path(__file__).parent
STYLE = FOLDER / "style.css"  # of all pages
NUM_QUARANTINED_SHOWN = 50


def render_page(page: ReportPage) -> str:
    environment = page_environment()
    environment.filters.update(over_folds=over_folds, total=_total)
    environment.globals.update(
        confusion=_confusion, num_videos=_num_videos, of_class=_of_class, of_split=_of_split,
        sheet=figures.contact_sheet, strip=figures.strip_image,
    )  # fmt: skip
    return environment.get_template("page.html.j2").render(
        page=page,
        models=_by_model(page.cells),
        several_folds=len({cell.fold for cell in page.cells}) > 1,
        several_seeds=len({cell.seed for cell in page.cells}) > 1,
        panels=_panels(page),
        epoch_rows=[_epoch_row(cell, page.monitor) for cell in page.cells],
        examples=_examples_by_label(page),
        count_labels=_count_labels(page),
        num_quarantined_shown=NUM_QUARANTINED_SHOWN,
    )


def page_environment() -> jinja2.Environment:
    """Return what all pages have: their templates and style, and how numbers and pictures look."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=number, percent=_percent)
    environment.globals.update(picture=_picture)
    return environment


def number(value: float | None) -> Markup:
    """Format a measured value for reading, with all its digits in the markup.

    >>> number(0.81249)
    Markup('<data value="0.81249">0.812</data>')
    >>> number(float("nan"))
    Markup('<span class="broken">not a number</span>')
    """
    if value is None:
        return Markup('<span class="missing" title="missing">–</span>')
    if not math.isfinite(value):
        words = "not a number" if math.isnan(value) else "infinite"
        return Markup('<span class="broken">{}</span>').format(words)
    if isinstance(value, int | np.integer):
        return Markup('<data value="{}">{:,}</data>').format(int(value), int(value))
    return Markup('<data value="{!r}">{:.3f}</data>').format(float(value), float(value))


def over_folds(values: Mapping[int, float | None]) -> Markup:
    """Format mean and sample standard deviation of values by fold; of a single fold, its value.

    The value of a fold is already its mean over seeds, by `_over_seeds`. Folds whose value is
    missing or not finite are named, and there is no mean of the others.
    """
    if len(values) <= 1:
        return number(next(iter(values.values()), None))
    finite = {k: v for k, v in values.items() if v is not None and math.isfinite(v)}
    if len(finite) == len(values):
        mean, std = statistics.fmean(finite.values()), statistics.stdev(finite.values())
        return Markup('{} <span class="std">± {}</span>').format(number(mean), number(std))
    bad = [fold for fold in values if fold not in finite]
    # A broken value is more informative than a missing one.
    shown = next((values[fold] for fold in bad if values[fold] is not None), None)
    return Markup('{} <span class="std">{}</span>').format(number(shown), _folds(bad))


def _by_fold(
    cells: Sequence[Outcome], value: Callable[[Outcome], float | None]
) -> dict[int, float | None]:
    """Return the mean over seeds of each fold."""
    seeds: dict[int, list[float | None]] = {}
    for cell in cells:
        seeds.setdefault(cell.fold, []).append(value(cell))
    return {fold: _over_seeds(values) for fold, values in seeds.items()}


def _over_seeds(values: Sequence[float | None]) -> float | None:
    """Return the mean, or the first value that is missing or not finite: a mean would hide it."""
    known = [value for value in values if value is not None]
    broken = [value for value in known if not math.isfinite(value)]
    if broken or len(known) < len(values):
        return broken[0] if broken else None
    # A count that is equal for all seeds stays an integer.
    return known[0] if len(set(known)) == 1 else statistics.fmean(known)


def _total(values: Mapping[int, int | None]) -> int | None:
    known = [value for value in values.values() if value is not None]
    return sum(known) if known and len(known) == len(values) else None


def _folds(folds: Sequence[int]) -> str:
    return ("fold " if len(folds) == 1 else "folds ") + ", ".join(map(str, folds))


def _percent(share: float) -> str:
    """Format a position on a scale from 0 to 1 as a CSS length."""
    return f"{100 * min(max(share, 0.0), 1.0):.2f}%"


def _by_model(cells: Sequence[Outcome]) -> dict[str, list[Outcome]]:
    count = Counter((cell.model, cell.fold, cell.seed) for cell in cells)
    if twice := [key for key, num in count.items() if num > 1]:
        raise ValueError(f"cells: expected each model, fold and seed once, got more of {twice}")
    models: dict[str, list[Outcome]] = {}
    for cell in cells:
        models.setdefault(cell.model, []).append(cell)
    return models


def _of_split(cells: Sequence[Outcome], split: str, metric: str) -> dict[int, float | None]:
    return _by_fold(cells, lambda cell: cell.evaluation.get(split, {}).get(metric))


def _num_videos(cells: Sequence[Outcome], split: str) -> str:
    """Format one number if all folds agree, else min and max."""
    found = _of_split(cells, split, "num_videos").values()
    known = [num for num in found if num is not None]
    if not known or len(known) < len(found):
        return "–"
    return "–".join(f"{num:,.0f}" for num in sorted({min(known), max(known)}))


@dataclass(frozen=True, kw_only=True)
class _Panel:
    """The drawings of one model, on the same scales as those of the others."""

    model: str
    loss: Markup
    monitor: Markup


def _panels(page: ReportPage) -> list[_Panel]:
    models = _by_model(page.cells)
    losses = {m: _curves(of, "train_loss", "val_loss") for m, of in models.items()}
    monitors = {m: _curves(of, page.monitor) for m, of in models.items()}
    return [
        _Panel(
            model=model,
            loss=_drawn(losses, model, "train and val loss"),
            monitor=_drawn(monitors, model, page.monitor),
        )
        for model in models
    ]


def _drawn(curves: Mapping[str, list[figures.Curve]], model: str, quantity: str) -> Markup:
    limits = figures.shared_limits([curve for of in curves.values() for curve in of])
    about = f"{model}: {quantity} by epoch, one line per fold and seed"
    return Markup(figures.curves_svg(curves[model], y_limits=limits, description=about))


def _curves(cells: Sequence[Outcome], *columns: str) -> list[figures.Curve]:
    several_folds = len({cell.fold for cell in cells}) > 1
    return [
        figures.Curve(
            part="train" if column.startswith("train") else "val",
            epochs=cell.history["epoch"].to_list(),
            values=_column(cell.history, column),
            marked_epoch=None if column == "train_loss" else cell.evaluation.get("epoch"),
            # There is room for one number: the fold if there are several, else the seed.
            tag=str(cell.fold if several_folds else cell.seed) if len(cells) > 1 else "",
        )
        for cell in cells
        for column in columns
        if column in cell.history.columns
    ]


def _column(history: pl.DataFrame, name: str) -> list[float]:
    return history[name].cast(pl.Float64).fill_null(math.nan).to_list()


@dataclass(frozen=True, kw_only=True)
class _EpochRow:
    """The numbers of a run at the epoch whose weights were published."""

    cell: Outcome
    train_loss: float | None
    val_loss: float | None
    monitor: float | None

    @property
    def gap(self) -> float | None:
        if self.train_loss is None or self.val_loss is None:
            return None
        return self.val_loss - self.train_loss


def _epoch_row(cell: Outcome, monitor: str) -> _EpochRow:
    at = cell.history.filter(pl.col("epoch") == cell.evaluation.get("epoch", -1))

    def value(column: str) -> float | None:
        return _column(at, column)[0] if column in at.columns and len(at) == 1 else None

    return _EpochRow(
        cell=cell,
        train_loss=value("train_loss"),
        val_loss=value("val_loss"),
        monitor=value(monitor),
    )


def _confusion(
    model: str, cells: Sequence[Outcome], split: str, labels: Sequence[str]
) -> tuple[Markup | None, str]:
    """Return the matrix summed over folds and seeds (None if none has one), and a note on it."""
    of = [(cell, cell.evaluation.get(split, {}).get("confusion")) for cell in cells]
    known = [(cell, rows) for cell, rows in of if rows is not None]
    absent = list(dict.fromkeys(cell.fold for cell, rows in of if rows is None))
    folds = list(dict.fromkeys(cell.fold for cell, _ in known))
    note = f"sum over {len(folds)} folds" if len(folds) > 1 else _folds(folds)
    if len(known) > len(folds):
        note += f", {len({cell.seed for cell, _ in known})} seeds"
    note += f"; missing: {_folds(absent)}" if absent else ""
    if not known:
        return None, note
    total = sum(np.asarray(rows, dtype=np.int64) for _, rows in known)
    about = f"Confusion matrix of {model} on {split}, {note}; precision and recall stand below"
    svg = figures.confusion_svg(np.asarray(total).tolist(), labels, description=about)
    return Markup(svg), note


def _of_class(
    cells: Sequence[Outcome], split: str, label: str, metric: str
) -> dict[int, float | None]:
    def value(cell: Outcome) -> float | None:
        per_class = cell.evaluation.get(split, {}).get("per_class", {})
        found: float | None = per_class.get(label, {}).get(metric)
        return found

    return _by_fold(cells, value)


def _picture(image: figures.Image, alt: str) -> Markup:
    return embedded(figures.jpeg_bytes(image), image.shape[:2], alt)


def embedded(jpeg: bytes, size: tuple[int, ...], alt: str) -> Markup:
    """Return the element of a picture, with its bytes inside; `size` is height and width in px."""
    data = base64.b64encode(jpeg).decode("ascii")
    height, width = size
    tag = '<img src="data:image/jpeg;base64,{}" alt="{}" width="{}" height="{}">'
    return Markup(tag).format(data, alt, width, height)


def _examples_by_label(page: ReportPage) -> dict[str, dict[str, list[Example]]]:
    """Group the examples by true label into right and wrong; labels not in `labels` come last."""
    names = dict.fromkeys([*page.labels, *(example.true_label for example in page.examples)])
    return {
        name: {
            "right": [e for e in page.examples if e.true_label == name == e.predicted_label],
            "wrong": [e for e in page.examples if e.true_label == name != e.predicted_label],
        }
        for name in names
    }


def _count_labels(page: ReportPage) -> list[str]:
    return list(dict.fromkeys([*page.labels, *(k for of in page.counts for k in of.per_class)]))
