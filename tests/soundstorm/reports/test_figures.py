"""Pictures are read back as pixels and must show what was put in."""

import io
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from soundstorm.evaluation.metric_info import CLIP_METRICS
from soundstorm.reports import curves, spectrograms
from soundstorm.reports.spectrograms import Clip, Panels, Scale
from soundstorm.reports.style import DARK, DOTS_PER_INCH, LIGHT, Theme
from soundstorm.schemas import Source

RATE = 24000


def tone(frequency_hz: float, duration_s: float = 1.0, amplitude: float = 1.0) -> np.ndarray:
    return amplitude * np.sin(2 * np.pi * frequency_hz * np.arange(int(duration_s * RATE)) / RATE)


def pixels(png: bytes) -> np.ndarray:
    """(height, width, 4)."""
    image = Image.open(io.BytesIO(png))
    assert image.format == "PNG"
    return np.asarray(image.convert("RGBA"))


def panel(clip: Clip, theme: Theme, source: Source = Source.REAL, scale: Scale | None = None) -> bytes:
    return Panels().draw(clip, theme, source, scale or Scale.of([clip]))


def share_near(png: bytes, color: str, tolerance: int = 24) -> float:
    """Share of the opaque pixels that have nearly this colour."""
    image = pixels(png).astype(int)
    rgb = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)])
    near = (np.abs(image[..., :3] - rgb).max(axis=-1) <= tolerance) & (image[..., 3] > 200)
    return float(near.mean())


