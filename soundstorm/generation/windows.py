"""Generates codes of any length in overlapping windows, so that memory does not grow with the length.

The known codes of a window, given or generated in earlier windows, are its prompt. A gap that fits into a window is
placed in its middle, with equal context on both sides; a gap that would reach beyond a window is left to the next one.
A clip that fits into one window is generated as a whole.

Legend: B batch, Q levels, T frames.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from soundstorm.errors import SoundStormError
from soundstorm.generation.candidates import Candidate, Selection, batch_rows, select
from soundstorm.generation.decoding import Known, generate_codes
from soundstorm.generation.seeds import candidate_seed, window_seed
from soundstorm.model.config import SamplerSettings
from soundstorm.model.generators import GeneratorNetwork
from soundstorm.model.place_network import PlaceNetwork

WINDOW_S, OVERLAP_S = 5.0, 2.5
"""Length of a window, and of its overlap with the window before, in seconds."""


@dataclass(frozen=True)
class WindowSize:
    """Frames of a window, and of its overlap with the window before, whose codes are its prompt.

    Raises:
        SoundStormError: the overlap leaves nothing of a window to generate.
    """

    frames: int
    overlap: int

    def __post_init__(self) -> None:
        if not 0 < self.overlap < self.frames:
            raise SoundStormError(
                f"windows of {self.frames} frames that overlap by {self.overlap}: give an overlap of at least one "
                "frame that leaves at least one to generate"
            )

    @classmethod
    def at_rate(cls, frame_rate: float) -> "WindowSize":
        """Windows of WINDOW_S and OVERLAP_S at a codec's frame rate."""
        return cls(max(2, math.ceil(WINDOW_S * frame_rate)), max(1, math.ceil(OVERLAP_S * frame_rate)))


@dataclass(frozen=True)
class Window:
    """Frames `first` to `end`: the unknown ones are generated, and those before `until` are kept."""

    first: int
    end: int
    until: int


@dataclass(frozen=True)
class Choice:
    """How one of several candidates of a window is chosen."""

    score: Callable[..., Sequence[float]]
    """Called with candidates, their codes (Q, T), and as `number` and `window` the window and its number: the score of
    each candidate, at most 1."""
    threads: int = 1
    """Batches of candidates that are generated in parallel, as in `soundstorm.optimization.threads.on_threads`."""


def plan_windows(unknown_T: Tensor, size: WindowSize) -> list[Window]:
    """Windows, in order, that cover the frames where `unknown_T` is True."""
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


def _limit_iterations(settings: SamplerSettings, num_frames: int) -> SamplerSettings:
    """`settings` with at most as many iterations as frames to generate, unless `iterations` lists several
    numbers."""
    if not isinstance(settings.iterations, int):
        return settings
    return replace(settings, iterations=max(1, min(settings.iterations, num_frames)))


@dataclass(frozen=True, kw_only=True)
class _WindowTask:
    """A window of some samples, of which candidates are generated."""

    model: GeneratorNetwork
    label_B: Tensor
    settings: SamplerSettings
    seeds: Sequence[int]
    """Seed of the window of each sample."""
    known: Known
    """Codes of the window that are given."""
    bf16: bool

    def generate(self, batch: Sequence[Candidate]) -> list[Tensor]:
        """The codes (Q, T) of candidates."""
        rows, known = [candidate.sample for candidate in batch], self.known
        return generate_codes(
            self.model,
            self.label_B[rows],
            [known.codes_BQT.shape[2]] * len(rows),
            self.settings,
            [candidate_seed(self.seeds[candidate.sample], candidate.number) for candidate in batch],
            known=Known(
                known.codes_BQT[rows],
                known.mask_BQT[rows],
                None if known.timbre_BS is None else known.timbre_BS[rows],
            ),
            bf16=self.bf16,
        )


def generate_in_windows(
    model: GeneratorNetwork,
    label_B: Tensor,
    settings: SamplerSettings,
    seeds: Sequence[int],
    *,
    known: Known,
    windows: Sequence[Window],
    choice: Choice | None = None,
    bf16: bool = False,
) -> tuple[Tensor, list[int]]:
    """Generate the unknown codes, one window after another. Returns the codes (B, Q, T), int64 on the CPU, and the
    candidate of the first window that was kept for each sample.

    Args:
        model: the network.
        label_B: int64 class of each sample, or `no_class`.
        settings: how codes are sampled; a window has at most as many iterations as frames to generate.
        seeds: seed of each sample.
        known: codes and timbre that are given. Without a timbre, the first window samples it for the class or, if it
            has known codes, is generated without one; the later windows are conditioned on the timbre of the first.
        windows: from `plan_windows`, the same for all samples.
        choice: which of at most `settings.candidates` candidates of a window is kept; None: one is generated.
        bf16: compute linear layers in bfloat16.
    """
    codes_BQT, is_known_BQT, timbre_BS = known.codes_BQT.clone(), known.mask_BQT.clone(), known.timbre_BS
    first_choice = [0] * len(seeds)
    for number, window in enumerate(windows):
        in_window, kept = slice(window.first, window.end), slice(window.first, window.until)
        num_unknown = int((~is_known_BQT[:, :, in_window]).any(1).sum(1).max())
        task = _WindowTask(
            model=model,
            label_B=label_B,
            settings=settings if number == 0 and timbre_BS is None else _limit_iterations(settings, num_unknown),
            seeds=[window_seed(seed, number) for seed in seeds],
            known=Known(codes_BQT[:, :, in_window], is_known_BQT[:, :, in_window], timbre_BS),
            bf16=bf16,
        )
        if choice is None:
            new, best = task.generate([Candidate(sample, 0) for sample in range(len(seeds))]), first_choice
        else:
            rows = batch_rows(len(seeds), settings.candidates, codes_BQT[0, :, in_window].shape[1])
            selection = Selection(settings.candidates, settings.accept_probability, rows, choice.threads)
            new, best = select(
                len(seeds), selection, task.generate, partial(choice.score, number=number, window=window)
            )
        first_choice = best if number == 0 else first_choice
        new_BQT = torch.stack(new)
        codes_BQT[:, :, kept] = new_BQT[:, :, : window.until - window.first]
        is_known_BQT[:, :, kept] = True
        if timbre_BS is None and len(windows) > 1 and isinstance(model, PlaceNetwork):
            is_kept_BT = torch.ones(len(seeds), window.until - window.first, dtype=torch.bool)
            timbre_BS = model.timbre_of(codes_BQT[:, :, kept].to(model.device), is_kept_BT.to(model.device))
    return codes_BQT, first_choice
