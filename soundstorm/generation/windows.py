"""Codes of any length in windows that overlap, so that memory does not grow with the length.

What lies in a window and is known, given or drawn in the windows before, is the prompt from which the rest follows. A
gap that fits into a window lies in its middle, with as much known on both sides; a gap that a window would cut waits
for the next one. So a clip of one window is drawn as it always was.

Legend: B batch, Q levels, T frames.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from soundstorm.errors import SoundStormError
from soundstorm.generation.decoding import generate_codes
from soundstorm.generation.reranking import candidate_seed
from soundstorm.generation.seeds import derived_seed
from soundstorm.generation.threads import on_threads
from soundstorm.model.config import SamplerSettings
from soundstorm.model.generators import GeneratorNetwork
from soundstorm.model.place_network import PlaceNetwork

WINDOW_S, OVERLAP_S = 5.0, 2.5
"""Seconds of a window, and of it what is known of the window before."""


@dataclass(frozen=True)
class WindowSize:
    """Frames of a window and, of it, those of the window before that are its prompt.

    Raises:
        SoundStormError: the overlap does not leave anything of a window to draw.
    """

    frames: int
    overlap: int

    def __post_init__(self) -> None:
        if not 0 < self.overlap < self.frames:
            raise SoundStormError(
                f"windows of {self.frames} frames that overlap by {self.overlap}: give an overlap of at least one "
                "frame that leaves at least one to draw"
            )

    @classmethod
    def at_rate(cls, frame_rate: float) -> "WindowSize":
        """Windows of WINDOW_S and OVERLAP_S at a codec's frame rate."""
        return cls(max(2, math.ceil(WINDOW_S * frame_rate)), max(1, math.ceil(OVERLAP_S * frame_rate)))


@dataclass(frozen=True)
class Window:
    """Frames `first` to `end`, of which those that are unknown are drawn and, where they lie before `until`, kept."""

    first: int
    end: int
    until: int


Choose = Callable[[list[list[Tensor]], int, Window], list[int]]
"""From draws of codes (Q, T) of a window for each sample, the window's number and the window, to the number of the draw
that is kept for each sample."""


def plan_windows(unknown_T: Tensor, size: WindowSize) -> list[Window]:
    """The windows, one after another, in which the frames where `unknown_T` is True are drawn."""
    return list(_windows([bool(unknown) for unknown in unknown_T.tolist()], size))


def _windows(unknown: list[bool], size: WindowSize) -> Iterator[Window]:
    total, at = len(unknown), 0
    while True in unknown[at:]:
        at = unknown.index(True, at)
        length = (unknown[at:].index(False) if False in unknown[at:] else total - at) if total > size.frames else 0
        lead = max(size.overlap, (size.frames - length) // 2)
        first = min(max(0, at - lead), max(0, total - size.frames))
        end = min(total, first + size.frames)
        until = end
        if end < total and unknown[end]:
            while until > at and unknown[until - 1]:
                until -= 1
            until = until if until > at else end
        yield Window(first, end, until)
        at = until


def window_seed(seed: int, number: int) -> int:
    """The seed, 63 bits, of window `number` of a sample: the first has the sample's own."""
    return seed if number == 0 else derived_seed(seed, f"window {number}")


def _passes_for(settings: SamplerSettings, num_frames: int) -> SamplerSettings:
    """`settings` with no more passes than frames to draw, where one number says how many there are."""
    if not isinstance(settings.iterations, int):
        return settings
    return replace(settings, iterations=max(1, min(settings.iterations, num_frames)))


def draw_in_windows(
    model: GeneratorNetwork,
    label_B: Tensor,
    settings: SamplerSettings,
    seeds: Sequence[int],
    *,
    known_BQT: Tensor,
    known_mask_BQT: Tensor,
    windows: Sequence[Window],
    timbre_BS: Tensor | None = None,
    choose: Choose | None = None,
    bf16: bool = False,
    threads: int = 1,
) -> tuple[Tensor, list[int]]:
    """Codes (B, Q, T), int64 on the CPU: those that are known, and the others drawn in one window after another; and
    which draw of the first window was kept for each sample.

    Args:
        model: the network.
        label_B: int64 class of each sample, or `no_class`.
        settings: how codes are drawn; a window has no more passes than frames to draw.
        seeds: of each sample.
        known_BQT: codes that are given; any value elsewhere.
        known_mask_BQT: True where `known_BQT` holds.
        windows: of `plan_windows`, for all samples alike.
        timbre_BS: timbre of each sample. None: the first window samples it for the class or, if it has known codes,
            is generated without one; the later windows are conditioned on the timbre of the first.
        choose: which of `settings.candidates` draws of a window is kept; None: one is made.
        bf16: compute linear layers in bfloat16.
        threads: draws of a window that are made at once, as `soundstorm.generation.threads.on_threads` takes them.
    """
    codes_BQT, is_known_BQT = known_BQT.clone(), known_mask_BQT.clone()
    first_draws = [0] * len(seeds)
    for number, window in enumerate(windows):
        place, kept = slice(window.first, window.end), slice(window.first, window.until)
        most = int((~is_known_BQT[:, :, place]).any(1).sum(1).max())
        of_window = partial(
            generate_codes,
            model,
            label_B,
            [window.end - window.first] * len(seeds),
            settings if number == 0 and timbre_BS is None else _passes_for(settings, most),
            known_BQT=codes_BQT[:, :, place],
            known_mask_BQT=is_known_BQT[:, :, place],
            timbre_BS=timbre_BS,
            bf16=bf16,
        )
        num_draws = 1 if choose is None else settings.candidates
        seeds_DB = [[candidate_seed(window_seed(seed, number), draw) for seed in seeds] for draw in range(num_draws)]
        draws = on_threads(of_window, seeds_DB, threads)
        best = first_draws if choose is None else choose(draws, number, window)
        first_draws = best if number == 0 else first_draws
        drawn_BQT = torch.stack([draws[draw][sample] for sample, draw in enumerate(best)])
        codes_BQT[:, :, kept] = drawn_BQT[:, :, : window.until - window.first]
        is_known_BQT[:, :, kept] = True
        if timbre_BS is None and len(windows) > 1 and isinstance(model, PlaceNetwork):
            is_kept_BT = torch.ones(len(seeds), window.until - window.first, dtype=torch.bool)
            timbre_BS = model.timbre_of(codes_BQT[:, :, kept].to(model.device), is_kept_BT.to(model.device))
    return codes_BQT, first_draws
