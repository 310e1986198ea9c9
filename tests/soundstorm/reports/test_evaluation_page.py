"""The report as text, and as a real browser sees it."""

import base64
import io
import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import soundfile

from soundstorm.audio.bands import Band, Bands
from soundstorm.errors import SoundStormError
from soundstorm.evaluation.acoustic import clip_metrics, log_spectral_distance, spectral_convergence
from soundstorm.evaluation.closeness import closeness
from soundstorm.evaluation.closeness_result import Embedding
from soundstorm.evaluation.metric_info import METRIC_NAMES
from soundstorm.evaluation.summary import summarize
from soundstorm.reports.evaluation_page import ReportData, render_report
from soundstorm.reports.listening_section import Example
from soundstorm.schemas import FEATURES, METRICS, PAIRS, Source
from tests.soundstorm.conftest import HELD_OUT, feature_rows
from tests.support.browser import OVERFLOW, chromium

RATE = 24000
XSS = '<script>window.hacked = 1</script>"><img src=x onerror="window.hacked=1">\' $\\frac$ & 猫'
DURATION_S = {Source.REAL: 2.0, Source.RESYNTHESIZED: 2.0, Source.GENERATED: 1.6}
LEVEL = {Source.REAL: 0.3, Source.RESYNTHESIZED: 0.28, Source.GENERATED: 0.45}


def sound(category: str, source: Source, seed: int) -> np.ndarray:
    """16-bit: rain is noise, clock is ticks in silence, siren sweeps, anything else is silent."""
    rng = np.random.default_rng(seed)
    t = np.arange(int(DURATION_S[source] * RATE)) / RATE
    if category == "rain":
        x = rng.normal(0, 0.4, len(t)) * (1 + 0.4 * np.sin(2 * np.pi * 0.7 * t + seed))
    elif category == "clock_tick":
        x = rng.normal(0, 1, len(t)) * np.exp(-((t + 0.01 * (seed % 7)) % 0.5) / 0.004) * ((t % 0.5) < 0.1)
    elif category == "siren":
        x = (
            np.sin(2 * np.pi * (900 * t + 60 * np.sin(2 * np.pi * 0.9 * t + seed)))
            + 0.3 * np.sin(6 * np.pi * 900 * t)
            + rng.normal(0, 0.01, len(t))
        )
    else:
        x = np.zeros(len(t))
    return np.clip(np.round(LEVEL[source] * (1 + 0.2 * np.sin(seed)) * x * 32768), -32768, 32767).astype(np.int16)


def example(category: str, source: Source, seed: int = 0, **changes: Any) -> Example:
    x = sound(category, source, seed)
    buffer = io.BytesIO()
    soundfile.write(buffer, x, RATE, format="FLAC", subtype="PCM_16")
    values: dict[str, Any] = {"audio_bytes": buffer.getvalue(), "waveform": x / 32768} | changes
    return Example(
        category=category, source=source, clip_id=f"{source}-{seed}-{category}", duration_s=len(x) / RATE, **values
    )


