"""The way back to sound, from log-mel spectra that no code has touched."""

import numpy as np
import pytest

from soundstorm.audio.files import to_pcm16
from soundstorm.codec import streaming
from soundstorm.codec.config import for_block
from soundstorm.codec.log_mel import LogMel, mel_bank, mirrored
from soundstorm.codec.streaming import sample_windows
from soundstorm.codec.synthesis import Synthesis

RATE = 24_000
CONFIG = for_block(1)
BANK_FM = mel_bank(CONFIG)
LOG_MEL = LogMel(CONFIG, BANK_FM)
SYNTHESIS = Synthesis(CONFIG, BANK_FM)
TEXTURE = 0.2


def _again(waveform_N: np.ndarray, texture: float = 0.0, seed: int = 0, part: int = 10**9) -> np.ndarray:
    log_mel_TM = LOG_MEL(mirrored(waveform_N, CONFIG))
    parts = [log_mel_TM[start : start + part] for start in range(0, len(log_mel_TM), part)]

    def synthesis(frames_TM: np.ndarray, first: int) -> np.ndarray:
        return SYNTHESIS(frames_TM, first, seed, np.full(80, texture))

    windows = sample_windows(parts, SYNTHESIS.reach, synthesis)
    return np.concatenate(list(windows))[: len(waveform_N)]


def _level_db(waveform_N: np.ndarray) -> float:
    return float(10 * np.log10(np.square(waveform_N).mean()))


def _noise(duration_s: float, scale: float = 0.1) -> np.ndarray:
    return scale * np.random.default_rng(0).standard_normal(round(duration_s * RATE))


@pytest.mark.parametrize("hz", [440, 1_000, 4_000])
def test_a_sine_keeps_its_level_and_pitch_and_little_lies_beside_it(hz: int) -> None:
    sine_N = 0.1 * np.sqrt(2) * np.sin(2 * np.pi * hz * np.arange(3 * RATE) / RATE)
    made_N = _again(sine_N)[RATE // 4 : -RATE // 4]
    power_F = np.square(np.abs(np.fft.rfft(made_N * np.hanning(len(made_N)))))
    at_hz = np.fft.rfftfreq(len(made_N), 1 / RATE)
    assert abs(_level_db(made_N) - _level_db(sine_N)) < 2
    assert abs(at_hz[power_F.argmax()] - hz) < 40
    beside = power_F[np.abs(at_hz - hz) > 300].sum()
    assert 10 * np.log10(power_F.sum() / beside) > 20


def test_noise_keeps_its_level() -> None:
    noise_N = _noise(2.0)
    assert abs(_level_db(_again(noise_N)) - _level_db(noise_N)) < 0.5


def test_clicks_stay_where_they_are() -> None:
    clicks_N = np.zeros(2 * RATE)
    places = np.arange(1_000, 2 * RATE, RATE // 5)
    clicks_N[places] = 0.8
    made_N = np.abs(_again(clicks_N))
    for place in places:
        near_N = made_N[place - 2_000 if place > 2_000 else 0 : place + 2_000]
        peak = near_N.argmax() + max(0, place - 2_000)
        assert abs(peak - place) <= 320
        assert near_N.max() > 0.05


def test_digital_silence_comes_back_as_digital_silence_also_between_sounds() -> None:
    clip_N = np.concatenate([_noise(0.5), np.zeros(RATE), _noise(0.5)])
    pcm_N = to_pcm16(_again(clip_N, TEXTURE))
    assert not pcm_N[RATE // 2 + 640 : 3 * RATE // 2 - 640].any()
    assert np.abs(pcm_N[: RATE // 2 - 640]).min() >= 0 and np.abs(pcm_N[: RATE // 2]).max() > 1_000
    assert not to_pcm16(_again(np.zeros(RATE), TEXTURE)).any()


def test_noise_of_one_step_of_a_16_bit_file_does_not_vanish() -> None:
    quiet_N = to_pcm16(_noise(1.0, 1.5 / 32_768)) / 32_768
    pcm_N = to_pcm16(_again(quiet_N))
    assert 0.5 < pcm_N.std() / (quiet_N * 32_768).std() < 1.5


@pytest.mark.parametrize("frames", [1, 2, 191, 192, 193, 215, 217, 500])
def test_frames_that_come_in_parts_give_the_samples_of_the_whole(frames: int) -> None:
    noise_N = _noise(frames * 320 / RATE)
    whole_N = _again(noise_N, TEXTURE, seed=3)
    assert len(whole_N) == frames * 320
    for part in (1, 50, 200):
        np.testing.assert_array_equal(_again(noise_N, TEXTURE, 3, part), whole_N)


def test_windows_of_any_length_give_the_same_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    noise_N = _noise(8.0)
    expected = to_pcm16(_again(noise_N, TEXTURE, seed=3))
    for frames in (28, 600):
        monkeypatch.setattr(streaming, "DECODED_FRAMES", frames)
        np.testing.assert_array_equal(to_pcm16(_again(noise_N, TEXTURE, seed=3)), expected)


def test_another_seed_gives_another_sound_of_the_same_spectrum() -> None:
    noise_N = _noise(1.0)
    one_N, two_N = _again(noise_N, TEXTURE, seed=1), _again(noise_N, TEXTURE, seed=2)
    assert abs(np.corrcoef(one_N, two_N)[0, 1]) < 0.1
    assert abs(_level_db(one_N) - _level_db(two_N)) < 0.5
