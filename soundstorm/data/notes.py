"""Summary of the notes on recordings (what was found and changed while they were read), one line per kind of note."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence

from soundstorm.schemas import Note

PHRASES = {
    Note.ANTI_PHASE: "channels in anti-phase, the louder one was used",
    Note.OFFSET: "a DC offset, which was removed",
    Note.SCALED: "peaks above full scale, scaled down",
    Note.SILENT: "digital silence",
    Note.NEAR_SILENT: "nearly silent",
    Note.CLIPPED: "clipping",
    Note.CUT: "cut to --max-duration",
    Note.SPLIT: "windows of longer recordings",
    Note.LOW_RATE: "a low sample rate, so that the top of the spectrum is empty",
}

_UNUSED = re.compile(r"([\d.]+) of [\d.]+ s are not used")


def kind_of(note: str) -> str:
    """The `Note` of an entry of the column `notes`."""
    return note.partition(":")[0]


class NoteTally:
    """Counts the notes of clips that are added one after the other.

    Args:
        notes: the notes of each of the first clips.
    """

    def __init__(self, notes: Mapping[str, Sequence[str]] | None = None) -> None:
        self._counts: Counter[str] = Counter()
        self._examples: dict[str, tuple[str, str]] = {}
        self.unused_s = 0.0
        """Seconds of sound that were cut off in all."""
        self.silent: list[str] = []
        """The clips that are digital silence."""
        for clip_id, given in (notes or {}).items():
            self.add(clip_id, given)

    def add(self, clip_id: str, given: Sequence[str]) -> None:
        """Count the notes of a clip."""
        kinds = [kind_of(note) for note in given]
        for kind, note in zip(kinds, given, strict=True):
            self._counts[kind] += 1
            first, _ = self._examples.get(kind, (None, ""))
            if first is None or clip_id < first:
                self._examples[kind] = clip_id, note.partition(": ")[2]
            if kind == Note.CUT and (match := _UNUSED.search(note)):
                self.unused_s += float(match[1])
        if Note.SILENT in kinds:
            self.silent.append(clip_id)

    @property
    def counts(self) -> dict[str, int]:
        """Number of clips with each kind of note."""
        return {note.value: self._counts[note.value] for note in Note if self._counts[note.value]}

    def lines(self, num_clips: int, remedy: str = "") -> list[str]:
        """A line for each kind of note: how many of `num_clips` clips have it, and an example; `remedy` is added to the
        line on recordings that were cut."""
        lines = []
        for kind, count in self.counts.items():
            clip_id, detail = self._examples[kind]
            line = f"{PHRASES[Note(kind)]}: {count} of {num_clips} clips, for example {clip_id} ({detail})"
            if kind == Note.CUT:
                line += f"; {self.unused_s:.2f} s in all are not used{remedy}"
            lines.append(line)
        return lines
