"""Views of a recording: what they change, what they keep, and which other recording is heard in them."""

from dataclasses import replace

import numpy as np
import pytest

import soundstorm.data.views
from soundstorm.audio.files import from_pcm16, to_pcm16
from soundstorm.data.views import (
    GAIN_DB,
    MIX_DB,
    MIX_SHARE,
    PEAK,
    SPEED_PERCENT,
    ViewSettings,
    choose_partner,
    make_view,
    view_settings,
)

RATE = 24_000
PLAIN = ViewSettings(
    speed_percent=100, start=0.0, gain_db=0.0, is_mixed=False, partner=0.0, partner_start=0.0, partner_db=0.0
)


def noise(num_samples: int, seed: int = 0) -> np.ndarray:
    return from_pcm16(to_pcm16(0.1 * np.random.default_rng(seed).standard_normal(num_samples)))


def tone(frequency_hz: float, amplitude: float = 0.1) -> np.ndarray:
    """One second of float32."""
    return (amplitude * np.sin(2 * np.pi * frequency_hz * np.arange(RATE) / RATE)).astype(np.float32)


def rms(waveform: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(waveform, dtype=np.float64))))


def view_with(
    waveform: np.ndarray, patch: pytest.MonkeyPatch, partner: np.ndarray | None = None, **settings: float
) -> np.ndarray:
    """The view that differs from the recording in these settings alone."""
    patch.setattr(soundstorm.data.views, "view_settings", lambda clip_id, view: replace(PLAIN, **settings))
    return make_view(waveform, "a", 1, partner)


# ---- which view is which


def test_view_0_is_the_recording_itself() -> None:
    waveform = noise(1000)
    np.testing.assert_array_equal(make_view(waveform, "a", 0, noise(1000, seed=1)), waveform)


def test_a_view_follows_from_its_clip_and_its_number_alone() -> None:
    waveform, partner = noise(1000), noise(700, seed=1)
    first = make_view(waveform, "a", 1, partner)
    np.testing.assert_array_equal(make_view(waveform, "a", 1, partner), first)
    assert not np.array_equal(make_view(waveform, "a", 2, partner), first)
    assert not np.array_equal(make_view(waveform, "b", 1, partner), first)
    assert view_settings("Möwe 鳥", 3) == view_settings("Möwe 鳥", 3) != view_settings("Möwe 鳥", 4)


def test_settings_fill_their_ranges() -> None:
    drawn = [view_settings(f"clip-{number}", view) for number in range(500) for view in (1, 2)]
    assert {settings.speed_percent for settings in drawn} == set(range(SPEED_PERCENT[0], SPEED_PERCENT[1] + 1))
    for low, high, values in (
        (*GAIN_DB, [settings.gain_db for settings in drawn]),
        (*MIX_DB, [settings.partner_db for settings in drawn]),
        (0.0, 1.0, [settings.start for settings in drawn]),
    ):
        assert low <= min(values) < low + 0.05 * (high - low)
        assert high - 0.05 * (high - low) < max(values) <= high
    assert sum(settings.is_mixed for settings in drawn) / 1000 == pytest.approx(MIX_SHARE, abs=0.04)


# ---- what a view changes


@pytest.mark.parametrize("speed_percent", SPEED_PERCENT)
def test_speed_moves_pitch_and_the_recording_goes_round(speed_percent: int, monkeypatch: pytest.MonkeyPatch) -> None:
    view = view_with(tone(1000), monkeypatch, speed_percent=speed_percent)
    spectrum = np.abs(np.fft.rfft(view))
    assert int(np.argmax(spectrum)) == 10 * speed_percent  # one second, so that a bin is 1 Hz
    assert len(view) == RATE
    assert rms(view[-100:]) == pytest.approx(rms(view), rel=0.1)  # no silence where the faster recording has ended


def test_a_shifted_view_is_the_recording_in_another_place(monkeypatch: pytest.MonkeyPatch) -> None:
    waveform = noise(1000)
    np.testing.assert_array_equal(view_with(waveform, monkeypatch, start=0.25), np.roll(waveform, -250))


def test_gain_is_in_decibels(monkeypatch: pytest.MonkeyPatch) -> None:
    waveform = noise(1000)
    assert rms(view_with(waveform, monkeypatch, gain_db=-4.0)) == pytest.approx(
        rms(waveform) * 10 ** (-4 / 20), rel=1e-3
    )


@pytest.mark.parametrize("partner_db", [-5.0, 0.0, 5.0])
def test_a_partner_is_heard_at_its_level_and_the_whole_at_that_of_the_recording(
    partner_db: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    view = view_with(tone(500), monkeypatch, tone(3000, amplitude=0.8), is_mixed=True, partner_db=partner_db)
    spectrum = np.abs(np.fft.rfft(view))
    assert 20 * np.log10(spectrum[3000] / spectrum[500]) == pytest.approx(partner_db, abs=0.05)
    assert rms(view) == pytest.approx(rms(tone(500)), rel=1e-3)


@pytest.mark.parametrize("length", [1, 300, 1000, 1700])
def test_a_partner_may_have_any_length(length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    partner = noise(length, seed=1)
    view = view_with(noise(1000), monkeypatch, partner, is_mixed=True, partner_start=0.5)
    heard = np.resize(np.roll(partner, -(length // 2)), 1000)
    assert np.corrcoef(view, noise(1000) / rms(noise(1000)) + heard / rms(heard))[0, 1] > 0.999


# ---- what a view keeps


@pytest.mark.parametrize("num_samples", [1, 2, 1_199, 24_000])
def test_a_view_has_the_length_of_the_recording_and_fits_into_16_bits(num_samples: int) -> None:
    waveform = noise(num_samples)
    for view in range(1, 20):
        made = make_view(waveform, "a", view, noise(500, seed=1))
        assert made.shape == waveform.shape and made.dtype == np.float32
        np.testing.assert_array_equal(from_pcm16(to_pcm16(made)), made)


def test_a_loud_view_is_scaled_and_not_clipped(monkeypatch: pytest.MonkeyPatch) -> None:
    view = view_with(tone(100, amplitude=1.0), monkeypatch, gain_db=4.0)
    assert np.abs(view).max() == pytest.approx(PEAK, abs=1e-4)
    assert np.corrcoef(view, tone(100))[0, 1] > 0.99999


def test_digital_silence_stays_digital_silence_whatever_its_partner() -> None:
    silence = np.zeros(1000, np.float32)
    assert not any(make_view(silence, "a", view, noise(1000)).any() for view in range(1, 30))
    for view in range(1, 30):
        np.testing.assert_array_equal(make_view(noise(1000), "a", view, silence), make_view(noise(1000), "a", view))


def test_recordings_that_cancel_out_are_defined(monkeypatch: pytest.MonkeyPatch) -> None:
    assert np.isfinite(view_with(noise(1000), monkeypatch, -noise(1000), is_mixed=True)).all()


# ---- partners


def test_a_partner_is_any_other_clip_of_the_group_and_none_in_the_other_views() -> None:
    group = sorted(f"clip-{number}" for number in range(5))
    partners = {(clip_id, view): choose_partner(clip_id, view, group) for clip_id in group for view in range(200)}
    for (clip_id, view), partner in partners.items():
        assert partner != clip_id
        assert (partner is not None) == (view > 0 and view_settings(clip_id, view).is_mixed)
    for clip_id in group:
        assert {partners[clip_id, view] for view in range(200)} == set(group) - {clip_id} | {None}


def test_a_clip_that_is_alone_in_its_group_has_no_partner() -> None:
    assert {choose_partner("a", view, ["a"]) for view in range(50)} == {None}
