"""A second try at in-painting, where no candidate sounds like its class.

A candidate between given sounds has to go with this recording, so that a choice among candidates is worth less than
among whole clips.

1. If the reranker gives the class of a region a probability of less than RECOGNIZED, the frames of the region are
   generated as a clip of their own, with a timbre that is drawn for the class. A region shorter than SHORTEST_S has no
   second try, since what the reranker hears of it is mostly the recording; nor has one that is longer than a window,
   since most of its windows follow new sound.
2. Their first and last EDGE_S are then generated again, given the rest of them and the recording.
3. The result is kept if the reranker gives it a higher probability than the first try.

If one take needs a second try, all takes are generated again, so that the batch has the same size (in bfloat16 codes
depend on it), and each keeps its own better try: no take depends on another.

Legend: B batch of takes, Q levels, T frames.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from soundstorm.generation.candidates import Candidate
from soundstorm.generation.reranking import MIN_HEARD_S
from soundstorm.generation.windows import Choice, Window

RECOGNIZED = 0.3
"""Probability of its class from which on a first try is kept."""
SHORTEST_S = 0.5
"""Shortest region in seconds that has a second try."""
EDGE_S = 0.2
"""Seconds at both ends of a region that join it to the recording; each is at most a quarter of the region."""


def frame_mask(num_frames: int, frames: range) -> Tensor:
    """True, (num_frames,), at some frames."""
    mask_T = torch.zeros(num_frames, dtype=torch.bool)
    mask_T[frames.start : frames.stop] = True
    return mask_T


def edge_mask(num_frames: int, frames: range, edge_frames: int) -> Tensor:
    """True, (num_frames,), at the ends of a region of `frames` where it meets the recording."""
    width = min(edge_frames, len(frames) // 4)
    start, stop = frames.start, frames.stop
    is_edge_T = frame_mask(num_frames, range(start, start + width if start > 0 else start))
    return is_edge_T | frame_mask(num_frames, range(stop - width if stop < num_frames else stop, stop))


def region_scores(reranking: Choice, codes_BQT: Tensor, frames: range, frame_rate: float) -> Sequence[float]:
    """The probability of its class that the reranker gives the region of each take, or a longer part around a region
    of less than MIN_HEARD_S.

    Args:
        reranking: hears the frames of the region.
        codes_BQT: codes of the takes.
        frames: the frames of the region.
        frame_rate: frames per second.
    """
    around = round(MIN_HEARD_S * frame_rate)
    first, end = max(0, frames.start - around), min(codes_BQT.shape[2], frames.stop + around)
    takes = [Candidate(take, 0) for take in range(len(codes_BQT))]
    return reranking.score(takes, list(codes_BQT[:, :, first:end]), number=0, window=Window(first, end, end))


def better(
    first_BQT: Tensor, first_scores: Sequence[float], second_BQT: Tensor, second_scores: Sequence[float]
) -> Tensor:
    """The codes (B, Q, T) of the better try of each take, given both and their scores."""
    is_second_B = torch.tensor(
        [one < RECOGNIZED and other > one for one, other in zip(first_scores, second_scores, strict=True)]
    )
    return torch.where(is_second_B[:, None, None], second_BQT, first_BQT)
