"""What is made, as data: new sound, one that goes on from a prompt, or a recording that is edited. The same for all
takes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from soundstorm.generation.editing import KEPT_LEVELS, Editor


class Edit(Protocol):
    """One kind of edit."""

    @property
    def keeps_recording(self) -> bool:
        """Whether what is made holds samples of a recording, which must stay as they are."""
        ...

    def takes(self, editor: Editor, labels: Sequence[int], seeds: Sequence[int], num_samples: int) -> list[np.ndarray]:
        """One take (num_samples,), float32, for each label and seed."""
        ...


@dataclass(kw_only=True, frozen=True)
class New:
    """New sound."""

    prompt_QT: np.ndarray | None = None
    """Codes that every take begins with."""
    loop: bool = False
    keeps_recording = False

    def takes(self, editor: Editor, labels: Sequence[int], seeds: Sequence[int], num_samples: int) -> list[np.ndarray]:
        return editor.new(labels, seeds, num_samples, prompt_QT=self.prompt_QT, loop=self.loop)


@dataclass(kw_only=True, frozen=True)
class Inpainting:
    """A recording with new sound in some places."""

    recording_N: np.ndarray
    """int16 (N,) at the codec's rate."""
    spans: tuple[tuple[int, int], ...] = ()
    """First sample of each place and the one after its last."""
    loop: bool = False
    """Whether what lies around the end and the beginning is new, so that they fit."""
    keeps_recording = True

    def takes(self, editor: Editor, labels: Sequence[int], seeds: Sequence[int], num_samples: int) -> list[np.ndarray]:
        if not self.spans:
            return editor.seamless(self.recording_N, labels, seeds)
        takes = editor.inpainted(self.recording_N, self.spans, labels, seeds)
        return editor.made_seamless(takes, labels, seeds) if self.loop else takes


@dataclass(kw_only=True, frozen=True)
class Variation:
    """A recording, a share of whose frames is drawn anew."""

    recording_N: np.ndarray
    """int16 (N,) at the codec's rate."""
    strength: float
    """That share."""
    kept_levels: int = KEPT_LEVELS
    """First levels that the other frames keep."""
    loop: bool = False
    keeps_recording = False

    def takes(self, editor: Editor, labels: Sequence[int], seeds: Sequence[int], num_samples: int) -> list[np.ndarray]:
        return editor.varied(
            self.recording_N, self.strength, labels, seeds, kept_levels=self.kept_levels, loop=self.loop
        )