def report_data(
    categories: tuple[str, ...] = ("rain", "clock_tick", "siren", XSS), clips: int = 8, **changes: Any
) -> ReportData:
    rows, pairs = [], []
    for category in categories:
        for source in Source:
            for seed in range(clips):
                x = sound(category, source, seed + 100 * list(Source).index(source))
                rows.append(
                    {"clip_id": f"{source}-{seed}", "source": source, "category": category, "duration_s": len(x) / RATE}
                    | clip_metrics(x, RATE)
                )
        real, generated = sound(category, Source.REAL, 0), sound(category, Source.GENERATED, 200)
        distances = spectral_convergence(real, generated), log_spectral_distance(real, generated)
        pairs.append(dict(zip(PAIRS.names, ("a", "b", *distances), strict=True)))
    metrics = pa.Table.from_pylist(rows, schema=METRICS)
    log = [
        {
            "epoch": str(i),
            "train_loss": f"{2.4 + 4.5 * 0.93**i:.4f}",
            "val_loss": f"{2.7 + 4.3 * 0.92**i:.4f}",
            "lr": f"{1e-4 * np.sin(np.pi * i / 60)}",
        }
        for i in range(1, 60)
    ]
    features = pa.Table.from_pylist(feature_rows(categories), schema=FEATURES)
    values: dict[str, Any] = {
        "title": "SoundStorm on three sounds",
        "generated_at": datetime(2025, 3, 4, 15, 6, tzinfo=UTC),
        "summary": summarize(metrics, pa.Table.from_pylist(pairs, schema=PAIRS)),
        "metrics": metrics,
        "closeness": closeness(features, held_out_fold=HELD_OUT, classifier_categories=categories),
        "features": features,
        "examples": [example(category, source) for category in categories for source in Source],
        "training_log": log,
        "settings": {
            "dataset": "synthetic",
            "fold": 5,
            "model": {"preset": "small", "width": 256, "depth": 6, "heads": 8},
            "sampler": {
                "iterations": (12, 4, 2, 1, 1, 1, 1, 1),
                "temperature": 1.0,
                "typical_mass": None,
                "guided": True,
            },
        },
        "fingerprints": {"codec weights": "9f" * 32, "checkpoint": "3c" * 32},
        "rejected": {"not_audio": 2, "truncated": 1},
        "warnings": ["The codec of the package stands in for EnCodec: there was no network."],
        "credits": ["Recordings: ESC-10, K. J. Piczak (2015), CC BY 3.0."],
    }
    return ReportData(**(values | changes))


UNDRAWN: dict[str, Any] = {"examples": (), "metrics": None, "features": None, "training_log": ()}
"""What leaves the figures out, which take longest."""


@pytest.fixture(scope="module")
def data() -> ReportData:
    return report_data()


@pytest.fixture(scope="module")
def page(data: ReportData) -> str:
    return render_report(data)


