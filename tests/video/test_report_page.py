"""The report: self-contained, reproducible, safe, and never kinder than its numbers."""

import base64
import math
import re
import shutil
import subprocess
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import polars as pl
import pytest

from video.report import figures
from video.report.page import STYLE, number, over_folds, render_page
from video.report.page_content import (
    AugmentedClip,
    Baseline,
    ClassCount,
    Example,
    Headline,
    Quarantined,
    ReportPage,
    SplitCount,
)
from video.scoring.comparison import Difference
from video.scoring.estimates import Estimate
from video.scoring.outcomes import Outcome
from video.scoring.summary import Comparison
from video.scoring.verdict import Verdict

LABELS = ("fight", "no fight")
HOSTILE = "<script>alert('x')</script>\"><img src=https://evil.example/x.png onerror=alert(1)>&$x^$"
VOID = {"meta", "img", "br", "hr", "link", "input"}


def frames_of(num: int = 4, height: int = 32, width: int = 48, seed: int = 0) -> np.ndarray:
    flat = np.random.default_rng(seed).integers(0, 256, (num, 1, 1, 3), dtype=np.uint8)
    return np.broadcast_to(flat, (num, height, width, 3)).copy()


def scores(balanced_accuracy: float | None = 0.8125, **changes: object) -> dict[str, Any]:
    metrics = {
        "accuracy": 0.8001,
        "balanced_accuracy": balanced_accuracy,
        "f1_macro": 0.7937,
        "loss": 0.41,
        "num_videos": 60,
        "per_class": {
            "fight": {"precision": 0.751, "recall": 0.752, "f1": 0.753, "support": 31},
            "no fight": {"precision": 0.861, "recall": 0.862, "f1": 0.863, "support": 29},
        },
        "confusion": [[23, 8], [4, 25]],
    }
    return metrics | changes


def history(num_epochs: int = 5) -> pl.DataFrame:
    epochs = np.arange(1, num_epochs + 1)
    return pl.DataFrame(
        {
            "epoch": epochs,
            "train_loss": 1.0 / epochs,
            "val_loss": 0.5 + 0.5 / epochs,
            "val_balanced_accuracy": 1 - 0.4 / epochs,
        }
    )


def cell(
    model: str = "tiny3d", fold: int = 0, seed: int = 0, **split_scores: dict[str, Any]
) -> Outcome:
    return Outcome(
        model=model,
        fold=fold,
        seed=seed,
        name=f"{model} fold {fold} seed {seed}",
        num_train_videos=240,
        evaluation={"epoch": 3, "num_candidates": 8, "val": scores(), "test": scores()}
        | split_scores,
        history=history(),
        predictions=pl.DataFrame(),
    )


def baselines(value: float | None = 0.5) -> tuple[Baseline, ...]:
    of = {"test": scores(value), "val": scores(value)}
    return (Baseline(name="majority class", description="the most frequent class", scores=of),)


def headline(value: float | None = 0.8125, low: float = 0.7) -> Headline:
    return Headline(
        model="tiny3d",
        value=value,
        interval=(low, 0.9),
        basis="60 videos in 7 groups",
        method="fold 0; 95 % interval over groups",
        verdict=Verdict(tone="good", text="More than luck: 0.3 above the baseline."),
        remarks=("Fold 0 alone proves little.",),
    )


def quarantined(**changes: object) -> Quarantined:
    one = Quarantined(
        row=1, path="v.mp4", verdict="no_video", reason="no video stream", frames=None
    )
    return replace(one, **changes)


def page_of(*cells: Outcome, **changes: object) -> ReportPage:
    clip = frames_of(seed=1)
    page = ReportPage(
        experiment="sample",
        description="A small experiment.",
        warnings=(),
        labels=LABELS,
        headline=headline(),
        baselines=baselines(),
        cells=cells or (cell(),),
        estimates={},
        seed_stds={},
        comparisons=(),
        monitor="val_balanced_accuracy",
        val_words="that of the last epoch",
        examples=(
            Example(
                frames=frames_of(),
                video="fight/a.mp4",
                true_label="fight",
                predicted_label="no fight",
                probability=0.987,
            ),
        ),
        examples_note="Videos of test, predictions of tiny3d.",
        counts=(
            SplitCount(
                split="train",
                num_videos=1234,
                num_groups=31,
                num_augmented_clips=3702,
                per_class={"fight": ClassCount(num_videos=1000, num_groups=30)},
            ),
        ),
        augmented=(AugmentedClip(video="a.mp4", label="fight", clip=clip, copies=(clip, clip)),),
        quarantine=(),
        facts={"seed": "7"},
        parameters={"train.learning_rate": 0.001},
        command="dvc repro",
    )
    return replace(page, **changes)


