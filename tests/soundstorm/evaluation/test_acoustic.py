"""The metrics against a plain transcription of their formulas, and against values known in closed form."""

import cmath
import math
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from soundstorm.errors import SoundStormError
from soundstorm.evaluation import acoustic as metrics
from soundstorm.evaluation.metric_info import METRIC_NAMES, PAIR_METRIC_NAMES

RATE = 24000
RNG = np.random.default_rng


def naive_dft_magnitudes(x: list[float]) -> list[float]:
    """|rFFT| by its definition, one sum a bin."""
    n = len(x)
    roots = [cmath.exp(-2j * cmath.pi * i / n) for i in range(n)]
    return [abs(sum(value * roots[k * i % n] for i, value in enumerate(x))) for k in range(n // 2 + 1)]


def plain_metrics(x: list[float], rate: int) -> dict[str, float]:
    """The table of formulas, transcribed with loops."""
    n = len(x)
    sign = [(value > 0) - (value < 0) for value in x]
    power = math.fsum(value**2 for value in x) / n
    change = math.fsum((x[i] - x[i - 1]) ** 2 for i in range(1, n)) / (n - 1)
    X = naive_dft_magnitudes(x)
    f = [k * rate / n for k in range(len(X))]
    total = math.fsum(X)
    p = [magnitude / total for magnitude in X]
    running, rolloff = 0.0, f[-1]
    for frequency, magnitude in zip(f, X, strict=True):
        running += magnitude
        if running >= 0.85 * total:
            rolloff = frequency
            break
    return {
        "snr_db": 10 * math.log10(power / change),
        "zero_crossing_rate": sum(abs(sign[i] - sign[i - 1]) for i in range(1, n)) / (2 * n),
        "rms": math.sqrt(power),
        "spectral_entropy": -math.fsum(share * math.log(share) for share in p if share > 0),
        "spectral_centroid_hz": math.fsum(frequency * magnitude for frequency, magnitude in zip(f, X, strict=True))
        / total,
        "spectral_rolloff_hz": rolloff,
    }


def plain_stft(x: np.ndarray) -> np.ndarray:
    """STFT magnitudes with the DFT written out as a matrix, frame by frame."""
    n = np.arange(2048)
    basis = np.exp(-2j * np.pi * (np.outer(np.arange(1025), n) % 2048) / 2048)
    window = np.array([math.sin(math.pi * i / 2048) ** 2 for i in range(2048)])
    padded = np.concatenate([np.zeros(1024), x, np.zeros(1024)])
    return np.stack(
        [np.abs(basis @ (padded[start : start + 2048] * window)) for start in range(0, len(x) + 1, 512)], axis=1
    )


def noise(length: int = 601, seed: int = 0) -> np.ndarray:
    return RNG(seed).uniform(-0.9, 0.9, length)


def bell(length: int = 700, seed: int = 1) -> np.ndarray:
    """A decaying chord over a noise floor, with digital silence before and after, in 16-bit steps."""
    t = np.arange(length) / RATE
    x = sum(np.sin(2 * np.pi * f * t) for f in (430, 1170, 3210)) * 0.25 * np.exp(-60 * t) + RNG(seed).normal(
        0, 1e-3, length
    )
    x[:60] = x[-90:] = 0
    return np.round(x * 32768) / 32768


def drone(length: int = 512, seed: int = 2) -> np.ndarray:
    """A low hum on a constant offset."""
    return 0.1 + 0.3 * np.sin(2 * np.pi * 61.7 * np.arange(length) / RATE) + RNG(seed).normal(0, 1e-4, length)


@pytest.mark.parametrize("make", [noise, bell, drone])
def test_the_six_metrics_equal_a_plain_transcription(make: Callable[[], np.ndarray]) -> None:
    x = make()
    assert metrics.clip_metrics(x, RATE) == pytest.approx(plain_metrics(x.tolist(), RATE), rel=1e-9)


@pytest.mark.parametrize("length", [2, 3, 8, 101, 600])
def test_the_transcription_holds_at_every_length(length: int) -> None:
    x = noise(length, seed=length)
    assert metrics.clip_metrics(x, RATE) == pytest.approx(plain_metrics(x.tolist(), RATE), rel=1e-9)


def test_the_transcription_holds_on_real_recordings() -> None:
    soundfile = pytest.importorskip("soundfile")
    default = Path(__file__).resolve().parents[4] / "shared/data"
    folder = Path(os.environ.get("SOUNDSTORM_TEST_DATA", default)) / "esc50/audio"
    paths = sorted(folder.glob("*.ogg"))[::500]
    if not paths:
        pytest.skip(f"no recordings in {folder}: set SOUNDSTORM_TEST_DATA to the folder that holds esc50")
    for path in paths:
        x = soundfile.read(path, dtype="int16")[0]
        x = x[np.flatnonzero(x)[0] :][:500]
        assert metrics.clip_metrics(x, 44100) == pytest.approx(plain_metrics((x / 32768).tolist(), 44100), rel=1e-9)


def test_pair_metrics_equal_a_plain_transcription() -> None:
    real = np.concatenate([np.zeros(5000), bell(3000), 0.2 * noise(2000)])
    generated = np.concatenate([0.3 * noise(4000, seed=5), np.zeros(6000)])
    S_real, S_generated = plain_stft(real), plain_stft(generated)
    convergence = math.sqrt(((S_real - S_generated) ** 2).sum()) / math.sqrt((S_real**2).sum())
    floor = np.vectorize(lambda magnitude: math.log(max(magnitude, 1e-5)))
    distance = math.sqrt(np.mean((floor(S_real) - floor(S_generated)) ** 2))
    assert metrics.spectral_convergence(real, generated) == pytest.approx(convergence, rel=1e-9)
    assert metrics.log_spectral_distance(real, generated) == pytest.approx(distance, rel=1e-9)


def test_int16_means_the_stored_values_over_32768() -> None:
    stored = RNG(3).integers(-32768, 32768, 4000).astype(np.int16)
    as_float = stored.astype(np.float64) / 32768
    assert metrics.clip_metrics(stored, RATE) == metrics.clip_metrics(as_float, RATE)
    assert metrics.log_spectral_distance(stored, stored[::-1]) == metrics.log_spectral_distance(
        as_float, as_float[::-1]
    )


def test_silence_has_zero_in_every_metric() -> None:
    assert metrics.clip_metrics(np.zeros(24000), RATE) == dict.fromkeys(METRIC_NAMES, 0.0)


def test_one_sample_has_a_level_and_zero_elsewhere() -> None:
    assert metrics.clip_metrics(np.array([-0.5]), RATE) == dict.fromkeys(METRIC_NAMES, 0.0) | {"rms": 0.5}
    assert metrics.clip_metrics(np.array([0], dtype=np.int16), RATE) == dict.fromkeys(METRIC_NAMES, 0.0)


def test_a_constant_clip_has_the_capped_snr_and_all_its_energy_at_0_hz() -> None:
    values = metrics.clip_metrics(np.full(1000, 0.25), RATE)
    assert values["snr_db"] == metrics.SNR_CAP_DB
    assert values["rms"] == 0.25
    assert values["spectral_entropy"] == pytest.approx(0, abs=1e-9)
    assert values["spectral_rolloff_hz"] == 0


def test_the_cap_of_snr_touches_no_other_16_bit_clip() -> None:
    x = np.full(720_000, -32768, dtype=np.int16)
    x[-1] += 1
    assert metrics.clip_metrics(x, RATE)["snr_db"] == pytest.approx(10 * math.log10(719_999 * 32768**2), rel=1e-5)


def test_a_click_has_a_flat_spectrum() -> None:
    x = np.zeros(1000)
    x[0] = 1.0
    values = metrics.clip_metrics(x, RATE)
    bins = 501
    assert values["snr_db"] == pytest.approx(10 * math.log10((1 / 1000) / (1 / 999)))
    assert values["zero_crossing_rate"] == pytest.approx(1 / 2000)
    assert values["rms"] == pytest.approx(math.sqrt(1 / 1000))
    assert values["spectral_entropy"] == pytest.approx(math.log(bins))
    assert values["spectral_centroid_hz"] == pytest.approx(6000)
    assert values["spectral_rolloff_hz"] == pytest.approx((math.ceil(0.85 * bins) - 1) * 24)


def test_white_noise_has_the_values_of_theory() -> None:
    values = metrics.clip_metrics(RNG(0).normal(0, 0.1, 400_000), RATE)
    assert values["snr_db"] == pytest.approx(
        10 * math.log10(0.5), abs=0.03
    )  # differences of independent samples have twice the power
    assert values["zero_crossing_rate"] == pytest.approx(0.5, abs=0.005)
    assert values["rms"] == pytest.approx(0.1, rel=0.01)
    # magnitudes R are Rayleigh distributed: E[R ln R] / E[R] - ln E[R] = 1 - gamma / 2 - ln(pi) / 2 = 0.139
    assert values["spectral_entropy"] == pytest.approx(
        math.log(200_001) - (1 - np.euler_gamma / 2 - math.log(math.pi) / 2), abs=0.002
    )
    assert values["spectral_centroid_hz"] == pytest.approx(6000, rel=0.01)
    assert values["spectral_rolloff_hz"] == pytest.approx(0.85 * 12000, rel=0.01)


def test_a_sine_on_a_bin_is_one_line() -> None:
    frequency_hz, amplitude = 1000, 0.5
    values = metrics.clip_metrics(amplitude * np.sin(2 * np.pi * frequency_hz * np.arange(RATE) / RATE + 0.1), RATE)
    assert values["rms"] == pytest.approx(amplitude / math.sqrt(2))
    assert values["snr_db"] == pytest.approx(
        -10 * math.log10(4 * math.sin(math.pi * frequency_hz / RATE) ** 2), abs=1e-3
    )
    assert values["zero_crossing_rate"] == pytest.approx(2 * frequency_hz / RATE, abs=2 / RATE)
    assert values["spectral_centroid_hz"] == pytest.approx(frequency_hz, abs=1e-3)
    assert values["spectral_rolloff_hz"] == frequency_hz
    assert values["spectral_entropy"] == pytest.approx(0, abs=1e-6)


def test_digital_silence_has_no_crossings_where_a_dithered_copy_has_many() -> None:
    silent_half = np.concatenate([0.3 * noise(12000), np.zeros(12000)])
    dithered = silent_half + np.where(np.arange(24000) % 2, 1, -1) * (silent_half == 0) / 32768
    assert metrics.clip_metrics(silent_half, RATE)["zero_crossing_rate"] == pytest.approx(0.25, abs=0.01)
    assert metrics.clip_metrics(dithered, RATE)["zero_crossing_rate"] == pytest.approx(0.75, abs=0.01)


def test_a_clip_paired_with_itself_is_at_distance_zero() -> None:
    x = bell(6000)
    assert metrics.spectral_convergence(x, x) == 0
    assert metrics.log_spectral_distance(x, x) == 0


def test_half_the_level_is_half_the_error_and_ln_2_apart() -> None:
    x = noise(8000)
    assert metrics.spectral_convergence(x, x / 2) == pytest.approx(0.5)
    assert metrics.log_spectral_distance(x, x / 2) == pytest.approx(math.log(2))


def test_pairs_are_compared_over_the_shorter_clip() -> None:
    x = noise(8000)
    longer = np.concatenate([x, bell(3000)])
    assert metrics.spectral_convergence(x, longer) == metrics.spectral_convergence(longer, x) == 0
    assert metrics.log_spectral_distance(longer, x) == 0


def test_silent_clips_in_pairs_have_defined_values() -> None:
    silence, sound = np.zeros(4096), noise(4096)
    assert metrics.spectral_convergence(silence, silence) == 0
    assert metrics.log_spectral_distance(silence, silence) == 0
    assert metrics.spectral_convergence(silence, sound) == metrics.SPECTRAL_CONVERGENCE_CAP
    assert metrics.spectral_convergence(sound, silence) == pytest.approx(1)
    log_above_floor = np.log(plain_stft(sound) / metrics.STFT_FLOOR)
    assert metrics.log_spectral_distance(silence, sound) == pytest.approx(
        math.sqrt(np.mean(log_above_floor**2)), rel=1e-9
    )


@pytest.mark.parametrize(
    "x",
    [
        np.zeros(1),
        np.ones(2),
        np.array([5e-324]),
        np.array([0.0, 5e-324, 0.0]),
        np.full(9, 1e-300),
        np.array([1.0, -1.0] * 50),
    ],
)
def test_odd_clips_give_finite_values_everywhere(x: np.ndarray) -> None:
    assert all(math.isfinite(value) for value in metrics.clip_metrics(x, RATE).values())
    for other in (np.zeros(1), np.ones(3), x):
        assert math.isfinite(metrics.spectral_convergence(x, other))
        assert math.isfinite(metrics.log_spectral_distance(x, other))


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.zeros(0), "no samples"),
        (np.zeros((2, 100)), r"shape \(2, 100\)"),
        (np.array([0.0, np.nan, np.inf]), "2 samples that are NaN or infinite"),
        (np.zeros(10, dtype=np.int64), "int64"),
    ],
)
def test_what_cannot_be_measured_is_refused_by_name(x: np.ndarray, message: str) -> None:
    with pytest.raises(SoundStormError, match=message):
        metrics.clip_metrics(x, RATE)
    with pytest.raises(SoundStormError, match="real clip .*" + message):
        metrics.spectral_convergence(x, np.ones(10))
    with pytest.raises(SoundStormError, match="generated clip .*" + message):
        metrics.log_spectral_distance(np.ones(10), x)


def test_the_names_are_those_of_the_tables() -> None:
    from soundstorm import schemas

    assert list(METRIC_NAMES) == schemas.METRICS.names[4:]
    assert list(PAIR_METRIC_NAMES) == schemas.PAIRS.names[2:]