class Elements(HTMLParser):
    """Every start tag with its attributes, and all text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.tags[-1:] and self.tags[-1][0] not in ("style", "script"):
            self.text += data

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def test_every_player_holds_its_file_byte_for_byte(data: ReportData, page: str) -> None:
    players = Elements(page).named("audio")
    assert len(players) == len(data.examples) == 12
    for player, shown in zip(players, data.examples, strict=True):
        prefix, encoded = (player["src"] or "").split(",", 1)
        assert prefix == "data:audio/flac;base64"
        assert base64.b64decode(encoded) == shown.audio_bytes
        assert player["aria-label"] == f"{shown.source.capitalize()} clip {shown.clip_id} of class {shown.category}"


def test_the_page_refers_to_nothing_outside_itself(page: str) -> None:
    references = [
        value or ""
        for _, attributes in Elements(page).tags
        for name, value in attributes.items()
        if name in ("src", "srcset", "href", "action", "data")
    ]
    assert references
    assert all(value.startswith(("data:", "#")) for value in references)
    assert "url(" not in page and "@import" not in page
    assert re.search(r"default-src (&#39;|')none", page)


def test_a_hostile_class_name_stays_text(page: str) -> None:
    elements = Elements(page)
    assert len(elements.named("script")) == 1
    assert not any(name.startswith("on") for _, attributes in elements.tags for name in attributes)
    assert all((image["src"] or "").startswith("data:image/png") for image in elements.named("img"))
    assert XSS in elements.text


def test_the_table_states_means_differences_and_ks(data: ReportData, page: str) -> None:
    summary = data.summary
    text = " ".join(Elements(page).text.split())
    for name in METRIC_NAMES:
        values = summary.overall.metrics[name]["generated"]
        assert values is not None and values.ks is not None
        assert f"KS {values.ks:.2f}" in text
    rms = summary.overall.metrics["rms"]["generated"]
    assert rms is not None and rms.difference_percent is not None
    assert f"{rms.mean:.4f} ± {rms.std:.4f}" in text
    assert f"▲ +{rms.difference_percent:.1f}%, far from real" in text
    assert f"{summary.pairs['spectral_convergence'].mean:.3f}" in text


def test_the_table_of_closeness_states_each_measure_beside_its_floor_and_bar(data: ReportData, page: str) -> None:
    assert data.closeness is not None
    text = " ".join(Elements(page).text.split())
    known = [measure for measure in data.closeness.measures if measure.met is not None]
    told = f"{sum(bool(measure.met) for measure in known)} of {len(known)} closeness metrics within their targets"
    assert f"{told}, which is rough with 80 generated and 80 real clips." in text
    assert "80 generated and 80 real clips; 128 training clips and 32 clips of the held-out fold 5." in text
    for measure in data.closeness.measures:
        assert measure.title in text
    flux = next(measure for measure in data.closeness.measures if measure.name == "flux")
    assert flux.generated is not None and flux.floor is not None and flux.ratio is not None
    for words in (
        f"generated{flux.generated:.2f}",
        f"real{flux.floor:.2f}",
        f"✓{flux.ratio:.2f}×,withinthetarget",
        "target:0.8×to1.2×",
    ):
        assert words in text.replace(" ", "")


def test_a_distance_on_the_page_says_what_it_rests_on() -> None:
    known = {"classifier": Embedding(name="a classifier of <esc50>", sha256="ab" * 32, sample_rate_hz=24_000)}
    features = pa.Table.from_pylist(feature_rows(("rain",)), schema=FEATURES)
    found = closeness(
        features,
        held_out_fold=HELD_OUT,
        classifier_categories=("rain",),
        embeddings=known,
        reference="data/esc50, fold 5",
    )
    text = " ".join(
        Elements(render_report(report_data(("rain",), clips=1, **UNDRAWN | {"closeness": found}))).text.split()
    )
    rows = "10 generated and 10 real rows, mean over 10 random halves of data/esc50, fold 5"
    assert f"In a classifier of <esc50> at 24 000 Hz; {rows}; " in text
    assert "; not extrapolated: " in text or "; extrapolated to infinitely many clips." in text
    assert f"In a classifier of <esc50> at 24 000 Hz; {rows}." in text  # of the kernel distance


def test_the_page_says_which_side_lacks_which_frequencies() -> None:
    sides = [
        Band(clips=9, sample_rates_hz={rate: 9}, band_hz=band_hz)
        for rate, band_hz in ((44_100, 11_400.0), (16_000, 7_560.0))
    ]
    told = {}
    for name, common_hz in (("unequal", None), ("cut", 7_560.0)):
        bands = Bands(real=sides[0], generated=sides[1], common_band_hz=common_hz)
        data = report_data(("rain",), clips=1, bands=bands, warnings=[bands.note], **UNDRAWN)
        told[name] = " ".join(Elements(render_report(data)).text.split())
        assert told[name].count(str(bands.note)) == (2 if name == "unequal" else 1)
    assert "The generated clips have next to nothing above 7.6 kHz (files at 16,000 Hz)" in told["unequal"]
    assert "no difference comes from resampling" not in told["unequal"] + told["cut"]
    assert "compared at one sample rate and below 7.6 kHz, which both sides reach" in told["cut"]
    equal = render_report(report_data(("rain",), clips=1, bands=Bands(real=sides[0], generated=sides[0]), **UNDRAWN))
    assert "so that no difference comes from resampling alone" in equal


def test_a_measure_that_cannot_be_said_has_its_reason_on_the_page() -> None:
    features = pa.Table.from_pylist(feature_rows(("rain",)), schema=FEATURES)
    unsaid = closeness(features, held_out_fold=None, no_fold="a folder has <no> folds")
    elements = Elements(render_report(report_data(("rain",), clips=1, closeness=unsaid, features=None)))
    assert "n/a: a folder has <no> folds." in elements.text and "n/a: there is no classifier." in elements.text
    assert "n/a" in elements.text
    assert not any("held-out" in (image["alt"] or "") for image in elements.named("img"))


def test_settings_fingerprints_rejections_warnings_and_credits_are_on_the_page(page: str) -> None:
    text = " ".join(Elements(page).text.split())
    for words in (
        "preset small",
        "12, 4, 2, 1, 1, 1, 1, 1",
        "guided yes",
        "typical_mass —",
        "9f" * 32,
        "not audio 2",
        "no network",
        "K. J. Piczak",
        "4 March 2025, 15:06 UTC",
    ):
        assert words in text or words.replace(" ", "") in text.replace(" ", "")


def test_headings_are_in_order_and_every_picture_and_player_has_words(page: str) -> None:
    elements = Elements(page)
    levels = [int(tag[1]) for tag, _ in elements.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert all(image["alt"] for image in elements.named("img"))
    identifiers = [attributes["id"] for _, attributes in elements.tags if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))
    targets = {(link["href"] or "")[1:] for link in elements.named("a")}
    assert targets <= set(identifiers)


def test_a_linked_clip_plays_from_its_address_and_the_policy_allows_it() -> None:
    link = "https://bucket.example/clip.flac?X-Amz-Signature=a&b=c"
    page = render_report(
        report_data(
            ("rain",),
            clips=1,
            **UNDRAWN | {"examples": [example("rain", Source.GENERATED, audio_bytes=None, audio_src=link)]},
        )
    )
    elements = Elements(page)
    assert [player["src"] for player in elements.named("audio")] == [link]
    policies = [meta["content"] or "" for meta in elements.named("meta") if meta.get("http-equiv")]
    assert "media-src data: 'self' file: http: https:;" in policies[0]


def test_what_is_left_out_leaves_no_empty_section() -> None:
    unwrap_ddp = {
        "examples": (),
        "metrics": None,
        "closeness": None,
        "features": None,
        "training_log": [{"epoch": "1", "train_loss": ""}],
        "settings": {},
        "fingerprints": {},
        "rejected": {},
        "warnings": (),
        "credits": (),
    }
    elements = Elements(render_report(report_data(("rain",), clips=1, **unwrap_ddp)))
    assert {section.get("id") for section in elements.named("section")} == {None, "metrics", "classes", "settings"}
    assert not elements.named("audio") and not elements.named("img")


def test_a_source_that_was_not_measured_has_no_column() -> None:
    data = report_data(("rain",), clips=2)
    assert data.metrics is not None
    without = data.metrics.filter(pc.not_equal(data.metrics["source"], "resynthesized"))
    examples = [example("rain", Source.REAL), example("rain", Source.GENERATED), example("siren", Source.GENERATED)]
    page = render_report(
        report_data(("rain",), clips=2, summary=summarize(without), metrics=without, examples=examples)
    )
    assert "resynthesized" not in Elements(page).text
    assert "No clip of this kind." in page


def test_ten_classes_of_five_seconds_stay_under_12_megabytes() -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(-20000, 20000, 5 * RATE).astype(np.int16)  # the worst case: FLAC saves almost nothing
    buffer = io.BytesIO()
    soundfile.write(buffer, noise, RATE, format="FLAC", subtype="PCM_16")
    worst = [example("rain", Source.REAL, audio_bytes=buffer.getvalue(), waveform=noise / 32768)]
    data = report_data(("rain",), clips=1, examples=worst)
    without = len(render_report(replace(data, examples=())))
    assert 30 * (len(render_report(data)) - without) + without < 12e6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"audio_src": "https://x"}, "either audio_bytes or audio_src"),
        ({"audio_bytes": None}, "either audio_bytes or audio_src"),
        ({"mime_type": "text/html"}, "mime_type is 'text/html'; it is one of audio/flac"),
        ({"waveform": np.zeros((2, 10))}, r"shape \(2, 10\)"),
    ],
)
def test_an_example_that_cannot_be_shown_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SoundStormError, match=message):
        example("rain", Source.REAL, **changes)


LOAD_AUDIO = """async (player) => {
  player.load();
  await new Promise((resolve) => { player.oncanplaythrough = player.onerror = resolve; });
  const bytes = Uint8Array.from(atob(player.src.split(",")[1]), (letter) => letter.charCodeAt(0));
  const decoded = await new OfflineAudioContext(1, 1, 24000).decodeAudioData(bytes.buffer);
  const error = player.error && player.error.message;
  return {error, ready: player.readyState, duration: player.duration, decoded: decoded.duration};
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as browser:
        yield browser


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])
def test_a_browser_plays_every_clip_shows_every_picture_and_asks_for_nothing(
    browser: Any, page: str, tmp_path: Path, scheme: str, width: int
) -> None:
    path = tmp_path / "report.html"
    path.write_text(page, encoding="utf-8")
    tab = browser.new_page(color_scheme=scheme, viewport={"width": width, "height": 900})
    complaints: list[str] = []
    requests: list[str] = []
    tab.on("console", lambda message: complaints.append(message.text))
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.on("requestfailed", lambda request: complaints.append(f"failed: {request.url[:80]}"))
    tab.on("request", lambda request: requests.append(request.url[:500]))
    tab.goto(path.as_uri())

    players = tab.query_selector_all("audio")
    assert len(players) == 12
    for player, source in zip(players, list(Source) * 4, strict=True):
        state = player.evaluate(LOAD_AUDIO)
        assert state["error"] is None and state["ready"] == 4
        assert state["duration"] == pytest.approx(DURATION_S[source], abs=0.01)
        assert state["decoded"] == pytest.approx(DURATION_S[source], abs=0.01)
    widths = tab.eval_on_selector_all(
        "img",
        "async (images) => { for (const i of images) await i.decode(); return images.map((i) => i.naturalWidth); }",
    )
    assert len(widths) == 12 + 1 + 4 + 6 + 1 and min(widths) > 0
    tab.screenshot(path=tmp_path / f"{scheme}-{width}.png", full_page=True)
    themed = tab.eval_on_selector_all(
        "picture", "(all) => all.map((p) => p.lastElementChild.currentSrc === p.firstElementChild.srcset)"
    )
    assert set(themed) == {scheme == "dark"}
    assert tab.evaluate(OVERFLOW) == 0
    assert tab.evaluate("() => window.hacked") is None
    assert complaints == []
    assert [url for url in requests if not url.startswith("data:")] == [path.as_uri()]
    tab.close()