class Reader(HTMLParser):
    """Elements, attributes and text; refuses tags that are not closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def all(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.elements if tag == name]


def images_in(html: str) -> list[np.ndarray]:
    found = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', html)
    data = [np.frombuffer(base64.b64decode(text), np.uint8) for text in found]
    return [cv2.imdecode(image, cv2.IMREAD_COLOR) for image in data]


def test_the_page_asks_for_nothing_outside_itself() -> None:
    html = render_page(page_of())
    assert not re.search(r"https?://|@import|<link|<script|<iframe", html)
    targets = [
        value for _, a in Reader(html).elements for k, value in a.items() if k in {"src", "href"}
    ]
    targets += re.findall(r"url\(([^)]*)\)", html)
    assert targets
    assert all(target and target.startswith(("#", "data:image/jpeg;base64,")) for target in targets)


def test_every_target_inside_the_page_exists_and_no_id_stands_twice() -> None:
    html = render_page(page_of(cell("a"), cell("b"), cell("a", 1), cell("b", 1)))
    ids = Counter(a["id"] for _, a in Reader(html).elements if "id" in a)
    assert max(ids.values()) == 1
    assert set(re.findall(r'href="#([^"]+)|url\(#([^)]+)\)', html)) <= {
        pair for name in ids for pair in ((name, ""), ("", name))
    }


def test_the_same_inputs_give_the_same_bytes() -> None:
    assert render_page(page_of()) == render_page(page_of())


def test_settings_of_matplotlib_neither_reach_the_page_nor_are_changed_by_it() -> None:
    matplotlib = pytest.importorskip("matplotlib")
    plain = render_page(page_of())
    with matplotlib.rc_context({"lines.linewidth": 9, "font.size": 30}):
        assert render_page(page_of()) == plain
        assert matplotlib.rcParams["font.size"] == 30


def test_hostile_text_is_escaped_wherever_it_stands() -> None:
    base = page_of()
    hostile_scores = scores(per_class={HOSTILE: {}}, confusion=[[3]])
    html = render_page(
        replace(
            base,
            experiment=HOSTILE,
            description=HOSTILE,
            warnings=(HOSTILE,),
            labels=(HOSTILE,),
            headline=replace(base.headline, model=HOSTILE, method=HOSTILE),
            baselines=(Baseline(name=HOSTILE, description=HOSTILE, scores={}),),
            cells=(cell(HOSTILE, val=hostile_scores, test=hostile_scores),),
            monitor=HOSTILE,
            examples=(replace(base.examples[0], video=HOSTILE, true_label=HOSTILE),),
            examples_note=HOSTILE,
            counts=(replace(base.counts[0], split=HOSTILE),),
            augmented=(replace(base.augmented[0], video=HOSTILE, label=HOSTILE),),
            quarantine=(quarantined(path=HOSTILE, verdict=HOSTILE, reason=HOSTILE),),
            facts={HOSTILE: HOSTILE},
            parameters={HOSTILE: HOSTILE},
            command=HOSTILE,
        )
    )
    reader = Reader(html)
    assert reader.all("script") == []
    assert all((image["src"] or "").startswith("data:") for image in reader.all("img"))
    assert not [name for _, a in reader.elements for name in a if name.startswith("on")]
    assert reader.words.count(HOSTILE) >= 15


def test_every_score_appears_as_given() -> None:
    val = scores(0.61234567, accuracy=0.62345678, f1_macro=0.63456789, num_videos=1201)
    test = scores(0.71234567, accuracy=0.72345678, f1_macro=0.73456789, num_videos=77)
    reader = Reader(render_page(page_of(cell(val=val, test=test))))
    exact = {data["value"] for data in reader.all("data")}
    for value in (0.61234567, 0.62345678, 0.63456789, 0.71234567, 0.72345678, 0.73456789):
        assert str(value) in exact
        assert f"{value:.3f}" in reader.text
    assert {"0.751", "0.752", "0.753", "31", "0.861", "0.862", "0.863", "29"} <= exact
    assert "1,201" in reader.text


def test_the_headline_names_score_interval_size_and_every_baseline() -> None:
    text = Reader(render_page(page_of())).text
    text = text[: text.index("All models")]
    for words in ("sample", "0.812", "0.700 to 0.900", "60 videos in 7 groups", "0.500"):
        assert words in text
    assert "majority class" in text


def test_several_folds_show_mean_and_standard_deviation() -> None:
    cells = [cell(fold=k, test=scores(value)) for k, value in enumerate((0.6, 0.7, 0.9))]
    text = Reader(render_page(page_of(*cells))).text
    assert "0.733 ± 0.153" in text


def test_a_single_fold_shows_no_deviation() -> None:
    assert "±" not in Reader(render_page(page_of())).text


def test_every_score_stands_above_its_interval_and_its_groups() -> None:
    found = {
        metric: Estimate(value=0.8, interval=(0.1 * k, 0.95), num_videos=60, num_groups=7)
        for k, metric in enumerate(("accuracy", "balanced_accuracy", "f1_macro"), start=4)
    }
    names = ("tiny3d", "majority class")
    estimates = {name: {"val": found, "test": found} for name in names}
    text = Reader(render_page(page_of(estimates=estimates))).text
    assert text.count("60 7 groups") == 2
    assert text.count("0.812 0.500 to 0.950") == 2
    assert text.count("0.500 0.500 to 0.950") == 2
    assert text.count("0.400 to 0.950") == text.count("0.600 to 0.950") == 4


def test_the_verdict_and_what_it_does_not_hold_stand_below_the_score() -> None:
    html = render_page(page_of())
    assert '<p class="verdict good">More than luck: 0.3 above the baseline.</p>' in html
    assert '<p class="verdict unsure">Fold 0 alone proves little.</p>' in html


def test_several_seeds_are_averaged_and_their_deviation_is_shown() -> None:
    values = {(0, 0): 0.5, (0, 1): 0.7, (1, 0): 0.7, (1, 1): 0.9}
    cells = [cell(fold=k, seed=s, test=scores(value)) for (k, s), value in values.items()]
    html = render_page(page_of(*cells, seed_stds={"tiny3d": {"val": 0.012, "test": 0.131}}))
    text = Reader(html).text
    # Of the folds' means, 0.6 and 0.8; all four values have one of 0.163.
    assert "0.700 ± 0.141" in text
    assert "val deviation test deviation tiny3d 0.012 0.131" in text
    assert "sum over 2 folds, 2 seeds" in text
    assert "true fight, predicted no fight: 32 of 124" in html
    # The videos of a fold are not twice as many for its two seeds.
    assert "videos are the sum over folds, each seed’s being the same" in text
    assert html.count('<data value="62">62</data>') == 2
    every = html[html.index("Every fold and seed") : html.index('id="learn"')]
    assert every.count('<th scope="row">') == 4


@pytest.mark.parametrize(("value", "words"), [(None, "–"), (math.nan, "not a number")])
def test_a_bad_seed_is_not_hidden_in_the_mean_of_its_fold(value: float | None, words: str) -> None:
    cells = [cell(seed=0), cell(seed=1, test=scores(value)), cell(fold=1), cell(fold=1, seed=1)]
    assert f"{words} fold 0" in Reader(render_page(page_of(*cells))).text


def test_models_are_compared_on_the_page() -> None:
    val = Difference(mean=0.021, std=0.01, interval=(-0.004, 0.046), t=2.031, p=0.112)
    bare = Difference(mean=0.1, std=0.0, interval=None, t=None, p=None)
    pairs = [
        Comparison(first="a", second="b", val=val, test=0.032),
        Comparison(first="a", second="c", val=bare, test=0.041),
    ]
    text = Reader(render_page(page_of(comparisons=pairs))).text
    assert "a − b 0.021 -0.004 to 0.046 2.031 0.112 0.032" in text
    assert "a − c 0.100 – – – 0.041" in text


def test_confusion_is_summed_over_folds() -> None:
    html = render_page(page_of(cell(fold=0), cell(fold=1)))
    assert "true fight, predicted no fight: 16 of 62 (25.8 %)" in html
    assert "sum over 2 folds" in html


@pytest.mark.parametrize(
    ("value", "words"), [(None, "–"), (math.nan, "not a number"), (math.inf, "infinite")]
)
def test_a_bad_value_is_never_shown_as_a_number(value: float | None, words: str) -> None:
    assert words in number(value)
    assert "<data" not in number(value)
    assert words in over_folds({0: 0.9, 1: value, 2: 0.95})
    assert "fold 1" in over_folds({0: 0.9, 1: value, 2: 0.95})
    assert "<data" not in over_folds({0: 0.9, 1: value, 2: 0.95})


@pytest.mark.parametrize("value", [None, math.nan, math.inf])
def test_a_bad_headline_gets_no_bar(value: float | None) -> None:
    html = render_page(page_of(headline=replace(headline(value), interval=(math.nan, math.inf))))
    assert html.count('<i style="width:') == 1  # the baseline's
    assert "left:" not in html[html.index("<main>") :]


def test_a_split_without_scores_renders_as_missing() -> None:
    bare = replace(cell(), evaluation={"val": {"accuracy": math.nan}})
    text = Reader(render_page(page_of(bare))).text
    assert "not a number" in text
    assert "No confusion matrix given." in text


def test_a_history_of_nan_or_without_a_column_says_so() -> None:
    broken = (
        history()
        .with_columns(val_balanced_accuracy=pl.lit(math.nan))
        .drop("val_loss", "train_loss")
    )
    html = render_page(page_of(replace(cell(), history=broken)))
    assert html.count("no finite value") == 2


def test_warnings_stand_before_the_scores() -> None:
    html = render_page(page_of(warnings=("two models have identical predictions",)))
    assert 0 < html.index("two models have identical predictions") < html.index('id="good"')


def test_a_grid_of_two_models_and_five_folds_renders_every_cell() -> None:
    html = render_page(page_of(*(cell(m, k) for m in ("a", "b") for k in range(5))))
    assert html.count('<svg class="curves"') == 4
    assert html.count('<svg class="confusion"') == 4
    every_fold = html[html.index("Every fold") : html.index('id="learn"')]
    assert every_fold.count('<th scope="row">') == 10


def test_a_cell_given_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="expected each model, fold and seed once"):
        render_page(page_of(cell(), cell()))


def test_nothing_at_all_still_renders() -> None:
    empty = page_of(examples=(), counts=(), augmented=(), baselines=(), facts={}, parameters={})
    assert "No augmented clips." in render_page(replace(empty, cells=()))


def test_counts_and_augmented_clips_appear() -> None:
    text = Reader(render_page(page_of())).text
    for words in ("1,234", "1,000", "31", "3,702"):
        assert words in text


def test_an_empty_quarantine_says_so() -> None:
    assert "Nothing is in quarantine" in render_page(page_of())


def test_a_long_quarantine_shows_fifty_and_the_total() -> None:
    rows = [quarantined(row=k, path=f"v{k}.mp4") for k in range(73)]
    html = render_page(page_of(quarantine=rows))
    assert html.count("no video stream") == 50
    assert "73 files were left out. The first 50:" in Reader(html).text


def test_a_quarantined_video_shows_what_decodes_of_it() -> None:
    rows = [quarantined(), quarantined(verdict="truncated", frames=frames_of(seed=2))]
    *_, strip = images_in(render_page(page_of(quarantine=rows)))
    assert np.abs(strip[64, 96, ::-1].astype(int) - frames_of(seed=2)[0, 0, 0]).max() <= 4
    assert "truncated" in Reader(render_page(page_of(quarantine=rows))).text


def test_images_decode_to_the_frames_that_were_given() -> None:
    strip, sheet = images_in(render_page(page_of()))
    # Four frames of 48 x 32, four times as large, with gaps of two pixels; three rows in the sheet.
    assert strip.shape == (128, 4 * 192 + 3 * 2, 3)
    assert sheet.shape == (3 * 128 + 2 * 2, 4 * 192 + 3 * 2, 3)
    for index, frame in enumerate(frames_of()):
        middle = strip[64, index * 194 + 96, ::-1].astype(int)
        assert np.abs(middle - frame[0, 0]).max() <= 4


def test_every_image_tells_its_size_and_what_it_shows() -> None:
    for attributes in Reader(render_page(page_of())).all("img"):
        assert attributes["alt"]
        assert {"width", "height"} <= attributes.keys()


@pytest.mark.parametrize(
    ("num", "height", "width", "shape"),
    [
        (1, 16, 16, (128, 128, 3)),
        (8, 112, 112, (112, 8 * 114 - 2, 3)),
        (16, 64, 64, (2 * 130 - 2, 8 * 130 - 2, 3)),
        (12, 256, 320, (2 * 130 - 2, 6 * 162 - 2, 3)),
    ],
)
def test_strips_have_a_size_that_can_be_seen(
    num: int, height: int, width: int, shape: tuple[int, int, int]
) -> None:
    assert figures.strip_image(frames_of(num, height, width)).shape == shape


def test_small_frames_grow_by_whole_pixels() -> None:
    frame = np.arange(16 * 16 * 3, dtype=np.uint8).reshape(1, 16, 16, 3)
    assert np.array_equal(figures.strip_image(frame)[::8, ::8], frame[0])


def test_frames_of_another_kind_are_refused() -> None:
    with pytest.raises(ValueError, match="expected uint8 of shape"):
        figures.strip_image(np.zeros((4, 8, 8, 3), np.float32))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="equal shape"):
        figures.contact_sheet([frames_of(4), frames_of(5)])


def test_a_confusion_matrix_of_another_size_than_the_labels_is_refused() -> None:
    with pytest.raises(ValueError, match="expected 2 rows of 2 counts"):
        figures.confusion_svg([[1]], LABELS, description="")


@pytest.mark.parametrize("num", [1, 2, 5, 13, 60])
def test_confusion_matrices_of_any_number_of_classes_keep_every_count(num: int) -> None:
    svg = figures.confusion_svg(
        np.arange(num * num).reshape(num, num).tolist(),
        [f"class {k}" for k in range(num)],
        description="",
    )
    assert [int(n) for n in re.findall(r": (\d+) of ", svg)] == list(range(num * num))


def test_a_diverging_run_does_not_flatten_the_others() -> None:
    curve = figures.Curve(part="val", epochs=[1, 2], values=[0.5, 1e6], marked_epoch=1, tag="")
    limits = figures.shared_limits([curve])
    assert limits == (0.5, 1e6)
    # Powers of ten at the axis: the scale is logarithmic.
    assert figures.curves_svg([curve], y_limits=limits, description="").count("10") > 3


def test_a_single_epoch_is_drawn_as_a_point() -> None:
    curve = figures.Curve(part="train", epochs=[1], values=[0.5], marked_epoch=None, tag="")
    svg = figures.curves_svg([curve], y_limits=(0.5, 0.5), description="")
    assert "<use" in svg


def luminance(color: str) -> float:
    parts = [int(color[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_text_has_the_contrast_that_accessibility_asks_for(scheme: int) -> None:
    # WCAG 2 AA: 4.5 to 1 for text.
    found = re.findall(r"--([\w-]+): (#[0-9a-f]{6})", STYLE.read_text(encoding="utf-8"))
    color = dict(found[scheme * len(found) // 2 :][: len(found) // 2])
    pairs = [(ink, paper) for ink in ("ink", "muted", "val") for paper in ("paper", "card")]
    pairs += [("ink", "hit"), ("ink", "miss"), ("ink", "cell"), ("muted", "cell"), ("bad", "card")]
    pairs += [(tone, f"{tone}-bg") for tone in ("good", "unsure", "bad")]
    for ink, paper in pairs:
        dark, light = sorted((luminance(color[ink]), luminance(color[paper])))
        assert (light + 0.05) / (dark + 0.05) >= 4.5, (ink, paper)


def test_a_browser_draws_the_page_without_an_error(tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser is None:
        pytest.skip("no chromium in PATH")
    (tmp_path / "report.html").write_text(render_page(page_of()), encoding="utf-8")
    options = (
        "headless no-sandbox disable-gpu disable-background-networking disable-sync no-first-run"
    )
    command = [
        browser,
        *(f"--{option}" for option in options.split()),
        "--disable-component-update",
        f"--user-data-dir={tmp_path / 'profile'}",
        "--enable-logging=stderr",
        "--dump-dom",
        (tmp_path / "report.html").as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode != 0 or not done.stdout:
        pytest.skip(f"chromium does not run here: {done.stderr[-300:]}")
    # What the policy of the page refuses, and every fault of a script, is a CONSOLE line.
    assert "CONSOLE" not in done.stderr
    assert "How was it made?" in done.stdout
    assert done.stdout.count("<svg class=") == 4
