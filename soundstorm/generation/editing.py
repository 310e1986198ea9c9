"""Sound that is edited: a stretch made anew, a variation, a loop, a clip of any length.

1. In-painting. The recording becomes codes; the frames that a region touches are drawn from what is known on both
   sides; their sound takes the place of the region's, cross-faded inside the region. All else is the recording itself.
2. A variation. A share of the frames, evenly spread, is drawn anew; the others keep their first levels, and what lies
   above follows from those.
3. A loop. The clip is turned by half, so that its end and its beginning lie side by side in the middle, and what lies
   around that seam is drawn from both sides; then it is turned back.
4. What is edited is told the timbre of the recording's own known codes, where the network has timbres.

Source of masks as prompts: Garcia et al., "VampNet: music generation via masked acoustic token modeling", ISMIR 2023.

Legend: B batch of takes, Q levels, T frames, N samples.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from soundstorm.audio.files import from_pcm16, to_pcm16
from soundstorm.audio.joining import closed, replaced
from soundstorm.audio.limiter import within_full_scale
from soundstorm.codec.codec import Codec
from soundstorm.errors import SoundStormError
from soundstorm.generation.decoding import continuation
from soundstorm.generation.reranking import Classifier, best_indices, candidate_seed
from soundstorm.generation.sampling import low_discrepancy_order
from soundstorm.generation.seeds import derived_seed
from soundstorm.generation.threads import on_threads
from soundstorm.generation.windows import (
    Choose,
    Window,
    WindowSize,
    draw_in_windows,
    plan_windows,
    window_seed,
)
from soundstorm.model.config import SamplerSettings
from soundstorm.model.generators import GeneratorNetwork
from soundstorm.model.place_network import PlaceNetwork
from soundstorm.optimization.precision import uses_bf16

SEAM_S = 1.0
"""Seconds around the seam of a loop that are drawn anew."""
LOOP_FADE_S = 0.05
"""Seconds of the cross-fade with which a generated loop begins: both sounds are of the same codes, in other phases."""
CONTEXT_S = 0.25
"""Seconds of codes on both sides of what is decoded, on which its sound depends."""
LEAST_LOOP_S = 0.5
KEPT_LEVELS = 1
"""Levels that the frames of a variation keep where they are not drawn anew."""


@dataclass(kw_only=True, frozen=True)
class Editor:
    """What edits sound: a network, its codec, and how codes are drawn. Each take follows from its own seed.

    Labels are classes of the network, or its `no_class`; recordings are int16 (N,) at the codec's rate; results are
    float32 (N,), those of in-painting equal to the recording outside of what was made anew.
    """

    model: GeneratorNetwork
    codec: Codec
    settings: SamplerSettings
    windows: WindowSize | None = None
    """None: those of `WindowSize.at_rate`."""
    filled_frames: int = 0
    """Length to which the network's training clips were filled up: what is shorter is drawn so long, and cut."""
    takes_class: bool = True
    """Whether the network was trained with classes."""
    reranker: Classifier | None = None
    """Chooses among `settings.candidates` draws of each window; None: one is made."""
    categories: Sequence[str] = ()
    """Name of each class, for the reranker."""
    threads: int = 1
    """Draws of a window that are made, decoded and heard at once, each on a core of its own."""

    @property
    def window_size(self) -> WindowSize:
        """Never less than the network's training clips, where those were filled up."""
        size = self.windows or WindowSize.at_rate(self.codec.frame_rate)
        return WindowSize(max(size.frames, self.filled_frames), size.overlap)

    # ---- what is made

    def new(
        self,
        labels: Sequence[int],
        seeds: Sequence[int],
        num_samples: int,
        *,
        prompt_QT: np.ndarray | None = None,
        loop: bool = False,
    ) -> list[np.ndarray]:
        """New sound of any length, in windows.

        Args:
            labels: class of each take.
            seeds: of each take.
            num_samples: of each.
            prompt_QT: codes that all begin with.
            loop: whether end and beginning fit.

        Raises:
            SoundStormError: the prompt is too long, or a loop too short.
        """
        num_frames = math.ceil(num_samples / self.codec.hop)
        drawn_frames = max(num_frames, self.filled_frames)
        shape = (len(seeds), self.model.config.num_levels, drawn_frames)
        known_BQT, is_known_BQT = torch.zeros(shape, dtype=torch.int64), torch.zeros(shape, dtype=torch.bool)
        if prompt_QT is not None:
            levels_QT = torch.from_numpy(prompt_QT[: shape[1]].astype(np.int64))
            known_BQT, is_known_BQT = continuation([levels_QT] * len(seeds), [drawn_frames] * len(seeds))
        codes_BQT, sound_seeds = self._drawn(labels, seeds, known_BQT, is_known_BQT, num_samples)
        return self._sounds(labels, sound_seeds, codes_BQT[:, :, :num_frames], num_samples, loop)

    def inpainted(
        self, recording_N: np.ndarray, spans: Sequence[tuple[int, int]], labels: Sequence[int], seeds: Sequence[int]
    ) -> list[np.ndarray]:
        """The recording with new sound in some spans, cross-faded inside them; every other sample is as it was.

        Args:
            recording_N: the recording.
            spans: first sample and the one after the last, of `soundstorm.generation.regions.sample_spans`.
            labels, seeds: of each take.
        """
        waveform_N, hop = from_pcm16(recording_N), self.codec.hop
        codes_QT = self._codes(waveform_N)
        is_unknown_T = torch.zeros(codes_QT.shape[1], dtype=torch.bool)
        for first, end in spans:
            is_unknown_T[first // hop : math.ceil(end / hop)] = True
        known_BQT = codes_QT.expand(len(seeds), -1, -1)
        is_known_BQT = (~is_unknown_T).expand_as(known_BQT)
        timbre_BS = self._timbre(known_BQT, ~is_unknown_T)
        codes_BQT, _ = self._drawn(labels, seeds, known_BQT, is_known_BQT, len(recording_N), timbre_BS)
        results = []
        for codes_QT, seed in zip(codes_BQT, seeds, strict=True):
            new = [
                within_full_scale(self._part(codes_QT, first, end, derived_seed(seed, f"region {number}")))
                for number, (first, end) in enumerate(spans)
            ]
            results.append(replaced(waveform_N, spans, new, self.codec.sample_rate))
        return results

    def seamless(self, recording_N: np.ndarray, labels: Sequence[int], seeds: Sequence[int]) -> list[np.ndarray]:
        """The recording as a loop: what lies around its end and its beginning is new, all else as it was.

        Raises:
            SoundStormError: it is too short.
        """
        num_samples = len(recording_N)
        self.require_loop(num_samples)
        turn = num_samples // 2 // self.codec.hop * self.codec.hop
        half = min(round(SEAM_S * self.codec.sample_rate), num_samples // 2) // 2
        seam = num_samples - turn
        turned_N = np.roll(recording_N, -turn)
        own_seeds = [derived_seed(seed, "seam") for seed in seeds]
        takes = self.inpainted(turned_N, [(seam - half, seam + half)], labels, own_seeds)
        return [np.roll(take_N, turn) for take_N in takes]

    def made_seamless(
        self, takes: Sequence[np.ndarray], labels: Sequence[int], seeds: Sequence[int]
    ) -> list[np.ndarray]:
        """Takes (N,), each as a loop of its own."""
        rows = zip(takes, labels, seeds, strict=True)
        return [self.seamless(to_pcm16(take_N), [label], [seed])[0] for take_N, label, seed in rows]

    def varied(
        self,
        recording_N: np.ndarray,
        strength: float,
        labels: Sequence[int],
        seeds: Sequence[int],
        *,
        kept_levels: int = KEPT_LEVELS,
        loop: bool = False,
    ) -> list[np.ndarray]:
        """Variations of a recording.

        Args:
            recording_N: the recording.
            strength: share of the frames that are drawn anew, 0 to 1.
            labels, seeds: of each take.
            kept_levels: first levels that the other frames keep.
            loop: whether end and beginning fit.

        Raises:
            SoundStormError: the strength or the levels are none, or a loop is too short.
        """
        num_levels = self.model.config.num_levels
        if not 0 <= strength <= 1:
            raise SoundStormError(f"strength is {strength}: give a share of the frames from 0 to 1")
        if not 0 <= kept_levels <= num_levels:
            raise SoundStormError(
                f"levels to keep are {kept_levels}: this model has {num_levels}, give 0 to all of them"
            )
        codes_QT = self._codes(from_pcm16(recording_N))
        num_frames = codes_QT.shape[1]
        offsets = [
            torch.rand(1, generator=torch.Generator().manual_seed(derived_seed(seed, "frames")), dtype=torch.float64)
            for seed in seeds
        ]
        is_anew_BT = low_discrepancy_order(torch.cat(offsets), num_frames) < strength
        known_BQT = codes_QT.expand(len(seeds), -1, -1)
        is_kept_QT = (torch.arange(num_levels) < kept_levels)[:, None].expand_as(codes_QT)
        is_known_BQT = is_kept_QT & ~is_anew_BT[:, None, :]
        every_T = torch.ones(num_frames, dtype=torch.bool)
        timbre_BS = self._timbre(known_BQT, every_T)
        num_samples = len(recording_N)
        codes_BQT, sound_seeds = self._drawn(
            labels, seeds, known_BQT, is_known_BQT, num_samples, timbre_BS, planned_T=every_T
        )
        return self._sounds(labels, sound_seeds, codes_BQT, num_samples, loop)

    # ---- how it is made

    def _codes(self, waveform_N: np.ndarray) -> Tensor:
        """The network's levels of a recording's codes (Q, T)."""
        [codes_QT] = self.codec.encode_clips([waveform_N])
        return torch.from_numpy(codes_QT[: self.model.config.num_levels].astype(np.int64))

    def _timbre(self, codes_BQT: Tensor, is_known_T: Tensor) -> Tensor | None:
        """The timbre (B, S) of what is known; None where nothing is, or the network has no timbres."""
        if not isinstance(self.model, PlaceNetwork) or self.model.timbre is None or not is_known_T.any():
            return None
        device = self.model.device
        is_known_BT = is_known_T.expand(len(codes_BQT), -1)
        return self.model.timbre_of(codes_BQT.to(device), is_known_BT.to(device))

    def _drawn(
        self,
        labels: Sequence[int],
        seeds: Sequence[int],
        known_BQT: Tensor,
        is_known_BQT: Tensor,
        num_samples: int,
        timbre_BS: Tensor | None = None,
        planned_T: Tensor | None = None,
    ) -> tuple[Tensor, list[int]]:
        """Codes (B, Q, T) of all takes of `num_samples`, and the seed of the sound of each; `planned_T`: frames for
        which windows are planned, if not for those of which the first take does not know a level."""
        if planned_T is None:
            planned_T = ~is_known_BQT[0].all(0)
        classes = list(labels) if self.takes_class else [self.model.no_class] * len(labels)
        codes_BQT, kept = draw_in_windows(
            self.model,
            torch.tensor(classes),
            self.settings,
            seeds,
            known_BQT=known_BQT,
            known_mask_BQT=is_known_BQT,
            windows=plan_windows(planned_T, self.window_size),
            timbre_BS=timbre_BS,
            choose=self._choose(labels, seeds, num_samples),
            bf16=uses_bf16(self.model.device, "auto"),
            threads=self.threads,
        )
        return codes_BQT, [candidate_seed(seed, draw) for seed, draw in zip(seeds, kept, strict=True)]

    def _choose(self, labels: Sequence[int], seeds: Sequence[int], num_samples: int) -> Choose | None:
        """The choice among draws of a window, by how it sounds."""
        reranker = self.reranker
        if reranker is None or self.settings.candidates == 1:
            return None

        def choose(draws: list[list[Tensor]], number: int, window: Window) -> list[int]:
            length = num_samples - window.first * self.codec.hop
            if length <= 0:  # the filling of a short clip
                return [0] * len(seeds)

            def sound(draw: int) -> list[np.ndarray]:
                own_seeds = [candidate_seed(window_seed(seed, number), draw) for seed in seeds]
                waveforms = self.codec.decode_clips([codes_QT.numpy() for codes_QT in draws[draw]], own_seeds)
                return [waveform_N[:length] for waveform_N in waveforms]

            sounds = on_threads(sound, range(len(draws)), self.threads)
            return best_indices(sounds, [self.categories[label] for label in labels], reranker, self.threads)

        return choose

    def _sounds(
        self, labels: Sequence[int], seeds: Sequence[int], codes_BQT: Tensor, num_samples: int, loop: bool
    ) -> list[np.ndarray]:
        """The sound (num_samples,) of codes of all takes."""
        if loop:
            self.require_loop(num_samples)
            codes_BQT = self._loop_codes(labels, seeds, codes_BQT)
            return [
                self._loop_sound(codes_QT, num_samples, seed) for codes_QT, seed in zip(codes_BQT, seeds, strict=True)
            ]
        waveforms = self.codec.decode_clips([codes_QT.numpy() for codes_QT in codes_BQT], seeds)
        return [waveform_N[:num_samples] for waveform_N in waveforms]

    def require_loop(self, num_samples: int) -> None:
        """Raises SoundStormError if so few samples are too short to be a loop."""
        duration_s = num_samples / self.codec.sample_rate
        if duration_s < LEAST_LOOP_S:
            raise SoundStormError(f"a loop of {duration_s:g} s is too short: give at least {LEAST_LOOP_S:g} s")

    def _loop_codes(self, labels: Sequence[int], seeds: Sequence[int], codes_BQT: Tensor) -> Tensor:
        """Codes (B, Q, T) whose seam, from the last frames to the first, is drawn anew with both sides known."""
        num_frames = codes_BQT.shape[2]
        turn = num_frames // 2
        seam, half = num_frames - turn, max(1, min(round(SEAM_S * self.codec.frame_rate), turn) // 2)
        turned_BQT = codes_BQT.roll(-turn, 2)
        is_known_T = torch.ones(num_frames, dtype=torch.bool)
        is_known_T[seam - half : seam + half] = False
        drawn_BQT, _ = self._drawn(
            labels,
            [derived_seed(seed, "seam") for seed in seeds],
            turned_BQT,
            is_known_T.expand_as(turned_BQT),
            num_frames * self.codec.hop,
            self._timbre(turned_BQT, is_known_T),
        )
        return drawn_BQT.roll(turn, 2)

    def _loop_sound(self, codes_QT: Tensor, num_samples: int, seed: int) -> np.ndarray:
        """The sound (num_samples,) of codes that go round."""
        around = min(math.ceil(CONTEXT_S * self.codec.frame_rate), codes_QT.shape[1])
        round_QT = torch.cat((codes_QT[:, -around:], codes_QT, codes_QT[:, :around]), 1)
        [waveform_N] = self.codec.decode_clips([round_QT.numpy()], [seed])
        first, fade = around * self.codec.hop, round(LOOP_FADE_S * self.codec.sample_rate)
        end = first + num_samples
        return closed(waveform_N[first:end], waveform_N[end : end + fade])

    def _part(self, codes_QT: Tensor, first: int, end: int, seed: int) -> np.ndarray:
        """Samples `first` to `end` of the sound of codes (Q, T)."""
        hop, around = self.codec.hop, math.ceil(CONTEXT_S * self.codec.frame_rate)
        first_frame, end_frame = max(0, first // hop - around), min(codes_QT.shape[1], math.ceil(end / hop) + around)
        [waveform_N] = self.codec.decode_clips([codes_QT[:, first_frame:end_frame].numpy()], [seed])
        return waveform_N[first - first_frame * hop : end - first_frame * hop]
