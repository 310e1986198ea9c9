"""The page of a classification: what it says, that it asks for nothing, and how a browser shows it."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from soundstorm.classification.accuracy import classify_predictions, compare
from soundstorm.reports.classification_figures import confusion_picture, reliability_picture
from soundstorm.reports.classification_page import ClassificationData, FoldNote, OtherRun, render_classification
from soundstorm.reports.style import DARK, LIGHT
from soundstorm.schemas import PREDICTIONS
from tests.support.browser import OVERFLOW, chromium

XSS = "<img src=x onerror=window.hacked=1>"
CATEGORIES = ["rain", "clock_tick", "siren", XSS]
CLIPS, FOLDS = 120, 3


def predictions(seed: int, skill: float = 0.8) -> pa.Table:
    """Clips of all categories in three folds, of which this share is named rightly."""
    rng = np.random.default_rng(seed)
    label = np.arange(CLIPS) % len(CATEGORIES)
    guess = np.where(rng.random(CLIPS) < skill, label, rng.integers(0, len(CATEGORIES), CLIPS))
    columns = {
        "clip_id": [f"clip-{number}" for number in range(CLIPS)],
        "fold": 1 + np.arange(CLIPS) // len(CATEGORIES) % FOLDS,
        "label": label,
        "predicted": guess,
        "probability": rng.uniform(0.3, 1, CLIPS),
        "model": ["soundstorm"] * CLIPS,
    }
    return pa.Table.from_pydict(columns, PREDICTIONS)


def classification_data(**changes: Any) -> ClassificationData:
    this, other = predictions(0), predictions(1, 0.6)
    compared = OtherRun(
        name="SoundStorm, scratch",
        result=classify_predictions(other, CATEGORIES),
        comparison=compare(this, other, "other"),
        is_pretraining=True,
        differences=["epochs 50 and 60"],
    )
    values: dict[str, Any] = {
        "title": "SoundStorm, fine-tuned on ESC-50",
        "name": "SoundStorm, fine-tuned",
        "dataset": "esc50",
        "generated_at": datetime(2025, 3, 4, 15, 6, tzinfo=UTC),
        "result": classify_predictions(this, CATEGORIES),
        "notes": [
            FoldNote(fold=fold, codec="block-24khz", start="a generator trained without fold 1") for fold in (1, 2, 3)
        ],
        "compared": [compared],
        "warnings": ["Fold 4 was not tested."],
        "settings": {"run": {"model": "soundstorm", "views": 7}},
        "credits": ["Recordings: ESC-50."],
    }
    return ClassificationData(**(values | changes))


@pytest.fixture(scope="module")
def data() -> ClassificationData:
    return classification_data()


@pytest.fixture(scope="module")
def page(data: ClassificationData) -> str:
    return render_classification(data)


class Elements(HTMLParser):
    """Every start tag with its attributes, and all text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.tags[-1:] and self.tags[-1][0] != "style":
            self.text += f" {data}"


def test_the_page_states_accuracy_with_its_spread_by_fold_and_by_class(data: ClassificationData, page: str) -> None:
    result, text = data.result, Elements(page).text
    assert result.std is not None
    assert f"{100 * result.mean:.1f} ± {100 * result.std:.1f}%" in text
    assert f"{result.overall.right} of {CLIPS}" in text
    for accuracy in (*result.folds.values(), *result.classes.values()):
        assert f"{accuracy.clips} {accuracy.right} {100 * accuracy.right / accuracy.clips:.1f}%" in text
    worst = result.pairs[0]
    assert f"{worst.category} {worst.predicted} {worst.clips} {100 * worst.share:.1f}%" in text


def test_the_confusion_matrix_is_a_table_too(data: ClassificationData, page: str) -> None:
    text = Elements(page).text
    for name, row in zip(CATEGORIES, data.result.confusion, strict=True):
        assert f"{name} {' '.join(map(str, row))}" in text


def test_calibration_is_on_the_page(data: ClassificationData, page: str) -> None:
    text = Elements(page).text
    assert f"expected calibration error is {100 * data.result.calibration_error:.1f}%" in text
    for found in data.result.bins:
        if found.confidence is not None and found.accuracy is not None:
            assert (
                f"{found.low:.1f} to {found.high:.1f} {found.clips} {100 * found.confidence:.1f}% "
                f"{100 * found.accuracy:.1f}%" in text
            )


