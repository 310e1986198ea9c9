"""Procedural sounds of ten environmental classes, which differ in spectrum and in temporal structure, for a dataset in
ESC-50's layout.

The dataset needs no download, so the demo uses it by default, and the tests use it as a fixture. A clip depends only on
its class and its seed.
"""

from collections.abc import Callable

import numpy as np
from scipy import fft

from soundstorm.errors import SoundStormError

SYNTHETIC_RATE = 44_100
"""Samples per second of the files that `write_dataset` writes, as in ESC-50."""
MIN_RATE = 16_000
"""The highest partials lie just below 8 kHz, so a lower rate cannot represent them."""

_FLOOR = 3e-4
"""Amplitude of the faint noise in every clip (-70 dB): a real microphone never records digital silence."""
_EDGE_S = 0.004


def synthesize(category: str, seed: int, duration_s: float = 5.0, sample_rate: int = SYNTHETIC_RATE) -> np.ndarray:
    """One clip of `category` (see `CLASSES`), float32 (N,), its peak between 0.3 and 0.9.

    Raises:
        SoundStormError: the class is unknown, the seed is negative, the clip is shorter than 0.05 s or the rate is
            below 16 kHz.
    """
    if category not in _RECIPES:
        raise SoundStormError(f"class '{category}' is not synthetic: choose one of {', '.join(CLASSES)}")
    if seed < 0:
        raise SoundStormError(f"seed {seed} is negative: choose a whole number from 0")
    if not duration_s >= 0.05:
        raise SoundStormError(f"duration {duration_s} s is too short for a synthetic clip: choose at least 0.05 s")
    if sample_rate < MIN_RATE:
        raise SoundStormError(
            f"sample rate {sample_rate} Hz is too low for synthetic clips: choose at least {MIN_RATE} Hz"
        )
    rng = np.random.default_rng((seed, CLASSES.index(category)))
    time_s = np.arange(round(duration_s * sample_rate)) / sample_rate
    sound = _RECIPES[category](time_s, sample_rate, rng)
    peak = rng.uniform(0.3, 0.9)
    sound = sound * (peak / np.abs(sound).max()) + _FLOOR * rng.standard_normal(len(sound))
    sound *= np.clip(np.minimum(time_s, time_s[::-1]) / _EDGE_S, 0.0, 1.0)
    return (sound * (peak / np.abs(sound).max())).astype(np.float32)


