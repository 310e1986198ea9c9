"""The report's section to listen: classes with their players and pictures, and what finds one among fifty: a search
field, groups, and an order that puts the worst first."""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import numpy as np
from numpy.typing import NDArray

from soundstorm.data.categories import by_group, group_of, normalized
from soundstorm.errors import SoundStormError
from soundstorm.evaluation.closeness_result import Confusion
from soundstorm.reports.page import data_uri, themed
from soundstorm.reports.spectrograms import Clip, Panels, Scale, spectrogram_grid
from soundstorm.schemas import Source

AUDIO_TYPES = ("audio/flac", "audio/wav", "audio/ogg", "audio/mpeg")
SCRIPT = """
document.addEventListener("play", (event) => {
  for (const player of document.querySelectorAll("audio")) if (player !== event.target) player.pause();
}, true);
const finder = document.querySelector("form.finder");
if (finder) {
  const list = document.querySelector("#class-list");
  const classes = [...list.children];
  const number = (element) => element.dataset.right === "" ? 2 : Number(element.dataset.right);
  const find = () => {
    const words = finder.elements.words.value.trim().toLowerCase().split(/\\s+/).filter(Boolean);
    const group = finder.elements.group ? finder.elements.group.value : "";
    const shown = (element) => (!group || element.dataset.group === group)
      && words.every((word) => element.dataset.name.includes(word));
    for (const element of document.querySelectorAll("[data-name]")) element.hidden = !shown(element);
    const count = classes.filter((element) => !element.hidden).length;
    document.querySelector("#found").textContent = `${count} of ${classes.length} classes`;
  };
  const sort = () => {
    const worst = finder.elements.order && finder.elements.order.value === "worst";
    list.append(...[...classes].sort((a, b) => worst ? number(a) - number(b) : 0));
  };
  finder.addEventListener("input", () => { sort(); find(); });
  finder.addEventListener("submit", (event) => event.preventDefault());
  finder.hidden = false;
  sort(); find();
}
"""


@dataclass(kw_only=True, frozen=True, slots=True)
class Example:
    """One clip to listen to. Its sound is either inside the page (`audio_bytes`) or behind a link (`audio_src`)."""

    category: str
    source: Source
    clip_id: str
    duration_s: float
    audio_bytes: bytes | None = None
    """An audio file, as stored."""
    mime_type: str = "audio/flac"
    """What `audio_bytes` is; one of AUDIO_TYPES."""
    audio_src: str | None = None
    """Address of the audio, for instance a presigned link; it is fetched when somebody plays it."""
    waveform: NDArray[np.floating] | None = None
    """The clip, mono, from -1 to 1, for its pictures; without it there are none."""
    sample_rate: int = 24000
    """Samples per second of `waveform`."""

    def __post_init__(self) -> None:
        if (self.audio_bytes is None) == (self.audio_src is None):
            raise SoundStormError(
                f"example '{self.clip_id}': give either audio_bytes or audio_src, not both or neither"
            )
        if self.mime_type not in AUDIO_TYPES:
            raise SoundStormError(
                f"example '{self.clip_id}': mime_type is '{self.mime_type}'; it is one of {', '.join(AUDIO_TYPES)}"
            )
        if self.waveform is not None and (self.waveform.ndim != 1 or not len(self.waveform)):
            raise SoundStormError(
                f"example '{self.clip_id}': waveform has shape {self.waveform.shape}; it must be (N,) with at least "
                "one sample"
            )


@dataclass(frozen=True, slots=True)
class Pictures:
    """Pictures of examples, each for light and for dark pages."""

    panels: Sequence[dict[str, str] | None]
    """One for each example, in their order; None for one without a waveform."""
    overview: dict[str, str] | None
    """The first clip of each class and source in one grid, where there is more than one class to see."""