def test_what_pretraining_is_worth_is_said_with_its_interval(data: ClassificationData, page: str) -> None:
    found, text = data.compared[0].comparison, Elements(page).text
    assert found.interval is not None and found.std is not None
    assert "What pre-training is worth: against SoundStorm, scratch" in text
    assert f"+{100 * found.difference:.1f} points ± {100 * found.std:.1f}" in text
    assert "Settings that differ, here and there: epochs 50 and 60." in text
    assert f"better in {found.better_folds} of 3 folds" in text


@pytest.mark.parametrize(
    ("dataset", "is_shown"), [("esc50", True), ("urbansound8k", True), ("esc10", False), ("folder", False)]
)
def test_the_earlier_study_is_shown_beside_its_own_datasets_only(dataset: str, is_shown: bool) -> None:
    text = Elements(render_classification(classification_data(dataset=dataset, compared=()))).text
    for row in ("frozen 72.3% 69.8%", "fine-tuned 79.6% 75.4%", "Transformer 88.5% 84.2%"):
        assert (row in text) is is_shown


def test_a_leak_is_said_before_all_else_and_only_where_there_is_one(page: str) -> None:
    leaking = Elements(
        render_classification(classification_data(leaks=["fold 1: the codec <x> was trained on esc10 without fold 5"]))
    ).text
    main = leaking[leaking.index("Settings") :]
    assert "Do not trust these figures" in main and main.index("Do not trust these figures") < main.index("Please note")
    assert "the codec <x> was trained on esc10 without fold 5" in leaking
    assert "Do not trust these figures" not in page


def test_the_page_refers_to_nothing_outside_itself_and_names_stay_text(page: str) -> None:
    elements = Elements(page)
    names = ("src", "srcset", "href", "action", "data")
    references = [value or "" for _, attributes in elements.tags for name, value in attributes.items() if name in names]
    assert references and all(value.startswith(("data:", "#")) for value in references)
    assert not any(
        tag == "script" or any(name.startswith("on") for name in attributes) for tag, attributes in elements.tags
    )
    assert XSS in elements.text
    assert re.search("default-src (&#39;|')none", page)


def test_headings_are_in_order_and_links_lead_somewhere(page: str) -> None:
    elements = Elements(page)
    levels = [int(tag[1]) for tag, _ in elements.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1 and all(after - before <= 1 for before, after in pairwise(levels))
    identifiers = [attributes["id"] for _, attributes in elements.tags if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))
    assert {(attributes["href"] or "")[1:] for tag, attributes in elements.tags if tag == "a"} <= set(identifiers)
    assert all(attributes["alt"] for tag, attributes in elements.tags if tag == "img")


@pytest.mark.parametrize("num_categories", [1, 12, 50])
def test_pictures_of_any_number_of_categories_are_drawn(num_categories: int) -> None:
    names = [f"category {number} $\\frac$ é" for number in range(num_categories)]
    label = list(range(num_categories)) * 2
    columns = {
        "clip_id": [str(i) for i in range(len(label))],
        "fold": [1] * len(label),
        "label": label,
        "predicted": [0] * len(label),
    }
    table = pa.Table.from_pydict(
        columns | {"probability": [0.5] * len(label), "model": ["cnn"] * len(label)}, PREDICTIONS
    )
    result = classify_predictions(table, names)
    for theme in (LIGHT, DARK):
        for picture in (confusion_picture(result.confusion, names, theme), reliability_picture(result.bins, theme)):
            assert picture.startswith(b"\x89PNG")
    assert len(render_classification(classification_data(result=result, compared=(), notes=()))) < 2e6


DECODED = "async (images) => { for (const i of images) await i.decode(); return images.map((i) => i.naturalWidth); }"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as browser:
        yield browser


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])
def test_a_browser_shows_every_picture_and_asks_for_nothing(
    browser: Any, page: str, tmp_path: Path, scheme: str, width: int
) -> None:
    path = tmp_path / "report.html"
    path.write_text(page, encoding="utf-8")
    tab = browser.new_page(color_scheme=scheme, viewport={"width": width, "height": 900})
    complaints: list[str] = []
    requests: list[str] = []
    tab.on("console", lambda message: complaints.append(message.text))
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.on("request", lambda request: requests.append(request.url[:200]))
    tab.goto(path.as_uri())
    widths = tab.eval_on_selector_all("img", DECODED)
    assert len(widths) == 2 and min(widths) > 0
    tab.screenshot(path=tmp_path / f"{scheme}-{width}.png", full_page=True)
    assert tab.evaluate(OVERFLOW) == 0
    assert tab.evaluate("() => window.hacked") is None
    assert complaints == []
    assert [url for url in requests if not url.startswith("data:")] == [path.as_uri()]
    tab.close()
