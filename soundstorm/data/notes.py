"""Summary of the notes on recordings (what was found and changed while they were read), one line per kind of note."""

import re
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


def count_notes(notes: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """Number of clips with each kind of note, from the notes of each clip."""
    kinds = [kind_of(note) for given in notes.values() for note in given]
    return {note.value: count for note in Note if (count := kinds.count(note.value))}


def unused_s(notes: Mapping[str, Sequence[str]]) -> float:
    """Seconds of sound that were cut off in all."""
    found = (_UNUSED.search(note) for given in notes.values() for note in given if kind_of(note) == Note.CUT)
    return sum(float(match[1]) for match in found if match)


def note_lines(notes: Mapping[str, Sequence[str]], num_clips: int, remedy: str = "") -> list[str]:
    """A line for each kind of note: how many of `num_clips` clips have it, and an example.

    Args:
        notes: the notes of each clip.
        num_clips: number of clips in all.
        remedy: added to the line on recordings that were cut.
    """
    lines = []
    for kind, count in count_notes(notes).items():
        clip_id, detail = next(
            (clip_id, note.partition(": ")[2])
            for clip_id, given in sorted(notes.items())
            for note in given
            if kind_of(note) == kind
        )
        line = f"{PHRASES[Note(kind)]}: {count} of {num_clips} clips, for example {clip_id} ({detail})"
        if kind == Note.CUT:
            line += f"; {unused_s(notes):.2f} s in all are not used{remedy}"
        lines.append(line)
    return lines
