"""A small codec that is fitted once, to sounds made here."""

from dataclasses import replace

import numpy as np
import pytest

from soundstorm.audio.synthesis import CLASSES, synthesize
from soundstorm.codec import fitting
from soundstorm.codec.block_codec import BlockCodec
from soundstorm.codec.config import BlockCodecConfig, for_block

RATE = 24_000
SMALL_FITTING = fitting.FittingConfig(copies=2, pool_blocks=4_000, simple_sounds=0)


def small_config(frames_per_block: int = 2) -> BlockCodecConfig:
    """Three levels of 64 codes."""
    return replace(for_block(frames_per_block), num_levels=3, codebook_size=64, dims=40, beam=3)


@pytest.fixture(scope="session")
def sounds() -> list[np.ndarray]:
    """A clip of each synthetic class, float32, 1.3 s."""
    return [synthesize(category, 5, 1.3, RATE) for category in CLASSES]


@pytest.fixture(scope="session")
def small_codec(sounds: list[np.ndarray]) -> BlockCodec:
    config = small_config()
    state = fitting.fit_codebooks(fitting.pool_of(sounds, config, SMALL_FITTING), config, SMALL_FITTING)
    return fitting.finish(state, sounds[:2], config)
