"""The page of predictions: self-contained, safe, and small however many videos there are."""

import base64
import re
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest

from tests.video.test_report_page import HOSTILE, VOID, frames_of
from video.report import predictions
from video.report.page import STYLE
from video.report.predictions import (
    PredictedVideo,
    PredictionsPage,
    RejectedVideo,
    Strips,
    render_predictions,
)

LABELS = ("walk", "run", "jump")


class Outline(HTMLParser):
    """The elements and texts of a page; `unclosed` must be empty at its end."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.unclosed: list[str] = []
        self.feed(page)
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.unclosed.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.unclosed.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += f"{data} "


def video(path: str = "a.mp4", num_windows: int = 1, **changes: object) -> PredictedVideo:
    values = np.tile([0.25, 0.7, 0.05], (num_windows, 1))
    spans = [(float(i), i + 1.0) for i in range(num_windows)] if num_windows > 1 else []
    made: dict[str, object] = {"path": path, "probabilities": values, "spans": spans}
    return PredictedVideo(**made | changes)  # type: ignore[arg-type]


def rendered(*videos: PredictedVideo, rejected: int = 0, name: str = "cut.mp4") -> str:
    return render_predictions(
        PredictionsPage(
            labels=LABELS,
            videos=videos,
            rejected=[RejectedVideo(path=name, verdict="damaged", reason="a hole")] * rejected,
            facts={"models": "best_model.pt"},
            note="no warnings",
        )
    )


def test_the_page_shows_pictures_and_probabilities_of_each_video() -> None:
    strip = Strips().draw(np.stack([frames_of(8)]))

    page = rendered(video(strip=strip, warnings=["duration 0.1 s"]), rejected=1)

    outline = Outline(page)
    assert outline.unclosed == []
    assert "1 of 2 videos predicted, 1 with a warning." in outline.text
    assert "run a.mp4 ⚠ duration 0.1 s run 0.700 walk 0.250 jump 0.050" in outline.text
    assert "cut.mp4 damaged a hole" in outline.text
    assert ("style", "width:70.00%") in outline.attributes
    (data,) = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', page)
    image = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    assert image.shape == (128, 8 * 194 - 2, 3)  # 32x48 px, enlarged four times


def test_windows_are_counted_and_drawn_over_time() -> None:
    values = np.array([[0.9, 0.1, 0.0], [0.2, 0.8, 0.0], [0.8, 0.2, 0.0], [0.6, 0.4, 0.0]])

    page = rendered(video(num_windows=4, probabilities=values))

    outline = Outline(page)
    assert outline.unclosed == []
    assert "4 windows: walk in 3 , run in 1 a.mp4" in outline.text
    assert "walk mean of the windows 0.625 run 0.375" in outline.text
    assert 'd="M0 10H250L250 80H500L500 20H750L750 40H1000" stroke="var(--val)"' in page
    assert 'd="M0 90H250L250 20H500L500 80H750L750 60H1000" stroke="var(--train)"' in page
    assert "0 s 4.0 s walk run jump" in outline.text
    assert "Windows by class: walk 3 , run 1 ." in outline.text
    other = rendered(video(num_windows=4, probabilities=values[:, [1, 0, 2]]))
    assert 'd="M0 90H250L250 20H500L500 80H750L750 60H1000" stroke="var(--val)"' in other


def test_windows_are_shown_by_their_middle_and_clips_in_lines() -> None:
    strips = Strips()
    clips = np.stack([frames_of(3, seed=number) for number in range(20)])

    film = strips.draw(clips, num_windows=10)  # two clips of each
    lines = strips.draw(clips[:2])

    assert film is not None
    assert lines is not None
    image = cv2.imdecode(np.frombuffer(film.jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    assert (film.height, film.width) == image.shape[:2] == (128, 8 * 194 - 2)
    shown = [image[64, 194 * i + 96, ::-1].astype(int) for i in range(8)]
    expected = [clips[2 * i, 1, 0, 0].astype(int) for i in (0, 1, 3, 4, 5, 6, 8, 9)]
    assert np.abs(np.array(shown) - expected).max() <= 6
    assert (lines.height, lines.width) == (2 * 130 - 2, 3 * 194 - 2)


def test_names_are_text_and_nothing_is_loaded_or_run() -> None:
    page = rendered(video(HOSTILE, num_windows=3, warnings=[HOSTILE]), rejected=1, name=HOSTILE)

    outline = Outline(page)
    assert outline.unclosed == []
    assert "script" not in outline.tags
    assert "img" not in outline.tags
    assert not [name for name, _ in outline.attributes if name.startswith("on")]
    assert outline.text.count("<script>alert('x')</script>") == 3
    assert (
        "content",
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'",
    ) in outline.attributes
    assert "http" not in page.replace("http-equiv", "").replace("https://evil", "")


def test_the_page_stays_small_however_many_videos_there_are() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (1, 8, 64, 64, 3), dtype=np.uint8)
    strips = Strips()
    videos = [
        video(f"{number}.mp4", num_windows=700, strip=strips.draw(noise))
        for number in range(predictions.MAX_VIDEOS + 30)
    ]

    page = rendered(*videos, rejected=3000)

    text = Outline(page).text
    num_strips = page.count("data:image/jpeg")
    assert 10 < num_strips < predictions.MAX_VIDEOS
    assert len(page) < 10_000_000
    assert "The first 200 of 230 videos are shown" in text
    assert f"{200 - num_strips} of them are shown without pictures" in text
    assert "The first 200 of 3,000 ." in text
    assert "each step is the mean of 3 windows" in text


def test_no_more_videos_have_pictures_than_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predictions, "MAX_VIDEOS", 2)
    strips = Strips()

    drawn = [strips.draw(np.stack([frames_of(2)])) for _ in range(3)]

    assert [strip is not None for strip in drawn] == [True, True, False]


def test_pages_share_one_style() -> None:
    assert STYLE.read_text(encoding="utf-8").strip() in rendered(video())
