"""Probes of a codec, with codecs that are known to be right or wrong in one respect."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from soundstorm.codec.codec import Codec
from soundstorm.codec.probes import click_crest_db, probe_clicks, probe_sine, silence_is_exact, tonal_crest_db
from soundstorm.schemas import CodecFingerprint

RATE = 24_000


def _codec(change: Callable[[np.ndarray], np.ndarray]) -> Codec:
    """A codec whose codes are the samples, which `change` gets before they are given back."""

    class Kept:
        device, hop, latent_rate, codebooks = torch.device("cpu"), 8, 1.0, torch.zeros(1, 2, 1)

        def encode_batch(self, waveform_B1N: Tensor) -> Tensor:
            self.sound_BN = waveform_B1N[:, 0].numpy()
            return torch.zeros(len(waveform_B1N), 1, waveform_B1N.shape[2] // 8, dtype=torch.int64)

        def decode_batch(self, codes_BQT: Tensor, seeds: object) -> Tensor:
            return torch.from_numpy(np.stack([change(wave_N.astype(np.float64)) for wave_N in self.sound_BN])).float()[
                :, None
            ]

        def latents(self, waveform_BN: Tensor) -> Tensor:
            return waveform_BN[:, None]

    fingerprint = CodecFingerprint(
        name="same", sha256="0" * 64, sample_rate=RATE, frame_rate=RATE // 8, num_levels=1, codebook_size=2
    )
    return Codec(Kept(), fingerprint)


def test_a_codec_that_changes_nothing_passes_every_probe() -> None:
    codec = _codec(lambda wave_N: wave_N)
    sine, clicks = probe_sine(codec, 1_000), probe_clicks(codec)
    assert abs(sine.level_db) < 0.05 and abs(sine.peak_hz) < 1 and sine.beside_db < -80
    assert (clicks.found, clicks.clicks, clicks.furthest_samples) == (10, 10, 0)
    assert silence_is_exact(codec)


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_a_change_of_level_is_told_in_decibels(factor: float) -> None:
    assert abs(probe_sine(_codec(lambda wave_N: factor * wave_N), 440).level_db - 20 * np.log10(factor)) < 0.05


def test_noise_beside_a_sine_is_told_in_decibels() -> None:
    noise_N = 0.01 * np.random.default_rng(0).standard_normal(3 * RATE)
    beside_db = probe_sine(_codec(lambda wave_N: wave_N + noise_N), 4_000).beside_db
    assert abs(beside_db - (-20 + 10 * np.log10(1 - 600 / 12_000))) < 0.5


def test_clicks_that_come_late_or_not_at_all_are_not_found() -> None:
    assert probe_clicks(_codec(lambda wave_N: np.roll(wave_N, 400))).found == 0
    assert probe_clicks(_codec(lambda wave_N: np.where(np.arange(len(wave_N)) < RATE, wave_N, 0))).found == 5


def test_one_step_of_noise_is_no_silence() -> None:
    assert not silence_is_exact(_codec(lambda wave_N: wave_N + 1 / 32_768))


def test_a_chord_is_more_tonal_than_noise_and_clicks_stand_out_more_than_either() -> None:
    time_s = np.arange(2 * RATE) / RATE
    chord_N = sum(0.05 * np.sin(2 * np.pi * hz * time_s) for hz in np.geomspace(80, 10_000, 22))
    noise_N = 0.1 * np.random.default_rng(0).standard_normal(2 * RATE)
    clicks_N = np.zeros(2 * RATE)
    clicks_N[::1_024] = 0.8
    assert tonal_crest_db(chord_N, RATE) > tonal_crest_db(noise_N, RATE) + 3
    assert click_crest_db(clicks_N) == pytest.approx(10 * np.log10(16), abs=0.01)
    assert click_crest_db(noise_N) < 4
    assert tonal_crest_db(np.zeros(RATE), RATE) is None and click_crest_db(np.zeros(RATE)) is None
