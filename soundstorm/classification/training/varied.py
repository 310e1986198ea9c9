"""Varied recordings as codes: the examples that a token classifier is trained on, before masking.

A variation is a randomly augmented excerpt of a recording, possibly mixed with one of another recording
(`soundstorm.audio.augmentation`). The codec has to encode it, because codes themselves cannot be augmented like sound,
and a teacher, if there is one, classifies it. Both take most of the time of a training step, so each recording has a
limited number of variations, which are made once and used again in later epochs, and, with a store, in later runs.

Legend: N samples, Q levels, T codec frames, C categories.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from soundstorm.audio.augmentation import Variation, blend, is_audible, vary
from soundstorm.audio.files import SAMPLE_RATE, from_pcm16
from soundstorm.classification.cnn import AudioClassifier
from soundstorm.classification.token_classifier import SHORTEST_S
from soundstorm.codec.codec import Codec
from soundstorm.optimization.precision import autocast

MAX_KEPT_BYTES = 2 << 30
"""Memory for variations that are used again; those that do not fit are made anew each time."""
VARIATION_STREAM = 1_000_033
"""Separates the random numbers of variations from those of the order and the masks, which have the same seed."""


@dataclass(kw_only=True, frozen=True)
class VariationConfig:
    """How recordings are varied."""

    augmentation: Variation
    window_s: float | None
    """Length of an excerpt in seconds; None: the whole recording, not varied."""
    mix_share: float
    """Probability that another recording is mixed in."""
    seed: int
    """Random seed."""


@dataclass(kw_only=True, frozen=True)
class VariedRecording:
    """A variation of a recording."""

    codes_QT: np.ndarray
    """Its codes, uint16."""
    target_C: np.ndarray
    """Weight of each category in it, float32."""
    teacher_C: np.ndarray | None
    """The teacher's logits, float32; None without a teacher."""

    @property
    def nbytes(self) -> int:
        """Memory that it takes."""
        return sum(array.nbytes for array in (self.codes_QT, self.target_C, self.teacher_C) if array is not None)


class VariationStore(Protocol):
    """Where variations are kept that other runs, or other workers of this one, make use of."""

    def load(self, number: int) -> dict[int, VariedRecording]:
        """Variation `number` of the recordings that have it, by index."""

    def save(self, number: int, made: Mapping[int, VariedRecording]) -> None:
        """Add variation `number` of some recordings, by index."""


