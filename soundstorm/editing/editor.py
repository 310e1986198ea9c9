"""Generates and edits sound: new clips of any length, in-painting, variations, loops.

1. In-painting. The recording is encoded; the codes of the frames that a region touches are sampled given those on both
   sides. The decoded region replaces the recording's, with cross-fades inside the region; all other samples are
   unchanged. Candidates are chosen by the new frames; if none sounds like the class, there is a second try:
   `soundstorm.editing.second_try`.
2. A variation. A fraction of the frames, evenly spaced, is sampled anew; the others keep their first levels, and their
   higher levels are sampled given these.
3. A loop. The clip is rotated by half, so that its end and its beginning meet in the middle; the frames around this
   seam are sampled given both sides, and the clip is rotated back.
4. New sound of several windows stays as loud as the first, if that is steady: `soundstorm.editing.steady_loudness`.
5. Edits are conditioned on the timbre of the recording's known codes, if the network has timbres.

Source of masks as prompts: Garcia et al., "VampNet: music generation via masked acoustic token modeling", ISMIR 2023.

Legend: B batch of takes, Q levels, T frames, N samples.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from soundstorm.audio.files import from_pcm16
from soundstorm.audio.joining import replaced
from soundstorm.audio.limiter import within_full_scale
from soundstorm.codec.codec import Codec
from soundstorm.editing.rendering import decoded_loop, decoded_span
from soundstorm.editing.second_try import EDGE_S, RECOGNIZED, SHORTEST_S, better, edge_mask, frame_mask, region_scores
from soundstorm.editing.steady_loudness import hold_loudness
from soundstorm.errors import SoundStormError
from soundstorm.generation.decoding import Known, continuation
from soundstorm.generation.reranking import Classifier, WindowReranker
from soundstorm.generation.sampling import low_discrepancy_order
from soundstorm.generation.seeds import candidate_seed, derived_seed
from soundstorm.generation.windows import Choice, WindowSize, generate_in_windows, plan_windows
from soundstorm.model.config import SamplerSettings
from soundstorm.model.generators import GeneratorNetwork
from soundstorm.model.place_network import PlaceNetwork
from soundstorm.optimization.precision import Precision, uses_bf16

SEAM_S = 1.0
"""Seconds around the seam of a loop that are generated anew."""
MIN_LOOP_S = 0.5
KEPT_LEVELS = 1
"""Default number of levels that the remaining frames of a variation keep."""


@dataclass(kw_only=True, frozen=True)
class Editor:
    """Generates and edits sound with a network and its codec. Each take depends on its own seed only.

    Labels are classes of the network, or its `no_class`; recordings are int16 (N,) at the codec's rate; results are
    float32 (N,). In-painting returns the recording's own samples outside of the regions.
    """

    model: GeneratorNetwork
    codec: Codec
    settings: SamplerSettings
    windows: WindowSize | None = None
    """None: `WindowSize.at_rate`."""
    filled_frames: int = 0
    """Length in frames to which the training clips were padded: shorter clips are generated at this length and cut."""
    takes_class: bool = True
    """Whether the network was trained with classes."""
    reranker: Classifier | None = None
    """Chooses among `settings.candidates` candidates of each window; None: one candidate is generated."""
    categories: Sequence[str] = ()
    """Name of each class, for the reranker."""
    precision: Precision = "auto"
    """Precision of the network's linear layers; auto: by the device."""
    threads: int = 1
    """Number of candidates of a window that are generated, decoded and classified in parallel, each on one core."""

    @property
    def window_size(self) -> WindowSize:
        """At least the length to which the training clips were padded."""
        size = self.windows or WindowSize.at_rate(self.codec.frame_rate)
        return WindowSize(max(size.frames, self.filled_frames), size.overlap)

    def new(
        self,
        labels: Sequence[int],
        seeds: Sequence[int],
        num_samples: int,
        *,
        prompt_QT: np.ndarray | None = None,
        loop: bool = False,
        steady: bool = True,
    ) -> list[np.ndarray]:
        """Generate new clips of any length, in windows.

        Args:
            labels: class of each take.
            seeds: seed of each take.
            num_samples: length of each take.
            prompt_QT: codes with which all takes begin.
            loop: whether to close the takes to loops.
            steady: whether takes of several windows stay as loud as the first window, or as the end of a longer prompt,
                if that is steady.

        Raises:
            SoundStormError: the prompt is too long, or a loop too short.
        """
        num_frames = math.ceil(num_samples / self.codec.hop)
        known = self._nothing_known(len(seeds), num_frames)
        if prompt_QT is not None:
            _, num_levels, num_generated = known.codes_BQT.shape
            levels_QT = torch.from_numpy(prompt_QT[:num_levels].astype(np.int64))
            known = continuation([levels_QT] * len(seeds), [num_generated] * len(seeds))
        codes_BQT, sound_seeds = self._generate(labels, seeds, known, num_samples)
        takes = self._decode(labels, sound_seeds, codes_BQT[:, :, :num_frames], num_samples, loop)
        if steady and num_frames > self.window_size.frames:
            window = self.window_size.frames * self.codec.hop
            prompt = 0 if prompt_QT is None else prompt_QT.shape[1] * self.codec.hop
            seam = round(SEAM_S / 2 * self.codec.sample_rate) if loop else 0
            reference = (prompt - window, prompt) if prompt > window else (seam, window)
            for take_N in takes:
                hold_loudness(take_N, self.codec.sample_rate, reference, loop=loop)
        return takes

    def inpainted(
        self,
        recording_N: np.ndarray,
        spans: Sequence[tuple[int, int]],
        labels: Sequence[int],
        seeds: Sequence[int],
        *,
        second_try: bool = True,
    ) -> list[np.ndarray]:
        """The recording with new sound in some spans, cross-faded inside them; all other samples are unchanged.

        Args:
            recording_N: the recording.
            spans: first sample and the one after the last, from `soundstorm.editing.regions.sample_spans`.
            labels, seeds: of each take.
            second_try: whether a span in which the reranker does not recognize the class is generated once more; not
                if there is one candidate, or if all of the recording is new.
        """
        waveform_N, hop = from_pcm16(recording_N), self.codec.hop
        codes_QT = self._codes(waveform_N)
        regions = [range(first // hop, math.ceil(end / hop)) for first, end in spans]
        is_unknown_T = torch.stack([frame_mask(codes_QT.shape[1], frames) for frames in regions]).any(0)
        known_BQT, length = codes_QT.expand(len(seeds), -1, -1), len(recording_N)
        codes_BQT = self._drawn_again(known_BQT, is_unknown_T, labels, seeds, length, is_unknown_T)
        if second_try and not is_unknown_T.all():
            for number, frames in enumerate(regions):
                try_seeds = [derived_seed(seed, f"second try {number}") for seed in seeds]
                codes_BQT = self._better(codes_BQT, frames, labels, try_seeds, length)
        results = []
        for codes_QT, seed in zip(codes_BQT, seeds, strict=True):
            new = []
            for number, (first, end) in enumerate(spans):
                own_seed = derived_seed(seed, f"region {number}")
                new.append(within_full_scale(decoded_span(self.codec, codes_QT, first, end, own_seed)))
            results.append(replaced(waveform_N, spans, new, self.codec.sample_rate))
        return results

    def seamless(self, recording_N: np.ndarray, labels: Sequence[int], seeds: Sequence[int]) -> list[np.ndarray]:
        """The recording as a loop: its end and its beginning are new, all other samples are unchanged.

        Raises:
            SoundStormError: the recording is too short.
        """
        num_samples = len(recording_N)
        self.require_loop(num_samples)
        turn = num_samples // 2 // self.codec.hop * self.codec.hop
        half = min(round(SEAM_S * self.codec.sample_rate), num_samples // 2) // 2
        seam = num_samples - turn
        turned_N = np.roll(recording_N, -turn)
        own_seeds = [derived_seed(seed, "seam") for seed in seeds]
        takes = self.inpainted(turned_N, [(seam - half, seam + half)], labels, own_seeds, second_try=False)
        return [np.roll(take_N, turn) for take_N in takes]

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
            strength: fraction of the frames that are generated anew, 0 to 1.
            labels, seeds: of each take.
            kept_levels: number of levels that the other frames keep.
            loop: whether to close the takes to loops.

        Raises:
            SoundStormError: the strength or the levels are out of range, or a loop is too short.
        """
        num_levels = self.model.config.num_levels
        if not 0 <= strength <= 1:
            raise SoundStormError(f"strength is {strength}: give a fraction of the frames from 0 to 1")
        if not 0 <= kept_levels <= num_levels:
            raise SoundStormError(
                f"levels to keep are {kept_levels}: give 0 to {num_levels}, the number of levels of this model"
            )
        codes_QT = self._codes(from_pcm16(recording_N))
        num_frames = codes_QT.shape[1]
        offsets = [
            torch.rand(1, generator=torch.Generator().manual_seed(derived_seed(seed, "frames")), dtype=torch.float64)
            for seed in seeds
        ]
        is_new_BT = low_discrepancy_order(torch.cat(offsets), num_frames) < strength
        known_BQT = codes_QT.expand(len(seeds), -1, -1)
        is_kept_QT = (torch.arange(num_levels) < kept_levels)[:, None].expand_as(codes_QT)
        every_T = torch.ones(num_frames, dtype=torch.bool)
        known = Known(known_BQT, is_kept_QT & ~is_new_BT[:, None, :], self._timbre(known_BQT, every_T))
        num_samples = len(recording_N)
        codes_BQT, sound_seeds = self._generate(labels, seeds, known, num_samples, planned_T=every_T)
        return self._decode(labels, sound_seeds, codes_BQT, num_samples, loop)

    def _better(
        self, codes_BQT: Tensor, frames: range, labels: Sequence[int], seeds: Sequence[int], num_samples: int
    ) -> Tensor:
        """The codes (B, Q, T) with the better of two tries at `frames`, the frames of a region, of each take."""
        B, _, T = codes_BQT.shape
        is_heard_T, rate = frame_mask(T, frames), self.codec.frame_rate
        reranking = self._reranking(labels, seeds, num_samples, is_heard_T)
        if reranking is None or not SHORTEST_S * rate <= len(frames) <= self.window_size.frames:
            return codes_BQT
        scores = region_scores(reranking, codes_BQT, frames, rate)
        if min(scores) >= RECOGNIZED:
            return codes_BQT
        own_BQT = codes_BQT.clone()
        alone_BQT, _ = self._generate(labels, seeds, self._nothing_known(B, len(frames)), len(frames) * self.codec.hop)
        own_BQT[:, :, is_heard_T] = alone_BQT[:, :, : len(frames)]
        is_edge_T = edge_mask(T, frames, round(EDGE_S * rate))
        if is_edge_T.any():
            edge_seeds = [derived_seed(seed, "edges") for seed in seeds]
            own_BQT = self._drawn_again(own_BQT, is_edge_T, labels, edge_seeds, num_samples, is_heard_T)
        return better(codes_BQT, scores, own_BQT, region_scores(reranking, own_BQT, frames, rate))

    def _drawn_again(
        self,
        codes_BQT: Tensor,
        is_new_T: Tensor,
        labels: Sequence[int],
        seeds: Sequence[int],
        num_samples: int,
        heard_T: Tensor | None = None,
    ) -> Tensor:
        """Codes (B, Q, T) of which some frames are generated again, given the others and their timbre."""
        known = Known(codes_BQT, (~is_new_T).expand_as(codes_BQT), self._timbre(codes_BQT, ~is_new_T))
        return self._generate(labels, seeds, known, num_samples, heard_T=heard_T)[0]

    def _nothing_known(self, num_takes: int, num_frames: int) -> Known:
        """No known codes of new takes, of at least the length to which the training clips were padded."""
        shape = (num_takes, self.model.config.num_levels, max(num_frames, self.filled_frames))
        return Known(torch.zeros(shape, dtype=torch.int64), torch.zeros(shape, dtype=torch.bool))

    def _codes(self, waveform_N: np.ndarray) -> Tensor:
        """The codes (Q, T) of a recording at the levels that the network generates."""
        [codes_QT] = self.codec.encode_clips([waveform_N])
        return torch.from_numpy(codes_QT[: self.model.config.num_levels].astype(np.int64))

    def _timbre(self, codes_BQT: Tensor, is_known_T: Tensor) -> Tensor | None:
        """The timbre (B, S) of the known frames; None if there are none, or if the network has no timbres."""
        if not isinstance(self.model, PlaceNetwork) or self.model.timbre is None or not is_known_T.any():
            return None
        device = self.model.device
        is_known_BT = is_known_T.expand(len(codes_BQT), -1)
        return self.model.timbre_of(codes_BQT.to(device), is_known_BT.to(device))

    def _generate(
        self,
        labels: Sequence[int],
        seeds: Sequence[int],
        known: Known,
        num_samples: int,
        planned_T: Tensor | None = None,
        heard_T: Tensor | None = None,
    ) -> tuple[Tensor, list[int]]:
        """Generate the unknown codes of all takes: codes (B, Q, T), and the seed with which to decode each take.
        `planned_T`: frames for which windows are planned; None: those with an unknown level in the first take.
        `heard_T`: frames by which candidates are chosen, from the first to the last in a window; None: all."""
        if planned_T is None:
            planned_T = ~known.mask_BQT[0].all(0)
        classes = list(labels) if self.takes_class else [self.model.no_class] * len(labels)
        codes_BQT, kept = generate_in_windows(
            self.model,
            torch.tensor(classes),
            self.settings,
            seeds,
            known=known,
            windows=plan_windows(planned_T, self.window_size),
            choice=self._reranking(
                labels, seeds, num_samples, torch.ones_like(planned_T) if heard_T is None else heard_T
            ),
            bf16=uses_bf16(self.model.device, self.precision),
        )
        return codes_BQT, [candidate_seed(seed, candidate) for seed, candidate in zip(seeds, kept, strict=True)]

    def _reranking(
        self, labels: Sequence[int], seeds: Sequence[int], num_samples: int, heard_T: Tensor
    ) -> Choice | None:
        """Reranking of the candidates of a window; None if there is only one."""
        if self.reranker is None or self.settings.candidates == 1:
            return None
        reranker = WindowReranker(
            reranker=self.reranker,
            codec=self.codec,
            categories=[self.categories[label] for label in labels],
            seeds=seeds,
            num_samples=num_samples,
            heard_T=heard_T,
        )
        return Choice(reranker.score, self.threads)

    def _decode(
        self, labels: Sequence[int], seeds: Sequence[int], codes_BQT: Tensor, num_samples: int, loop: bool
    ) -> list[np.ndarray]:
        """Decode the codes of all takes to waveforms (num_samples,)."""
        if loop:
            self.require_loop(num_samples)
            codes_BQT = self._loop_codes(labels, seeds, codes_BQT)
            return [
                decoded_loop(self.codec, codes_QT, num_samples, seed)
                for codes_QT, seed in zip(codes_BQT, seeds, strict=True)
            ]
        waveforms = self.codec.decode_clips([codes_QT.numpy() for codes_QT in codes_BQT], seeds)
        return [waveform_N[:num_samples] for waveform_N in waveforms]

    def require_loop(self, num_samples: int) -> None:
        """Raises SoundStormError if `num_samples` is too short for a loop."""
        duration_s = num_samples / self.codec.sample_rate
        if duration_s < MIN_LOOP_S:
            raise SoundStormError(f"a loop of {duration_s:g} s is too short: give at least {MIN_LOOP_S:g} s")

    def _loop_codes(self, labels: Sequence[int], seeds: Sequence[int], codes_BQT: Tensor) -> Tensor:
        """Replace the codes (B, Q, T) around the seam, between the last and the first frame, by new ones given both
        sides."""
        num_frames = codes_BQT.shape[2]
        turn = num_frames // 2
        seam, half = num_frames - turn, max(1, min(round(SEAM_S * self.codec.frame_rate), turn) // 2)
        turned_BQT = codes_BQT.roll(-turn, 2)
        is_new_T = frame_mask(num_frames, range(seam - half, seam + half))
        own_seeds = [derived_seed(seed, "seam") for seed in seeds]
        new_BQT = self._drawn_again(turned_BQT, is_new_T, labels, own_seeds, num_frames * self.codec.hop)
        return new_BQT.roll(turn, 2)