def test_starting_one_player_pauses_the_other(browser: Any, page: str, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text(page, encoding="utf-8")
    tab = browser.new_page()
    tab.goto(path.as_uri())
    first, second = tab.query_selector_all("audio")[:2]
    for player in (first, second):
        player.evaluate("async (player) => { player.muted = true; player.loop = true; await player.play(); }")
    tab.wait_for_function("() => document.querySelectorAll('audio')[0].paused")
    assert not second.evaluate("(player) => player.paused")
    tab.close()


def test_among_many_classes_one_is_found_by_name_by_group_and_by_how_bad_it_is(browser: Any, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    made = [example(category, Source.GENERATED) for category in ("rain", "clock_tick", "siren", XSS)]
    path.write_text(render_report(report_data(clips=2, **UNDRAWN | {"examples": made})), encoding="utf-8")
    tab = browser.new_page()
    tab.goto(path.as_uri())
    shown = """() => [...document.querySelectorAll("#class-list > article")].filter((a) => !a.hidden)
        .map((a) => a.querySelector("h3").textContent)"""
    rows = """() => [...document.querySelectorAll("#classes tr[data-name]")].filter((r) => !r.hidden).length"""
    assert tab.evaluate(shown) == ["rain", "clock_tick", "siren", XSS] and tab.evaluate(rows) == 8
    tab.fill("input[name=words]", "TICK clock")
    assert tab.evaluate(shown) == ["clock_tick"] and tab.evaluate(rows) == 2
    assert tab.text_content("#found") == "1 of 4 classes"
    tab.fill("input[name=words]", "")
    tab.select_option("select[name=group]", "exterior")
    assert tab.evaluate(shown) == ["siren"]
    tab.select_option("select[name=group]", "")
    tab.select_option("select[name=order]", "worst")
    right = [
        float(text)
        for text in tab.eval_on_selector_all("#class-list > article", "(all) => all.map((a) => a.dataset.right)")
    ]
    assert right == sorted(right) and len(right) == 4
    tab.select_option("select[name=order]", "name")
    assert tab.evaluate(shown) == ["rain", "clock_tick", "siren", XSS]
    assert tab.evaluate("() => window.hacked") is None
    tab.close()
