"""Joined sounds: what stays as it was, and that power neither dips nor rises in a cross-fade."""

import numpy as np

from soundstorm.audio.joining import closed, crossfade, fade_in, replaced

RATE, FADE = 24_000, 240


def white(num_samples: int, seed: int) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).standard_normal(num_samples)).astype(np.float32)


def test_the_two_halves_of_a_fade_hold_the_power() -> None:
    rising = fade_in(FADE).astype(np.float64)
    np.testing.assert_allclose(rising**2 + rising[::-1] ** 2, 1, atol=1e-6)
    mixed = np.mean([crossfade(white(FADE, seed), white(FADE, 1000 + seed)) ** 2 for seed in range(300)])
    assert abs(mixed / 0.01 - 1) < 0.02


def test_new_sound_takes_the_place_of_spans_and_every_other_sample_stays() -> None:
    recording, spans = white(10_000, 0), [(0, 1000), (3000, 3300), (9000, 10_000)]
    new = [white(end - first, 1 + number) for number, (first, end) in enumerate(spans)]
    result = replaced(recording, spans, new, RATE)
    outside = np.ones(10_000, bool)
    for first, end in spans:
        outside[first:end] = False
    np.testing.assert_array_equal(result[outside], recording[outside])
    np.testing.assert_array_equal(result[: 1000 - FADE], new[0][: 1000 - FADE])  # no fade where the recording begins
    np.testing.assert_array_equal(result[9000 + FADE :], new[2][FADE:])
    np.testing.assert_allclose(result[3000:3150], crossfade(recording[3000:3150], new[1][:150]), atol=1e-7)


def test_a_tone_that_is_closed_goes_on_where_it_begins_again() -> None:
    tone = np.sin(2 * np.pi * 440.3 * np.arange(24_000 + FADE) / RATE).astype(np.float32)
    loop, beyond = closed(tone[:24_000], tone[24_000:]), tone[24_000:]
    assert abs(loop[0] - beyond[0]) < 0.01
    np.testing.assert_array_equal(loop[FADE:], tone[FADE:24_000])
    step = np.abs(np.diff(np.concatenate([loop, loop])))
    assert step[23_990:24_010].max() < 1.1 * np.abs(np.diff(tone)).max()
    assert abs(tone[0] - tone[23_999]) > 3 * np.abs(np.diff(tone)).max()  # as it was, it clicked