def linear_rgb(color: str) -> np.ndarray:
    srgb = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def contrast(one: str, other: str) -> float:
    """WCAG contrast ratio."""
    light, dark = sorted((float(linear_rgb(color) @ [0.2126, 0.7152, 0.0722]) for color in (one, other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def lab(rgb: np.ndarray) -> np.ndarray:
    xyz = (
        np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
        @ np.clip(rgb, 0, 1)
        / [0.9505, 1, 1.089]
    )
    x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("frequency_hz", [100, 1000, 6000])
def test_a_full_scale_tone_is_near_0_db_in_its_own_mel_band(frequency_hz: float) -> None:
    level_db = spectrograms.log_mel_db(tone(frequency_hz), RATE)
    assert level_db.shape == (spectrograms.NUM_MELS, 1 + RATE // spectrograms.SPECTROGRAM_HOP)
    middle = level_db[:, 40]
    top_mel = 2595 * np.log10(1 + 12000 / 700)
    band = 2595 * np.log10(1 + frequency_hz / 700) / top_mel * (spectrograms.NUM_MELS + 1) - 1
    assert abs(int(middle.argmax()) - band) <= 1
    assert middle.max() == pytest.approx(0, abs=4)


def test_silence_is_at_the_floor_and_every_band_hears_noise() -> None:
    assert np.all(spectrograms.log_mel_db(np.zeros(5000), RATE) == -140)
    noise_db = spectrograms.log_mel_db(np.random.default_rng(0).normal(0, 0.1, RATE), RATE)
    assert noise_db.mean(axis=1).min() > -70


def test_a_panel_shows_a_low_tone_below_a_high_one() -> None:
    rows = []
    for frequency_hz in (300, 5000):
        image = pixels(panel(Clip(tone(frequency_hz, amplitude=0.5), RATE), LIGHT)).astype(int)
        bright = (
            (image[..., 0] > 240)
            & (image[..., 1] > 200)
            & (image[..., 2] > 140)
            & (image[..., 2] < 215)
            & (image[..., 3] > 200)
        )
        rows.append(np.flatnonzero(bright.sum(axis=1) > image.shape[1] / 2).mean())
    assert rows[0] > rows[1] + 80


def test_silence_is_drawn_as_a_flat_line_over_black() -> None:
    image = pixels(panel(Clip(np.zeros(RATE), RATE), LIGHT))
    assert np.mean((image[..., :3].max(axis=-1) < 12) & (image[..., 3] > 200)) > 0.35


@pytest.mark.parametrize("num_samples", [1, 2, 300, 1200])
def test_clips_of_a_few_samples_can_be_drawn(num_samples: int) -> None:
    assert pixels(panel(Clip(np.full(num_samples, 0.5), RATE), LIGHT)).shape == (416, 608, 4)


def test_clips_side_by_side_share_their_axes() -> None:
    loud, short = Clip(tone(1000, 2.0, 0.9), RATE), Clip(tone(1000, 1.0, 0.1), RATE)
    scale = Scale.of([loud, short])
    assert (scale.duration_s, scale.peak) == (2.0, pytest.approx(0.9))
    alone, beside = (panel(short, LIGHT, Source.REAL, chosen) for chosen in (None, scale))
    blue = LIGHT.sources[Source.REAL]
    assert share_near(beside, blue) < 0.3 * share_near(alone, blue)


def test_the_waveform_has_the_colour_of_its_source_and_the_ground_is_transparent() -> None:
    for theme in (LIGHT, DARK):
        for source in Source:
            png = panel(Clip(tone(440), RATE), theme, source)
            assert share_near(png, theme.sources[source]) > 0.1
            assert pixels(png)[0, 0, 3] == 0


def test_panels_of_a_page_are_those_of_single_clips() -> None:
    page, clips = Panels(), [Clip(tone(440 * n, 0.5 * n, 0.2 * n), RATE) for n in (1, 2, 3)]
    together = Scale.of(clips)
    for scale in (together, None, together):
        for theme in (LIGHT, DARK):
            for clip in clips:
                drawn = page.draw(clip, theme, Source.GENERATED, scale or Scale.of([clip]))
                assert drawn == panel(clip, theme, Source.GENERATED, scale)


def test_axes_that_are_no_longer_kept_are_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spectrograms, "MAX_AXES", 1)
    page, clips = Panels(), [Clip(tone(440, 0.1 * n, 0.5), RATE) for n in (1, 2)]
    for clip in (*clips, clips[0]):
        assert page.draw(clip, LIGHT, Source.REAL, Scale.of([clip])) == panel(clip, LIGHT)


def test_panels_are_small_files() -> None:
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 5 * RATE)
    assert len(panel(Clip(noise, RATE), LIGHT)) < 60_000


def test_a_grid_has_a_row_a_class_and_a_column_a_source() -> None:
    rows = {
        "low": {source: Clip(tone(300), RATE) for source in Source},
        "high $\\frac$ <b>": {Source.GENERATED: Clip(tone(5000), RATE)},
    }
    one = pixels(spectrograms.spectrogram_grid({"low": rows["low"]}, LIGHT))
    two = pixels(spectrograms.spectrogram_grid(rows, LIGHT))
    assert two.shape[1] == one.shape[1]
    assert two.shape[0] - one.shape[0] == pytest.approx(0.8 * DOTS_PER_INCH, abs=2)
    lower_left, lower_right = two[one.shape[0] + 20 : -20, 250:500], two[one.shape[0] + 20 : -20, -300:-60]
    assert lower_left[..., 3].max() == 0
    assert lower_right[..., 3].min() == 255
    with pytest.raises(ValueError, match="at least one class"):
        spectrograms.spectrogram_grid({}, LIGHT)


def test_a_distribution_shows_the_sources_that_are_there() -> None:
    rng = np.random.default_rng(0)
    values = {Source.REAL: rng.normal(2000, 100, 80), Source.GENERATED: rng.normal(4000, 100, 90)}
    png = curves.metric_distribution(values, CLIP_METRICS[4], LIGHT)
    assert share_near(png, LIGHT.sources[Source.REAL]) > 0.001
    assert share_near(png, LIGHT.sources[Source.GENERATED]) > 0.001
    assert share_near(png, LIGHT.sources[Source.RESYNTHESIZED]) == 0
    image = pixels(png).astype(int)
    columns = [
        np.median(np.flatnonzero((np.abs(image[..., :3] - color).max(axis=-1) < 24).any(axis=0)))
        for color in ((15, 95, 166), (0, 133, 106))
    ]
    assert columns[0] < columns[1]


@pytest.mark.parametrize("values", [[3.0], [0.0, 0.0], [200.0] * 5, [-1e9, 1e9], [5e-324, 0.0]])
def test_distributions_of_odd_values_can_be_drawn(values: list[float]) -> None:
    png = curves.metric_distribution(
        {Source.REAL: np.array(values), Source.GENERATED: np.array([])}, CLIP_METRICS[0], DARK
    )
    assert share_near(png, DARK.sources[Source.REAL]) > 0


def test_a_distribution_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="snr_db: no values"):
        curves.metric_distribution({}, CLIP_METRICS[0], LIGHT)


def test_training_curves_read_the_text_of_a_csv_and_leave_gaps() -> None:
    rows = [
        {"epoch": str(i), "train_loss": f"{6 / i:.3f}", "val_loss": "" if i % 2 else f"{7 / i:.3f}", "lr": "nan"}
        for i in range(1, 9)
    ]
    png = curves.training_curves(rows, LIGHT)
    assert share_near(png, LIGHT.sources[Source.REAL]) > 0.001
    assert share_near(png, LIGHT.sources[Source.RESYNTHESIZED]) > 0.0005
    only_training = curves.training_curves([{"step": 10, "train_loss": 3.0, "lr": 1e-4}], LIGHT)
    assert share_near(only_training, LIGHT.sources[Source.RESYNTHESIZED]) == 0


@pytest.mark.parametrize(
    "rows", [[], [{"epoch": 1}], [{"train_loss": 2.0}], [{"epoch": 1, "train_loss": "", "val_loss": None}]]
)
def test_a_log_without_losses_is_refused(rows: list[dict[str, object]]) -> None:
    with pytest.raises(ValueError, match="'train_loss' or 'val_loss'"):
        curves.training_curves(rows, LIGHT)


def test_threads_draw_what_one_thread_draws() -> None:
    clips = [tone(200 * (i + 1), 0.3) for i in range(4)]

    def draw(x: np.ndarray) -> bytes:
        return panel(Clip(x, RATE), LIGHT)

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(draw, clips)) == [draw(x) for x in clips]


@pytest.mark.parametrize(("theme", "ground"), [(LIGHT, "#ffffff"), (DARK, "#181c23")])
def test_text_and_lines_stand_out_from_the_page(theme: Theme, ground: str) -> None:
    assert contrast(theme.text, ground) > 4.5
    assert all(contrast(color, ground) > 3 for color in theme.sources.values())


@pytest.mark.parametrize("theme", [LIGHT, DARK])
@pytest.mark.parametrize(
    "vision",
    [
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    ],
    ids=["deuteranopia", "protanopia"],
)
def test_the_sources_keep_apart_for_colour_blind_readers(theme: Theme, vision: list[list[float]]) -> None:
    """Machado, Oliveira and Fernandes (2009); a distance of 20 in CIELAB is plain to see."""
    seen = [lab(np.array(vision) @ linear_rgb(color)) for color in theme.sources.values()]
    assert min(np.linalg.norm(seen[i] - seen[j]) for i in range(3) for j in range(i)) > 20