def draw(examples: Sequence[Example]) -> Pictures:
    """The pictures of `examples`, which take longer than the rest of the page."""
    clips = [None if x.waveform is None else Clip(x.waveform, x.sample_rate) for x in examples]
    of_class: dict[str, list[Clip]] = {}
    rows: dict[str, dict[Source, Clip]] = {}
    for example, clip in zip(examples, clips, strict=True):
        if clip is not None:
            of_class.setdefault(example.category, []).append(clip)
            rows.setdefault(example.category, {}).setdefault(example.source, clip)
    scales, panels = {category: Scale.of(group) for category, group in of_class.items()}, Panels()

    def panel(example: Example, clip: Clip) -> dict[str, str]:
        return themed(lambda theme: panels.draw(clip, theme, example.source, scales[example.category]))

    return Pictures(
        panels=[None if clip is None else panel(example, clip) for example, clip in zip(examples, clips, strict=True)],
        overview=themed(lambda theme: spectrogram_grid(rows, theme)) if len(rows) > 1 else None,
    )


def listening_section(
    examples: Sequence[Example], confusion: Confusion | None, pictures: Pictures | None = None
) -> dict[str, Any]:
    """What the template `listening.html.j2` shows.

    Args:
        examples: shown by category in this order; the first of each source side by side, then the second of each.
        confusion: what the classifier calls the generated clips; without it nothing says which class is worst.
        pictures: what `draw` makes of the examples; None: it is called.
    """
    pictures = pictures or draw(examples)
    groups = by_group(list(dict.fromkeys(example.category for example in examples)))
    return {
        "classes": _classes(examples, pictures, _shares_right(confusion)),
        "groups": list(groups) if len(groups) > 1 else [],
        "can_sort": confusion is not None,
        "overview": pictures.overview,
    }


def policy(examples: Sequence[Example]) -> str:
    """The content security policy of a page with these clips: nothing from outside but linked sound, no script but its
    own."""
    script_hash = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    media = "data: 'self' file: http: https:" if any(example.audio_src is not None for example in examples) else "data:"
    return (
        f"default-src 'none'; img-src data:; media-src {media}; style-src 'unsafe-inline'; script-src "
        f"'sha256-{script_hash}'"
    )


def _shares_right(confusion: Confusion | None) -> dict[str, float]:
    """By normalized class: the share of its generated clips that the classifier calls by its name."""
    if confusion is None:
        return {}
    column = {normalized(name): position for position, name in enumerate(confusion.predicted)}
    return {
        key: counts[column[key]] / sum(counts) if key in column else 0.0
        for name, counts in zip(confusion.categories, confusion.generated, strict=True)
        if sum(counts) and (key := normalized(name))
    }


def _classes(examples: Sequence[Example], pictures: Pictures, right: Mapping[str, float]) -> list[dict[str, Any]]:
    """Category by category, rows of players side by side, None where a source has no clip for the row."""
    sources = [source for source in Source if any(example.source == source for example in examples)]
    players: dict[str, list[tuple[Source, dict[str, Any]]]] = {}
    for example, picture in zip(examples, pictures.panels, strict=True):
        players.setdefault(example.category, []).append((example.source, _player(example, picture)))
    return [
        {
            "id": f"class-{number}",
            "name": category,
            "search": searchable(category),
            "group": group_of(category) or "",
            "right": right.get(normalized(category)),
            "rows": list(zip_longest(*([player for whose, player in mine if whose == source] for source in sources))),
        }
        for number, (category, mine) in enumerate(players.items())
    ]


def searchable(category: str) -> str:
    """The name of a class as the search field compares it."""
    return category.casefold().replace("_", " ")


def _player(example: Example, picture: dict[str, str] | None) -> dict[str, Any]:
    audio = data_uri(example.audio_bytes, example.mime_type) if example.audio_bytes is not None else example.audio_src
    return {
        "source": example.source.value,
        "clip_id": example.clip_id,
        "duration_s": example.duration_s,
        "audio": audio,
        "preload": "none" if example.audio_bytes is None else "metadata",
        "picture": picture,
    }
