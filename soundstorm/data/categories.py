"""Class names: when two spellings mean the same class, since datasets, folders, classifiers and people spell them
differently; and the five groups of classes of ESC-50."""

import difflib
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

from soundstorm.errors import SoundStormError

GROUPS = {
    "animals": "dog rooster pig cow frog cat hen insects sheep crow",
    "nature and water": "rain sea_waves crackling_fire crickets chirping_birds water_drops wind pouring_water "
    "toilet_flush thunderstorm",
    "human, no speech": "crying_baby sneezing clapping breathing coughing footsteps laughing brushing_teeth snoring "
    "drinking_sipping",
    "interior": "door_wood_knock mouse_click keyboard_typing door_wood_creaks can_opening washing_machine "
    "vacuum_cleaner clock_alarm clock_tick glass_breaking",
    "exterior": "helicopter chainsaw siren car_horn engine train church_bells airplane fireworks hand_saw",
}
"""Name of the group -> classes as ESC-50 spells them: table 1 of K. J. Piczak, "ESC: Dataset for Environmental Sound
Classification", ACM Multimedia 2015."""
MAX_LISTED = 60
"""Maximum number of categories that an error lists."""
_GROUP_OF = {category: group for group, categories in GROUPS.items() for category in categories.split()}


@lru_cache(maxsize=10_000)
def normalized(category: str) -> str:
    """A category in normal form: `Crying Baby`, `crying-baby` and `crying_baby` become equal, and so do both Unicode
    forms of `Möwe`.

    Letters, digits and symbols (such as emoji) are kept, in lower case; everything between them becomes one underscore.
    """
    text = unicodedata.normalize("NFKC", category).casefold()
    return "_".join("".join(" " if _separates(character) else character for character in text).split()) or text


def find_category(name: str, categories: Sequence[str], option: str, owner: str) -> int:
    """Index in `categories` of the class that `name` means, ignoring case, underscores, spaces and hyphens.

    An exact match has priority, then one by `normalized`, then one without separators between the words (`seawaves`).

    Args:
        name: as the user typed it.
        categories: all different.
        option: option that it was given with, for errors.
        owner: what has these classes, for errors.

    Raises:
        SoundStormError: no class, or more than one, matches; the message lists the most similar ones.
    """
    for spelling in (str, normalized, _letters):
        found = [position for position, category in enumerate(categories) if spelling(category) == spelling(name)]
        if len(found) == 1:
            return found[0]
        if found:
            choices = " or ".join(f"'{categories[position]}'" for position in found)
            raise SoundStormError(f"{option} is '{name}': {owner} has {choices}, give one of them exactly")
    near = " or ".join(f"'{category}'" for category in _nearest(name, categories))
    hint = f"did you mean {near}? " if near else ""
    listed = ", ".join(categories[:MAX_LISTED]) + (
        f" and {len(categories) - MAX_LISTED} others" if len(categories) > MAX_LISTED else ""
    )
    raise SoundStormError(f"{option} is '{name}': {hint}{owner} has {listed}")


def group_of(category: str) -> str | None:
    """The group of a class of ESC-50, whatever its spelling; None for any other class."""
    return _GROUP_OF.get(normalized(category))


def by_group(categories: Iterable[str]) -> Mapping[str, list[str]]:
    """The categories of each non-empty group, in the order of GROUPS; categories without a group are left out."""
    found: dict[str, list[str]] = {group: [] for group in GROUPS}
    for category in categories:
        if (group := group_of(category)) is not None:
            found[group].append(category)
    return {group: members for group, members in found.items() if members}


def listed(categories: Sequence[str], most: int) -> str:
    """The first `most` categories as a list, and the number of the others."""
    more = len(categories) - most
    return ", ".join(categories[:most]) + (f" and {more} more" if more > 0 else "")


def _nearest(name: str, categories: Sequence[str], most: int = 3) -> list[str]:
    """Categories that `name` may have meant: those that share a word with it or are spelled similarly, the best match
    first."""
    words, letters = set(normalized(name).split("_")), _letters(name)
    scores = {
        category: difflib.SequenceMatcher(None, letters, _letters(category)).ratio()
        + bool(words & set(normalized(category).split("_")))
        for category in categories
    }
    best = max(scores.values(), default=0.0)
    return [
        category
        for category in sorted(scores, key=lambda key: (-scores[key], key))
        if scores[category] >= max(0.6, best - 0.2)
    ][:most]


def _separates(character: str) -> bool:
    return (
        unicodedata.category(character)[0] in "PZC" and unicodedata.category(character) != "Cf"
    )  # characters of category Cf join the parts of an emoji


def _letters(category: str) -> str:
    return normalized(category).replace("_", "")
