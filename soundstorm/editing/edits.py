"""Requests to an `Editor` as data: new sound, in-painting, or variations. All takes of a request share the edit."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from soundstorm.audio.files import to_pcm16
from soundstorm.editing.editor import KEPT_LEVELS, Editor


class Edit(Protocol):
    """One kind of edit."""

    @property
    def keeps_recording(self) -> bool:
        """Whether the result contains samples of a recording, which must not be changed."""
        ...

    def takes(self, editor: Editor, labels: Sequence[int], seeds: Sequence[int], num_samples: int) -> list[np.ndarray]:
        """One take (num_samples,), float32, for each label and seed."""
        ...


@dataclass(kw_only=True, frozen=True)
class New:
    """New sound, from scratch or as the continuation of a prompt."""

    prompt_QT: np.ndarray | None = None
    """Codes with which every take begins."""
    loop: bool = False
    steady: bool = True
    """Whether clips of several windows stay as loud as the first, if that is steady."""
    keeps_recording = False

    def takes(self, editor: Editor, labels: Sequence[int], seeds: Sequence[int], num_samples: int) -> list[np.ndarray]:
        return editor.new(labels, seeds, num_samples, prompt_QT=self.prompt_QT, loop=self.loop, steady=self.steady)


@dataclass(kw_only=True, frozen=True)
class Inpainting:
    """A recording with new sound in some spans."""

    recording_N: np.ndarray
    """int16 (N,) at the codec's rate."""
    spans: tuple[tuple[int, int], ...] = ()
    """First sample of each span and the one after its last; empty: only the seam of a loop is new."""
    loop: bool = False
    """Whether to close the recording to a loop."""
    second_try: bool = True
    """Whether spans in which the class is not recognized are generated once more."""
    keeps_recording = True

    def takes(self, editor: Editor, labels: Sequence[int], seeds: Sequence[int], num_samples: int) -> list[np.ndarray]:
        if not self.spans:
            return editor.seamless(self.recording_N, labels, seeds)
        takes = editor.inpainted(self.recording_N, self.spans, labels, seeds, second_try=self.second_try)
        if not self.loop:
            return takes
        rows = zip(takes, labels, seeds, strict=True)
        return [editor.seamless(to_pcm16(take_N), [label], [seed])[0] for take_N, label, seed in rows]


@dataclass(kw_only=True, frozen=True)
class Variation:
    """A variation of a recording."""

    recording_N: np.ndarray
    """int16 (N,) at the codec's rate."""
    strength: float
    """Fraction of the frames that are generated anew."""
    kept_levels: int = KEPT_LEVELS
    """Number of levels that the other frames keep."""
    loop: bool = False
    keeps_recording = False

    def takes(self, editor: Editor, labels: Sequence[int], seeds: Sequence[int], num_samples: int) -> list[np.ndarray]:
        return editor.varied(
            self.recording_N, self.strength, labels, seeds, kept_levels=self.kept_levels, loop=self.loop
        )