def _shaped_noise(
    time_s: np.ndarray, sample_rate: int, rng: np.random.Generator, gain: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """Gaussian noise of unit RMS whose amplitude spectrum follows `gain(frequency_hz)`."""
    num_samples = len(time_s)
    size = fft.next_fast_len(num_samples, real=True)
    spectrum = fft.rfft(rng.standard_normal(size)) * gain(fft.rfftfreq(size, 1 / sample_rate))
    noise = fft.irfft(spectrum, size)[:num_samples]
    return noise / np.sqrt(np.mean(noise**2))


def _band(low_hz: float, high_hz: float, slope: float = 4.0) -> Callable[[np.ndarray], np.ndarray]:
    """A band-pass gain with skirts of 6 dB per octave times `slope`."""

    def gain(frequency_hz: np.ndarray) -> np.ndarray:
        frequency_hz = np.maximum(frequency_hz, 1e-3)
        return 1 / np.sqrt((1 + (low_hz / frequency_hz) ** (2 * slope)) * (1 + (frequency_hz / high_hz) ** (2 * slope)))

    return gain


def _wander(time_s: np.ndarray, rng: np.random.Generator, speed_hz: float) -> np.ndarray:
    """A smooth random curve in [0, 1] that turns about `speed_hz` times a second."""
    num_points = int(np.ceil(time_s[-1] * speed_hz * 2)) + 4
    points = rng.uniform(0.0, 1.0, num_points)
    position = time_s * speed_hz * 2 + rng.uniform(0.0, 1.0)
    left = position.astype(np.int64)
    blend = 0.5 - 0.5 * np.cos(np.pi * (position - left))
    return points[left] * (1 - blend) + points[left + 1] * blend


def _place(num_samples: int, sample_rate: int, events: list[tuple[float, np.ndarray]]) -> np.ndarray:
    """The sum of short sounds, each given with its start in seconds; sounds are cut at the end of the clip."""
    sound = np.zeros(num_samples)
    for start_s, grain in events:
        start = int(start_s * sample_rate)
        if start < num_samples:
            end = min(num_samples, start + len(grain))
            sound[start:end] += grain[: end - start]
    return sound


def _ring(sample_rate: int, frequencies_hz: np.ndarray, decays_s: np.ndarray, gains: np.ndarray) -> np.ndarray:
    """A struck object: decaying partials."""
    time_s = np.arange(int(7 * decays_s.max() * sample_rate) + 1) / sample_rate
    partials = np.sin(2 * np.pi * frequencies_hz[:, None] * time_s) * np.exp(-time_s / decays_s[:, None])
    return gains @ partials


def _convolve(x_N: np.ndarray, kernel_K: np.ndarray) -> np.ndarray:
    """The whole linear convolution, (N + K - 1,)."""
    length = len(x_N) + len(kernel_K) - 1
    size = fft.next_fast_len(length, real=True)
    return fft.irfft(fft.rfft(x_N, size) * fft.rfft(kernel_K, size), size)[:length]


def _rain(time_s: np.ndarray, sample_rate: int, rng: np.random.Generator) -> np.ndarray:
    """A hiss with hundreds of drops a second in it; its strength hardly changes."""
    hiss = _shaped_noise(time_s, sample_rate, rng, _band(rng.uniform(600, 1500), rng.uniform(6000, 11000), 1.5))
    hits = np.where(
        rng.random(len(time_s)) < rng.uniform(150, 700) / sample_rate, rng.standard_normal(len(time_s)), 0.0
    )
    drop = _ring(sample_rate, rng.uniform(2000, 7000, 4), rng.uniform(0.0008, 0.003, 4), np.ones(4))
    drops = _convolve(hits, drop)[: len(time_s)]
    return hiss * (0.8 + 0.2 * _wander(time_s, rng, 0.5)) + rng.uniform(0.5, 1.5) * drops


def _wind(time_s: np.ndarray, sample_rate: int, rng: np.random.Generator) -> np.ndarray:
    """A low rumble in gusts; strong gusts whistle."""
    gusts = _wander(time_s, rng, rng.uniform(0.3, 0.9)) ** 1.5
    rumble = _shaped_noise(time_s, sample_rate, rng, _band(40, rng.uniform(180, 400), 1.5))
    pitch_hz = rng.uniform(350, 800)
    whistle = _shaped_noise(time_s, sample_rate, rng, _band(pitch_hz * 0.93, pitch_hz * 1.07, 6.0))
    return rumble * (0.15 + gusts) + rng.uniform(0.1, 0.4) * whistle * gusts**2


def _clock(time_s: np.ndarray, sample_rate: int, rng: np.random.Generator) -> np.ndarray:
    """A regular tick and tock."""
    period_s = 1 / rng.uniform(1.5, 5.0)
    tick_hz = rng.uniform(1800, 4500, 5)
    decays_s, gains = rng.uniform(0.002, 0.012, 5), rng.uniform(0.3, 1.0, 5)
    ticks = [
        _ring(sample_rate, tick_hz * detune, decays_s, gains * gain)
        for detune, gain in ((1.0, 1.0), (rng.uniform(0.75, 0.9), 0.7))
    ]
    starts_s = np.arange(rng.uniform(0, min(period_s, 0.1 * time_s[-1])), time_s[-1], period_s)
    return _place(len(time_s), sample_rate, [(start_s, ticks[index % 2]) for index, start_s in enumerate(starts_s)])


def _siren(time_s: np.ndarray, sample_rate: int, rng: np.random.Generator) -> np.ndarray:
    """A loud tone that wails (slow), yelps (fast) or alternates between two pitches."""
    low_hz = rng.uniform(450, 750)
    high_hz = low_hz * rng.uniform(1.5, 2.3)
    kind = rng.integers(3)
    speed_hz = (rng.uniform(0.2, 0.5), rng.uniform(2.5, 5.0), rng.uniform(0.8, 1.6))[kind]
    swing = 0.5 + 0.5 * np.sin(2 * np.pi * (speed_hz * time_s + rng.random()))
    if kind == 2:
        swing = 1 / (1 + np.exp(-60 * (swing - 0.5)))
    phase = 2 * np.pi * np.cumsum(low_hz + (high_hz - low_hz) * swing) / sample_rate
    partials = rng.uniform(0.5, 1.0, 4) / np.array([1, 2, 3, 4])
    return sum((gain * np.sin((index + 1) * phase) for index, gain in enumerate(partials)), np.zeros(len(time_s)))


def _engine(time_s: np.ndarray, sample_rate: int, rng: np.random.Generator) -> np.ndarray:
    """A buzz of many harmonics on a drifting low pitch, and exhaust noise that follows the firing."""
    base_hz = rng.uniform(28, 75)
    speed_hz = base_hz * (1 + rng.uniform(0.02, 0.35) * _wander(time_s, rng, rng.uniform(0.2, 0.8)))
    cycles = np.cumsum(speed_hz) / sample_rate
    partials = np.arange(1, 25)
    gains, offsets = rng.uniform(0.2, 1.0, 24) / np.sqrt(partials), rng.uniform(0, 2 * np.pi, 24)
    position = np.linspace(0.0, 1.0, 2049)
    one_cycle = gains @ np.sin(2 * np.pi * partials[:, None] * position + offsets[:, None])
    buzz = np.interp(cycles % 1.0, position, one_cycle)
    exhaust = (
        _shaped_noise(time_s, sample_rate, rng, _band(100, rng.uniform(500, 1500), 2.0))
        * (1 + np.sin(2 * np.pi * cycles)) ** 2
    )
    return buzz + rng.uniform(0.1, 0.4) * exhaust


def _crickets(time_s: np.ndarray, sample_rate: int, rng: np.random.Generator) -> np.ndarray:
    """One to three insects, each repeating a short chirp of a few pulses at its own pitch around 4.5 kHz."""
    sound = np.zeros(len(time_s))
    for _ in range(rng.integers(1, 4)):
        pitch_hz, pulse_rate_hz = rng.uniform(3500, 6000), rng.uniform(25, 60)
        chirp_s = rng.integers(3, 7) / pulse_rate_hz
        period_s = chirp_s + rng.uniform(0.15, 0.6)
        since_chirp_s = (time_s + rng.uniform(0, chirp_s / 2)) % period_s
        pulses = np.sin(np.pi * since_chirp_s * pulse_rate_hz) ** 2 * (since_chirp_s < chirp_s)
        carrier = np.sin(2 * np.pi * pitch_hz * (time_s + 2e-5 * np.sin(np.pi * since_chirp_s / chirp_s)))
        sound += rng.uniform(0.3, 1.0) * pulses * carrier
    return sound


def _knocks(time_s: np.ndarray, sample_rate: int, rng: np.random.Generator) -> np.ndarray:
    """Groups of two to six knocks on wood, with pauses between the groups."""
    panel_hz, decays_s = rng.uniform(90, 260) * np.array([1.0, 1.6, 2.3, 3.4, 5.1]), rng.uniform(0.012, 0.05, 5)
    gap_s = rng.uniform(0.12, 0.3)
    events = []
    start_s = rng.uniform(0.0, 0.1 * time_s[-1])
    while start_s < time_s[-1]:
        for _ in range(rng.integers(2, 7)):
            knock = _ring(sample_rate, panel_hz, decays_s, rng.uniform(0.3, 1.0, 5))
            click = rng.standard_normal(len(knock)) * np.exp(-np.arange(len(knock)) / (0.002 * sample_rate))
            events.append((start_s, rng.uniform(0.6, 1.0) * (knock + 0.3 * click)))
            start_s += gap_s * rng.uniform(0.85, 1.15)
        start_s += rng.uniform(0.5, 1.5)
    return _place(len(time_s), sample_rate, events)


def _drips(time_s: np.ndarray, sample_rate: int, rng: np.random.Generator) -> np.ndarray:
    """Single drops in a basin: short tones that rise in pitch, at irregular times, each with an echo."""
    rate_hz, base_hz, echo_s = rng.uniform(1.5, 6.0), rng.uniform(500, 1100), rng.uniform(0.05, 0.15)
    grain_s = np.arange(int(0.25 * sample_rate)) / sample_rate
    events = []
    start_s = rng.uniform(0.0, 0.1 * time_s[-1])
    while start_s < time_s[-1]:
        pitch_hz = base_hz * rng.uniform(0.8, 1.6)
        rise = rng.uniform(4, 12)
        tone = np.sin(2 * np.pi * pitch_hz * (grain_s + rise * grain_s**2 / 2)) * np.exp(
            -grain_s / rng.uniform(0.015, 0.045)
        )
        level = rng.uniform(0.4, 1.0)
        events += [(start_s, level * tone), (start_s + echo_s, 0.25 * level * tone)]
        start_s += 0.06 + rng.exponential(1 / rate_hz)
    return _place(len(time_s), sample_rate, events)


def _waves(time_s: np.ndarray, sample_rate: int, rng: np.random.Generator) -> np.ndarray:
    """Surf: each wave swells slowly, breaks brightly and runs out, over a constant roar."""
    period_s = rng.uniform(3.0, 7.0)
    cycle = (time_s / period_s + rng.random()) % 1.0
    crest = rng.uniform(0.45, 0.65)
    swell = np.where(
        cycle < crest, (cycle / crest) ** 3, np.exp(-4 * (cycle - crest) / (1 - crest)) * (1 - cycle) / (1 - crest)
    )
    roar = _shaped_noise(time_s, sample_rate, rng, _band(60, rng.uniform(300, 700), 0.8))
    foam = _shaped_noise(time_s, sample_rate, rng, _band(rng.uniform(500, 1000), rng.uniform(3000, 6000), 1.0))
    return roar * (0.25 + 0.6 * swell) + foam * swell**1.5 * rng.uniform(0.7, 1.4)


def _helicopter(time_s: np.ndarray, sample_rate: int, rng: np.random.Generator) -> np.ndarray:
    """Rotor blades that chop low noise eight to twenty times a second, under the whine of a turbine."""
    blade_rate_hz = rng.uniform(8, 20)
    cycle = (blade_rate_hz * time_s + rng.random()) % 1.0
    chop = np.exp(-cycle * rng.uniform(4, 9)) * np.minimum(1.0, cycle / 0.03)
    thump = _shaped_noise(time_s, sample_rate, rng, _band(40, rng.uniform(150, 350), 1.5))
    slap = _shaped_noise(time_s, sample_rate, rng, _band(300, rng.uniform(1000, 2500), 2.0))
    whine_hz = rng.uniform(1200, 2800)
    whine = np.sin(2 * np.pi * whine_hz * time_s + 3 * _wander(time_s, rng, 0.5))
    distance = 0.6 + 0.4 * _wander(time_s, rng, 0.2)
    return distance * (thump * (0.1 + chop) + rng.uniform(0.3, 0.8) * slap * chop + rng.uniform(0.02, 0.08) * whine)


_RECIPES: dict[str, Callable[[np.ndarray, int, np.random.Generator], np.ndarray]] = {
    "clock": _clock,
    "crickets": _crickets,
    "drips": _drips,
    "engine": _engine,
    "helicopter": _helicopter,
    "knocks": _knocks,
    "rain": _rain,
    "siren": _siren,
    "waves": _waves,
    "wind": _wind,
}

CLASSES: tuple[str, ...] = tuple(_RECIPES)
"""Names of the synthetic classes; a class's label is its position."""
