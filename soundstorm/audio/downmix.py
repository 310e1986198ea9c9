"""Mixing the channels of a recording down to one: DC offset, channels in anti-phase, samples beyond full scale.

Legend: N frames, C channels.
"""

from dataclasses import dataclass, field

import numpy as np

from soundstorm.schemas import Note

OFFSET = 0.01
"""A mean further than this from 0 is a DC offset: 1% of full scale (-40 dB), or 1% of the peak if that is beyond full
scale."""
CANCELLED = 0.1
"""The channels count as in anti-phase if the power of their mean is below this fraction (-10 dB) of what the mean of
uncorrelated channels would have."""
FULL_SCALE = 1 - 1.5 / 32768
"""A sample of at least this magnitude counts as clipped: the largest and the smallest value of 16 bits."""
CLIPPED_SHARE = 0.01
"""A recording gets a note if at least this fraction of a channel's samples is clipped."""


@dataclass(kw_only=True, frozen=True)
class Downmix:
    """How to turn the channels of a recording into one."""

    span: tuple[int, int]
    """First frame that is not digital silence and the one after the last such frame; the offset is removed only between
    them."""
    offset_C: np.ndarray
    """float32, DC offset that is subtracted from each channel."""
    channel: int | None
    """Index of the channel to use; None: average all channels."""
    gain: float
    notes: list[str] = field(default_factory=list)

    def apply(self, block_NC: np.ndarray, first: int) -> np.ndarray:
        """Mix frames, float32 (N, C), down to one channel (N,); `first` is the index of the first of them in the
        recording."""
        if self.offset_C.any():
            block_NC = block_NC.copy()
            block_NC[max(0, self.span[0] - first) : max(0, self.span[1] - first)] -= self.offset_C
        if self.channel is not None or block_NC.shape[1] == 1:
            mono_N = block_NC[:, self.channel or 0]
        else:
            mono_N = block_NC.mean(axis=1, dtype=np.float64).astype(np.float32)
        return mono_N if self.gain == 1 else mono_N * np.float32(self.gain)


class Levels:
    """Collects level statistics of a recording, block by block.

    Args:
        channels: C.
    """

    def __init__(self, channels: int) -> None:
        self.num_frames = 0
        self._span = [0, 0]
        self._sum_C, self._power_C = np.zeros(channels), np.zeros(channels)
        self._sum, self._power = 0.0, 0.0
        self._low_C, self._high_C = np.full(channels, np.inf), np.full(channels, -np.inf)
        self._clipped_C = np.zeros(channels, np.int64)

    def add(self, block_NC: np.ndarray) -> None:
        """Add the next frames, float32 (N, C), all finite."""
        sounding_N: np.ndarray = (block_NC != 0).any(axis=1)
        if sounding_N.any():
            first = self.num_frames + int(sounding_N.argmax())
            self._span = [
                self._span[0] if self._span[1] else first,
                self.num_frames + len(sounding_N) - int(sounding_N[::-1].argmax()),
            ]
        self.num_frames += len(block_NC)
        self._sum_C += block_NC.sum(axis=0, dtype=np.float64)
        self._power_C += np.einsum("nc,nc->c", block_NC, block_NC, dtype=np.float64)
        mean_N = block_NC.mean(axis=1, dtype=np.float64)
        self._sum += float(mean_N.sum())
        self._power += float(mean_N @ mean_N)
        self._low_C, self._high_C = (
            np.minimum(self._low_C, block_NC.min(axis=0)),
            np.maximum(self._high_C, block_NC.max(axis=0)),
        )
        self._clipped_C += (np.abs(block_NC) >= FULL_SCALE).sum(axis=0)

    def downmix(self, is_floating: bool) -> Downmix:
        """How to mix the recording down; it must have at least one frame.

        Args:
            is_floating: whether the file stores floating-point numbers. Such a file may exceed full scale and is then
                scaled down; the small overshoots of lossy decoders are not.
        """
        notes = []
        length = max(1, self._span[1] - self._span[0])
        mean_C = self._sum_C / length
        full_scale = (
            max(1.0, float(np.maximum(np.abs(self._low_C), np.abs(self._high_C)).max())) if is_floating else 1.0
        )
        offset_C = np.where(np.abs(mean_C) > OFFSET * full_scale, mean_C, 0.0)
        if offset_C.any():
            offsets = ", ".join(f"{offset:+.3f}" for offset in offset_C / full_scale)
            notes.append(f"{Note.OFFSET.value}: {offsets} of full scale was removed")
        varying_C = np.maximum(0.0, self._power_C / length - mean_C**2)
        channel = self._louder(varying_C, max(0.0, self._power / length - (self._sum / length) ** 2))
        if channel is not None:
            notes.append(f"{Note.ANTI_PHASE.value}: the {len(mean_C)} channels cancel, channel {channel + 1} was taken")
        peak = float(np.maximum(np.abs(self._low_C - offset_C), np.abs(self._high_C - offset_C)).max())
        gain = 1 / max(1.0, peak) if is_floating else 1.0
        if gain < 1:
            notes.append(f"{Note.SCALED.value}: its peak was {peak:.3f} of full scale")
        clipped = float(self._clipped_C.max()) / max(1, self.num_frames)
        if gain == 1 and clipped > CLIPPED_SHARE:
            notes.append(f"{Note.CLIPPED.value}: {clipped:.1%} of the samples are at full scale")
        return Downmix(
            span=(self._span[0], self._span[1]),
            offset_C=offset_C.astype(np.float32),
            channel=channel,
            gain=gain,
            notes=notes,
        )

    @staticmethod
    def _louder(power_C: np.ndarray, power_of_mean: float) -> int | None:
        """Index of the loudest channel if the channels cancel each other; None if they do not."""
        unrelated = float(power_C.sum()) / len(power_C) ** 2
        cancels = len(power_C) > 1 and unrelated > 0 and power_of_mean < CANCELLED * unrelated
        return int(np.argmax(power_C)) if cancels else None
