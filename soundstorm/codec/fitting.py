"""Fits a block codec to recordings: collects a pool of blocks with varied loudness and spectral colour, finds the
principal axes, and then the codebooks level by level.

Every recording contributes the same maximum number of blocks, drawn with its own seed. Therefore the pool fits into
memory however many recordings there are, and it does not depend on which worker computes which part. `FittingState`
holds the levels found so far; a run that resumes from it finds the rest.

Legend: N samples, T mel frames, M mel bands, P blocks of the pool, V values of a block, D principal axes.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic.dataclasses import dataclass as checked

from soundstorm.audio.simple_sounds import simple_sounds
from soundstorm.codec import kmeans
from soundstorm.codec.block_codec import BlockCodec, BlockTables
from soundstorm.codec.blocks import POINT_STEPS, BlockSpace, find_space
from soundstorm.codec.codebooks import Codebooks, pack_centroids
from soundstorm.codec.config import BlockCodecConfig
from soundstorm.codec.log_mel import LogMel, mel_bank, mirrored, on_grid
from soundstorm.settings import Count, NotNegative, Settings

Packed = tuple[NDArray[np.int8], NDArray[np.int32]]
"""Quantized centroids of a level and their scale factors."""

GAIN_NATS = 0.8
"""Standard deviation of the random gain of a copy."""
SIMPLE_SOUND_S = 5.0
KNOTS, KNOT_NATS = 9, 0.35
"""Number of points of the smooth random equalizer, and the standard deviation of their gains."""


@checked(kw_only=True, frozen=True)
class FittingConfig(Settings):
    """Settings of the fit."""

    NAMED: ClassVar[str] = "--{option}"
    REMEDY: ClassVar[str] = "give"

    copies: Count = 4
    """Copies of each recording: the first is unchanged, the others have a random gain and equalization."""
    pool_blocks: Count = 450_000
    """Maximum number of blocks in the pool."""
    simple_sounds: NotNegative = 60
    """Synthetic tones and clicks of 5 s that are added to the recordings."""
    seed: NotNegative = 1
    """Seed of the variations, of the choice of blocks and of the initial centroids of k-means."""


@dataclass(kw_only=True, frozen=True)
class LevelReport:
    """Statistics of a level of the codebooks."""

    level: int
    error_nats: float
    """Root mean square error of the pool's log-mel values after this level, including the axes that are not
    quantized."""
    codes_in_use: float
    """Fraction of the codes that are the nearest of at least one block of the pool."""
    entropy_bits: float
    """Entropy of the codes in the pool."""


@dataclass
class FittingState:
    """Result so far; an interrupted run resumes from it."""

    space: BlockSpace | None = None
    packed: list[Packed] = field(default_factory=list)
    """Quantized centroids and scale factors of the finished levels."""
    reports: list[LevelReport] = field(default_factory=list)


def blocks_per_copy(num_recordings: int, config: FittingConfig) -> int:
    """Maximum number of blocks that each copy of a recording contributes."""
    return max(1, config.pool_blocks // (config.copies * max(1, num_recordings + config.simple_sounds)))


def pool_of_recording(
    waveform_N: NDArray, key: int, blocks: int, log_mel: LogMel, config: BlockCodecConfig, fitting: FittingConfig
) -> NDArray[np.float16]:
    """Blocks of all copies of a recording (P, V), float16, in nats.

    Args:
        waveform_N: float in [-1, 1].
        key: a unique number of the recording, which seeds its random choices.
        blocks: maximum number of blocks of each copy.
        log_mel: of the codec.
        config, fitting: settings of the codec and of its fit.
    """
    rng = np.random.default_rng([fitting.seed, key % (1 << 64)])
    pool = []
    for copy in range(fitting.copies):
        start = min(
            copy * config.block_hop // fitting.copies, len(waveform_N) - 1
        )  # copies begin at different offsets within a block
        nats_M = np.zeros(config.bands) if copy == 0 else _equalizer(rng, config.bands)
        power_TM = log_mel.power(mirrored(waveform_N[start:], config))
        varied_TM = np.log(np.sqrt(power_TM) * np.exp(nats_M) + config.floor)
        blocks_PV = varied_TM.reshape(-1, config.block_size)
        chosen = np.sort(rng.permutation(len(blocks_PV))[:blocks])
        pool.append(on_grid(blocks_PV[chosen]).astype(np.float16))
    return np.concatenate(pool)


def _equalizer(rng: np.random.Generator, bands: int) -> NDArray[np.float64]:
    """Random gain in nats of each band."""
    knots = rng.normal(0, KNOT_NATS, KNOTS)
    return rng.normal(0, GAIN_NATS) + np.interp(np.linspace(0, KNOTS - 1, bands), np.arange(KNOTS), knots)


def pool_of_simple_sounds(blocks: int, config: BlockCodecConfig, fitting: FittingConfig) -> NDArray[np.float16]:
    """The blocks (P, V) of the synthetic sounds, in the same form as `pool_of_recording`."""
    log_mel = LogMel(config, mel_bank(config))
    sounds = simple_sounds(fitting.simple_sounds, SIMPLE_SOUND_S, config.sample_rate, fitting.seed)
    pool = [pool_of_recording(sound_N, -key, blocks, log_mel, config, fitting) for key, sound_N in enumerate(sounds, 1)]
    return np.concatenate([np.zeros((0, config.block_size), np.float16), *pool])


def pool_of(waveforms: Sequence[NDArray], config: BlockCodecConfig, fitting: FittingConfig) -> NDArray[np.float16]:
    """The pool (P, V) of recordings in memory, and of the synthetic sounds."""
    log_mel = LogMel(config, mel_bank(config))
    blocks = blocks_per_copy(len(waveforms), fitting)
    pool = [pool_of_recording(wave_N, key, blocks, log_mel, config, fitting) for key, wave_N in enumerate(waveforms)]
    return np.concatenate([*pool, pool_of_simple_sounds(blocks, config, fitting)])


class CodebookFit:
    """Finds the principal axes of a pool, and then its codebooks, level by level.

    Args:
        pool_PV: blocks in nats.
        config, fitting: settings of the codec and of its fit.
        state: of an earlier run on the same pool, to resume from.
        device: device on which k-means runs.

    Raises:
        ValueError: the pool has fewer blocks than a level has codes.
    """

    def __init__(
        self,
        pool_PV: NDArray[np.float16],
        config: BlockCodecConfig,
        fitting: FittingConfig,
        state: FittingState | None = None,
        device: str = "cpu",
    ) -> None:
        if len(pool_PV) < config.codebook_size:
            raise ValueError(
                f"{len(pool_PV)} blocks cannot make {config.codebook_size} codes: give more recordings, or a smaller "
                "codebook"
            )
        self.config, self.fitting = config, fitting
        self.state = state or FittingState()
        self.state.space = self.state.space or find_space(pool_PV.astype(np.float32), config.dims)
        self._rest_PD, self._lost = _points(pool_PV, self.state.space)
        self._rest_PD = self._rest_PD.to(device)
        for packed in self.state.packed:
            self._subtract(packed)

    @property
    def is_finished(self) -> bool:
        return len(self.state.packed) == self.config.num_levels

    def step(self) -> LevelReport:
        """Fit the next level, add it to the state, and return its report."""
        level = len(self.state.packed)
        generator = torch.Generator().manual_seed(self.fitting.seed * 1000 + level)
        packed = pack_centroids(kmeans.fit(self._rest_PD, self.config.codebook_size, generator).cpu().numpy())
        cluster_P = self._subtract(packed)
        report = _report(level, self._rest_PD, self._lost, cluster_P, self.config)
        self.state.packed.append(packed)
        self.state.reports.append(report)
        return report

    def _subtract(self, packed: Packed) -> torch.Tensor:
        """Subtract the nearest centroid from each point; returns the indices of these centroids."""
        centroids_KD = torch.from_numpy((packed[0].astype(np.int32) * packed[1] / POINT_STEPS).astype(np.float32)).to(
            self._rest_PD.device
        )
        cluster_P = kmeans.nearest(self._rest_PD, centroids_KD)
        self._rest_PD -= centroids_KD[cluster_P]
        return cluster_P


def fit_codebooks(
    pool_PV: NDArray[np.float16],
    config: BlockCodecConfig,
    fitting: FittingConfig,
    state: FittingState | None = None,
    on_level: Callable[[LevelReport], None] = lambda report: None,
) -> FittingState:
    """Run a `CodebookFit` to its end and return its state; takes the same arguments. `on_level` is called with the
    report of each level."""
    fit = CodebookFit(pool_PV, config, fitting, state)
    while not fit.is_finished:
        on_level(fit.step())
    return fit.state


def _points(pool_PV: NDArray[np.float16], space: BlockSpace) -> tuple[torch.Tensor, float]:
    """Points (P, D) in nats, float32, and the mean squared norm of what the principal axes do not represent, per
    block."""
    parts, total, kept = [], 0.0, 0.0
    for part_PV in np.array_split(pool_PV, max(1, len(pool_PV) // 20_000)):
        blocks_PV = part_PV.astype(np.float64)
        points_PD = (space.points(blocks_PV.reshape(-1, blocks_PV.shape[1])) / POINT_STEPS).astype(np.float32)
        total += float(np.square(blocks_PV - space.center_V).sum())
        kept += float(np.square(points_PD, dtype=np.float64).sum())
        parts.append(torch.from_numpy(points_PD))
    return torch.cat(parts), max(0.0, total - kept) / len(pool_PV)


def _report(
    level: int, rest_PD: torch.Tensor, lost: float, cluster_P: torch.Tensor, config: BlockCodecConfig
) -> LevelReport:
    left = float(rest_PD.square().sum(1, dtype=torch.float64).mean()) + lost
    share_K = torch.bincount(cluster_P, minlength=config.codebook_size).double() / len(cluster_P)
    used_K = share_K[share_K > 0]
    return LevelReport(
        level=level,
        error_nats=math.sqrt(left / config.block_size),
        codes_in_use=len(used_K) / config.codebook_size,
        entropy_bits=float(-(used_K * used_K.log2()).sum()),
    )


def finish(state: FittingState, held_out: Iterable[NDArray], config: BlockCodecConfig) -> BlockCodec:
    """The finished codec; its texture is measured on waveforms that the codebooks were not fitted to.

    Raises:
        ValueError: there is no such waveform.
    """
    assert state.space is not None and len(state.packed) == config.num_levels
    codebooks = Codebooks(
        np.stack([codes for codes, _ in state.packed]), np.stack([multiplier for _, multiplier in state.packed])
    )
    bank_FM = mel_bank(config)
    codec = BlockCodec(config, BlockTables(bank_FM, state.space, codebooks, np.zeros(config.bands, np.float32)))
    squares_M, frames = np.zeros(config.bands), 0.0
    for waveform_N in held_out:
        true_TM = codec.log_mel(waveform_N)
        lost_TM = codec.decode_log_mel(codec.encode_log_mel(true_TM)) - true_TM
        above_TM = np.maximum(1 - config.floor * np.exp(-true_TM), 0)
        squares_M += np.square(lost_TM).sum(0)
        frames += np.square(above_TM).sum(0)
    if not np.any(frames):
        raise ValueError("there are no held-out recordings to measure the codec's texture on")
    texture_M = np.sqrt(squares_M / np.maximum(frames, 1)).astype(np.float32)
    return BlockCodec(config, BlockTables(bank_FM, state.space, codebooks, texture_M))
