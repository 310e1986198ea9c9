"""At which levels a generator loses accuracy: the first N levels keep the true codes of recordings, the generator or
noise replaces the others, and a classifier classifies the sound.

The accuracy with all true codes is the upper bound for any generator with this codec. The accuracy with N true levels
shows what the generator loses at the levels above. "noise": codes are sampled by their frequency at that level in the
recordings. "left out": the codec decodes the first N levels alone.

Legend: B batch, Q levels, T frames of codes, N samples.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import torch

from soundstorm.audio.files import SAMPLE_RATE, from_pcm16, to_pcm16
from soundstorm.audio.limiter import within_full_scale
from soundstorm.codec.codec import Codec
from soundstorm.codec.quality import log_mel_distance
from soundstorm.data.categories import normalized
from soundstorm.generation.decoding import Known, generate_codes
from soundstorm.generation.reranking import Classifier
from soundstorm.model.config import SamplerSettings
from soundstorm.model.generators import GeneratorNetwork
from soundstorm.optimization.precision import Precision, uses_bf16

KEPT_LEVELS = (0, 1, 2, 4, 8)
"""Default numbers of true levels."""
BATCH = 10
"""Batch size of the generator."""


class Rest(StrEnum):
    """What replaces the true codes above the kept levels."""

    RECORDING = "recording"
    """Nothing: the recordings themselves, without the codec."""
    CODEC = "codec"
    """Nothing: all codes are true codes."""
    GENERATOR = "generator"
    LEFT_OUT = "left out"
    NOISE = "noise"


@dataclass(kw_only=True, frozen=True)
class Case:
    """One way to replace codes of the recordings."""

    kept: int
    """Number of levels, from the first, that keep their true codes."""
    rest: Rest


@dataclass(kw_only=True, frozen=True)
class Outcome:
    """One line of the table."""

    case: Case
    named: float | None
    """Accuracy: fraction of the clips classified as the recording's class. None: the classifier does not know all
    classes."""
    log_mel: float
    """Mean log-mel distance from the recordings, nats."""
    clips: int


def cases(num_levels: int, generated: int, kept_levels: Sequence[int] = KEPT_LEVELS) -> list[Case]:
    """The lines of the table, in order.

    Args:
        num_levels: levels of the codec.
        generated: levels of the generator; above them the codec substitutes noise.
        kept_levels: numbers of true levels to test; those that the codec does not have are ignored.
    """
    found = [Case(kept=num_levels, rest=Rest.RECORDING), Case(kept=num_levels, rest=Rest.CODEC)]
    for kept in sorted({kept for kept in kept_levels if kept < num_levels}):
        if kept < generated:
            found.append(Case(kept=kept, rest=Rest.GENERATOR))
        if kept > 0:
            found.append(Case(kept=kept, rest=Rest.LEFT_OUT))
        found.append(Case(kept=kept, rest=Rest.NOISE))
    return found


@dataclass(kw_only=True, frozen=True)
class Substitution:
    """The networks and settings that the table is computed with."""

    model: GeneratorNetwork
    settings: SamplerSettings
    codec: Codec
    """The generator's codec."""
    classifier: Classifier
    seed: int = 0
    """Random seed of the samples and the noise."""
    precision: Precision = "auto"
    """Precision of the generator's linear layers; auto: by the device."""

    def outcome(
        self, case: Case, pcms: Sequence[np.ndarray], labels: Sequence[int], categories: Sequence[str]
    ) -> Outcome:
        """One line of the table.

        Args:
            case: the line.
            pcms: recordings, int16 (N,) at 24 kHz.
            labels: the generator's label of each recording.
            categories: class name of each recording.
        """
        made = pcms if case.rest == Rest.RECORDING else self._sounds(case, pcms, labels)
        named = None
        known = [normalized(category) for category in self.classifier.categories]
        meant = [normalized(category) for category in categories]
        if set(meant) <= set(known):
            best_B = self.classifier.predict(made).argmax(1)
            named = float(np.mean([known[index] == category for index, category in zip(best_B, meant, strict=True)]))
        distances = [
            log_mel_distance(from_pcm16(one), from_pcm16(other), SAMPLE_RATE)
            for one, other in zip(pcms, made, strict=True)
        ]
        return Outcome(case=case, named=named, log_mel=float(np.mean(distances)), clips=len(made))

    def _sounds(self, case: Case, pcms: Sequence[np.ndarray], labels: Sequence[int]) -> list[np.ndarray]:
        codes = self.codec.encode_clips([from_pcm16(pcm) for pcm in pcms])
        if case.rest == Rest.GENERATOR:
            codes = self._by_generator(codes, labels, case.kept)
        elif case.rest == Rest.LEFT_OUT:
            codes = [codes_QT[: case.kept] for codes_QT in codes]
        elif case.rest == Rest.NOISE:
            codes = by_noise(codes, case.kept, self.seed)
        seeds = [self.seed + index for index in range(len(codes))]
        waveforms = self.codec.decode_clips([codes_QT.astype(np.uint16) for codes_QT in codes], seeds)
        return [playable_pcm(wave, len(pcm)) for wave, pcm in zip(waveforms, pcms, strict=True)]

    def _by_generator(self, codes: Sequence[np.ndarray], labels: Sequence[int], kept: int) -> list[np.ndarray]:
        """Codes of the generator's levels: the first `kept` are true, the others are generated."""
        levels = self.model.config.num_levels
        made: list[np.ndarray] = []
        for first in range(0, len(codes), BATCH):
            part = [codes_QT[:levels].astype(np.int64) for codes_QT in codes[first : first + BATCH]]
            lengths = [codes_QT.shape[1] for codes_QT in part]
            known_BQT = torch.zeros(len(part), levels, max(lengths), dtype=torch.int64)
            for row_QT, codes_QT in zip(known_BQT, part, strict=True):
                row_QT[:, : codes_QT.shape[1]] = torch.from_numpy(codes_QT)
            is_known_BQT = (torch.arange(levels) < kept)[None, :, None].expand_as(known_BQT)
            drawn = generate_codes(
                self.model,
                torch.tensor(labels[first : first + BATCH]),
                lengths,
                self.settings,
                [(self.seed << 32) + first + index for index in range(len(part))],
                known=Known(known_BQT, is_known_BQT),
                bf16=uses_bf16(self.model.device, self.precision),
            )
            made += [codes_QT.numpy() for codes_QT in drawn]
        return made


def by_noise(codes: Sequence[np.ndarray], kept: int, seed: int) -> list[np.ndarray]:
    """Replaces the codes (Q, T) above the first `kept` levels with codes that are sampled by their frequency at that
    level in all clips."""
    rng = np.random.default_rng(seed)
    pool_QT = np.concatenate(list(codes), axis=1)
    made = []
    for codes_QT in codes:
        drawn_QT = np.stack([rng.choice(level_T, codes_QT.shape[1]) for level_T in pool_QT])
        made.append(np.concatenate([codes_QT[:kept], drawn_QT[kept:]]))
    return made


def playable_pcm(waveform_N: np.ndarray, num_samples: int) -> np.ndarray:
    """The first `num_samples` as 16-bit samples, limited to full scale."""
    return to_pcm16(within_full_scale(waveform_N[:num_samples]))
