"""Batches of clips of different lengths, random crops, and random choice of augmented views.

Legend: B batch, Q levels, T codec frames.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from soundstorm.errors import SoundStormError

PADDING = -1
"""Value of `codes_BQT` after the end of a clip; not a valid code, so that training on it by mistake fails."""

VIEW_STREAM = 1
"""Separates the random numbers for views from those for crops, which have the same seed, epoch and clip."""


@dataclass(kw_only=True, frozen=True)
class Batch:
    """Clips padded to the longest of them."""

    codes_BQT: Tensor
    """int64 codes, PADDING after the end of a clip."""
    label_B: Tensor
    """int64 class."""
    valid_BT: Tensor
    """True at real frames."""

    def to(self, device: torch.device | str) -> "Batch":
        return Batch(
            codes_BQT=self.codes_BQT.to(device), label_B=self.label_B.to(device), valid_BT=self.valid_BT.to(device)
        )


def seeded_generator(*parts: int) -> torch.Generator:
    """A CPU random generator seeded with a sequence of non-negative integers, such as (seed, epoch, worker)."""
    state = np.random.SeedSequence(parts).generate_state(2, np.uint32)
    return torch.Generator().manual_seed(int(state[0]) << 31 ^ int(state[1]))


def crop(codes_QT: np.ndarray, crop_frames: int | None, seed: int, epoch: int, index: int) -> np.ndarray:
    """A random crop of `crop_frames` frames, determined by seed, epoch and index of the clip; shorter clips are
    returned whole, and all if `crop_frames` is None."""
    num_frames = codes_QT.shape[1]
    if crop_frames is None or num_frames <= crop_frames:
        return codes_QT
    start = int(np.random.default_rng([seed, epoch, index]).integers(num_frames - crop_frames + 1))
    return codes_QT[:, start : start + crop_frames]


def fill(codes_QT: np.ndarray, filled_frames: int | None) -> np.ndarray:
    """Pad a clip to `filled_frames` frames with code 0, a valid code, at every level; None: no padding."""
    missing = 0 if filled_frames is None else max(0, filled_frames - codes_QT.shape[1])
    return np.pad(codes_QT, ((0, 0), (0, missing)))


def sample_view(num_views: int, recorded_share: float, seed: int, epoch: int, index: int) -> int:
    """The view of a clip in an epoch, chosen at random from (seed, epoch, index of the clip).

    View 0, the clip as recorded, has probability `recorded_share`; otherwise all views, 0 included, are equally likely.
    """
    if num_views == 1:
        return 0
    rng = np.random.default_rng([seed, epoch, index, VIEW_STREAM])
    return 0 if rng.random() < recorded_share else int(rng.integers(num_views))


def collate(codes: Sequence[np.ndarray | Tensor], labels: Sequence[int]) -> Batch:
    """Pads clips (Q, T) to a batch; raises SoundStormError for no clips, a clip of no frames, or clips of unequal
    levels."""
    if not codes or len(codes) != len(labels):
        raise SoundStormError(
            f"a batch of {len(codes)} clips and {len(labels)} labels: it needs one label per clip, and at least one "
            "clip"
        )
    clips = [torch.as_tensor(np.asarray(clip).astype(np.int64)) for clip in codes]
    num_levels = clips[0].shape[0]
    for index, clip in enumerate(clips):
        if clip.ndim != 2 or clip.shape[0] != num_levels or clip.shape[1] == 0:
            raise SoundStormError(
                f"clip {index} of a batch has codes of shape {tuple(clip.shape)}: expected {num_levels} levels and at "
                "least one frame"
            )
    length_B = torch.tensor([clip.shape[1] for clip in clips])
    codes_BQT = torch.full((len(clips), num_levels, int(length_B.max())), PADDING, dtype=torch.int64)
    for row, clip in zip(codes_BQT, clips, strict=True):
        row[:, : clip.shape[1]] = clip
    valid_BT = torch.arange(codes_BQT.shape[2]) < length_B[:, None]
    return Batch(codes_BQT=codes_BQT, label_B=torch.tensor(labels, dtype=torch.int64), valid_BT=valid_BT)