class VariedRecordings:
    """Makes variations of recordings, each determined by (seed, recording, number) alone, and keeps what is asked for
    again. An epoch asks for variations of one number, and ends with `save`: with a store, those that it has are loaded
    before the first of them, and those that were made are added to it after the last.

    Args:
        recordings: int16 (N,) at the codec's rate, of any lengths.
        labels: label of each recording.
        num_categories: number of categories.
        codec: encodes the variations.
        teacher: a network on spectrograms, in evaluation mode, that classifies the variations; None: there is none.
        config: how recordings are varied.
        precision: `auto`, `fp32` or `bf16`, of the teacher.
    """

    store: VariationStore | None = None
    """Variations of earlier runs with the same arguments; None: there is none."""

    def __init__(
        self,
        recordings: Sequence[np.ndarray],
        labels: Sequence[int],
        num_categories: int,
        codec: Codec,
        teacher: AudioClassifier | None,
        config: VariationConfig,
        precision: str,
    ) -> None:
        self.recordings, self.labels, self.num_categories = recordings, labels, num_categories
        self.codec, self.teacher, self.config, self.precision = codec, teacher, config, precision
        self._kept: dict[tuple[int, int], VariedRecording] = {}
        self._kept_bytes = 0
        self._number: int | None = None
        self._loaded: dict[int, VariedRecording] = {}
        self._unsaved: dict[int, VariedRecording] = {}

    def __call__(self, chosen: Sequence[int], number: int, *, keep: bool) -> list[VariedRecording]:
        """Variation `number` of each of the chosen recordings; `keep`: it will be asked for again."""
        if self.store is not None and number != self._number:
            self.save()
            self._number = number
            if any((index, number) not in self._kept for index in range(len(self.recordings))):
                self._loaded = self.store.load(number)
        found = {index: self._kept.get((index, number)) or self._loaded.get(index) for index in chosen}
        missing = [index for index, varied in found.items() if varied is None]
        made = dict(zip(missing, self._make(missing, number), strict=True))
        if self.store is not None:
            self._unsaved |= made
        varied = {index: made[index] if known is None else known for index, known in found.items()}
        if keep:
            self._keep(varied, number)
        return [varied[index] for index in chosen]

    def save(self) -> None:
        """End an epoch: add to the store what was made in it."""
        if self.store is not None and self._number is not None and self._unsaved:
            self.store.save(self._number, self._unsaved)
        self._number, self._loaded, self._unsaved = None, {}, {}

    def _keep(self, varied: Mapping[int, VariedRecording], number: int) -> None:
        for index, example in varied.items():
            if self._kept_bytes < MAX_KEPT_BYTES and (index, number) not in self._kept:
                self._kept[index, number] = example
                self._kept_bytes += example.nbytes

    def waveform(self, index: int, number: int) -> tuple[np.ndarray, np.ndarray]:
        """A variation as float32 (N,), and the weight (C,) of each category in it."""
        rng = np.random.default_rng([self.config.seed, VARIATION_STREAM, index, number])
        weight_C = np.zeros(self.num_categories, np.float32)
        share = rng.uniform(1e-3, 1) if rng.random() < self.config.mix_share else 1.0
        waveform_N = self._excerpt(index, rng)
        if share < 1 and len(self.recordings) > 1:
            other = (index + int(rng.integers(1, len(self.recordings)))) % len(self.recordings)
            other_N = np.resize(self._excerpt(other, rng), len(waveform_N))
            if is_audible(waveform_N) and is_audible(other_N):  # silence has no level to mix at
                waveform_N = blend(waveform_N, other_N, share)
                weight_C[self.labels[other]] = 1 - share
        weight_C[self.labels[index]] += 1 - weight_C.sum()
        return np.clip(waveform_N, -1, 1), weight_C

    def _make(self, chosen: Sequence[int], number: int) -> list[VariedRecording]:
        if not chosen:
            return []
        waveforms, weights = zip(*(self.waveform(index, number) for index in chosen), strict=True)
        codes = self.codec.encode_clips(waveforms)  # not rounded to 16 bits, as in `predict`
        logits = [None if self.teacher is None else self._logits(self.teacher, clip_N) for clip_N in waveforms]
        return [
            VariedRecording(codes_QT=codes_QT.astype(np.uint16), target_C=weight_C, teacher_C=teacher_C)
            for codes_QT, weight_C, teacher_C in zip(codes, weights, logits, strict=True)
        ]

    def _excerpt(self, index: int, rng: np.random.Generator) -> np.ndarray:
        recording_N, window_s = from_pcm16(self.recordings[index]), self.config.window_s
        if window_s is None:  # a short one is repeated, as in `predict`
            return np.tile(recording_N, -(-round(SHORTEST_S * SAMPLE_RATE) // len(recording_N)))
        return vary(recording_N, round(window_s * SAMPLE_RATE), self.config.augmentation, rng)

    @torch.no_grad()
    def _logits(self, teacher: AudioClassifier, waveform_N: np.ndarray) -> np.ndarray:
        """Logits of the teacher (C,). Each waveform is a batch of its own, since the last bits of a result depend on
        the batch, and a resumed run makes other batches."""
        device = next(teacher.parameters()).device
        with autocast(device, self.precision):
            return teacher(torch.from_numpy(waveform_N)[None].to(device)).float().cpu().numpy()[0]
