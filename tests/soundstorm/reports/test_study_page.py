"""The page of a study, and its pictures."""

import re
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser
from typing import Any

import pytest

from soundstorm.evaluation.pareto import fewest_sufficient_iterations, iterations_curve
from soundstorm.reports.study_figures import (
    front_picture,
    importance_bars,
    iterations_picture,
    parallel_coordinates,
    trial_curves,
)
from soundstorm.reports.study_page import Cost, Curve, StudyData, render_study, stop_text
from soundstorm.reports.style import DARK, LIGHT

PNG = b"\x89PNG"
ROWS: list[dict[str, Any]] = [
    {"trial": "a", "state": "finished", "problem": None, "lr": 1e-3, "schedule": "cosine", "val_loss": 3.9},
    {"trial": "b", "state": "stopped", "problem": None, "lr": 1e-2, "schedule": "onecycle", "val_loss": 4.2},
    {
        "trial": "<b>c</b>",
        "state": "failed",
        "problem": "out of memory <script>",
        "lr": 5e-2,
        "schedule": None,
        "val_loss": None,
    },
]
CURVE = iterations_curve({1: [(0.9, 0.4), (0.8, 0.5)], 4: [(0.4, 0.9), (0.41, 0.9)], 32: [(0.405, 4.0), (0.4, 4.1)]})


def data(**changes: Any) -> StudyData:
    base = StudyData(
        title="A study",
        generated_at=datetime(2026, 5, 1, 12, tzinfo=UTC),
        summary=[("Lowest", "3.9", "nats")],
        metric="Validation loss",
        names=["lr", "schedule"],
        rows=ROWS,
        value="val_loss",
        best="a",
        curves=[Curve("a", [1, 2, 3], [5.0, 4.2, 3.9], "finished"), Curve("b", [1, 2], [5.1, 4.2], "stopped")],
        importances={"lr": 0.8, "schedule": 0.2},
        importances_note="Early.",
        best_settings={"lr": 1e-3, "schedule": "cosine"},
        command="soundstorm train --config best.json",
        settings={"preset": "tiny", "training": {"epochs": 3}},
    )
    return replace(base, **changes)


COST = Cost(
    iterations={"net": CURVE},
    points=[(0.4, 1.0), (0.5, 0.5)],
    front=[
        {"quality": 0.5, "seconds_per_clip": 0.5, "point": {"iterations_level_0": 2}},
        {"quality": 0.4, "seconds_per_clip": 1.0, "point": {"top_p": 0.9}},
    ],
    best=(0.4, 1.0),
    spread=0.01,
)


class Tags(HTMLParser):
    """Checks that tags are closed in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in ("meta", "link", "img", "source", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_holds_everything_and_asks_for_nothing() -> None:
    page = render_study(data(cost=COST))
    assert Tags(page).open == []
    assert "A study" in page and "soundstorm train --config best.json" in page and "80%" in page
    assert "<script" not in page and "&lt;b&gt;c&lt;/b&gt;" in page and "out of memory &lt;script&gt;" in page
    assert not re.search(r'(src|href)="(?!data:|#)', page)
    assert stop_text("", CURVE, fewest_sufficient_iterations(CURVE)) in page


def test_what_is_not_there_is_left_out() -> None:
    page = render_study(data(curves=(), importances={}, cost=None, rows=ROWS[2:], best=None))
    assert Tags(page).open == []
    assert 'id="curves"' not in page and 'id="cost"' not in page and "soundstorm" in page


def test_where_more_iterations_no_longer_help_is_said_in_words() -> None:
    assert stop_text("", CURVE, fewest_sufficient_iterations(CURVE)).startswith(
        "More than 4 iterations do not improve the quality: the best, 0.403 with 32 iterations"
    )
    rising = iterations_curve({1: [(0.9, 1.0)], 8: [(0.5, 2.0)]})
    assert (
        stop_text("net", rising, rising[1])
        == "net: more iterations improve the quality up to the largest number tried, 8."
    )
    falling = iterations_curve({1: [(0.5, 1.0)], 8: [(0.9, 2.0)]})
    assert "is the best" in stop_text("", falling, falling[0])


@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_every_picture_is_drawn(theme: Any) -> None:
    curves = [(curve.epochs, curve.values, curve.state) for curve in data().curves]
    known = ROWS[:2]
    pictures = [
        trial_curves(curves, 0, "Loss", theme),
        trial_curves([([1], [4.0], "failed")], None, "Loss", theme),
        importance_bars({"lr": 1.0}, theme),
        parallel_coordinates(known, ["lr", "schedule"], "val_loss", "a", theme),
        parallel_coordinates(
            [{"trial": "a", "lr": 1.0, "flag": True, "quality": 2}], ["lr", "flag", "absent"], "quality", None, theme
        ),
        iterations_picture({"net": CURVE}, {"net": 4}, theme),
        iterations_picture({"a": CURVE, "b": CURVE[:1]}, {"a": 4, "b": 1}, theme),
        front_picture([(0.4, 1.0), (0.5, 0.0)], [(0.5, 0.0), (0.4, 1.0)], (0.4, 1.0), theme),
    ]
    assert all(picture.startswith(PNG) for picture in pictures)


def test_pictures_of_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="no trial has a value"):
        trial_curves([([], [], "failed")], None, "Loss", LIGHT)
    with pytest.raises(ValueError, match="no trial has a value of 'val_loss'"):
        parallel_coordinates(ROWS[2:], ["lr"], "val_loss", None, LIGHT)
