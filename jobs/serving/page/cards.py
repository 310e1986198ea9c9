"""JSON state of the page: the browser shows a card for each sound, and the sound that is edited."""

import secrets
from collections.abc import Sequence
from typing import Any

from jobs.serving.page.generation_times import in_words
from jobs.serving.page.sound_routes import url_of
from jobs.serving.page.sound_store import StoredSound
from soundstorm.data.categories import by_group
from soundstorm.editing.regions import Region

ALL, OTHERS = "all", "others"
"""Groups in addition to those of ESC-50."""


def title_of(category: str) -> str:
    """Display name of a class, such as `Sea waves`."""
    words = category.replace("_", " ")
    return words[:1].upper() + words[1:]


def groups_of(categories: list[str]) -> dict[str, list[tuple[str, str]]]:
    """Groups of classes with their display names, sorted by these; `all` first, `others` last."""
    sorted_by_title = sorted(categories, key=lambda category: title_of(category).casefold())
    groups = dict(by_group(sorted_by_title))
    grouped = {category for members in groups.values() for category in members}
    others = [category for category in sorted_by_title if category not in grouped]
    if groups and others:
        groups[OTHERS] = others
    return {
        name: [(title_of(category), category) for category in members]
        for name, members in ({ALL: sorted_by_title} | groups).items()
    }


def card_of(sound: StoredSound) -> dict[str, Any]:
    """The card of a sound."""
    made = "" if sound.seconds is None else f"made in {in_words(sound.seconds)}"
    seed = "" if sound.seed is None else f"seed {sound.seed}"
    facts = [sound.kind, f"{sound.picture.duration_s:.1f} s", "loop" if sound.loop else "", seed, made]
    return {
        "id": sound.id,
        "title": sound.name or title_of(sound.category or "sound"),
        "facts": " · ".join(fact for fact in facts if fact),
        "duration_s": sound.picture.duration_s,
        "peaks": sound.picture.peaks,
        "audio": url_of(sound),
        "picture": url_of(sound, "/picture"),
        "recipe": None if sound.recipe is None else url_of(sound, "/recipe"),
        "kept": sound.kept,
        "loop": sound.loop,
    }


def editor_state(sound: StoredSound, regions: Sequence[Region] = (), *, is_chosen: bool = False) -> dict[str, Any]:
    """State of the editor for a sound.

    Args:
        sound: the sound.
        regions: marked regions.
        is_chosen: whether the user has just selected it, so that the page scrolls to the editor.
    """
    return {
        "card": card_of(sound),
        "regions": [[region.start_s, region.end_s] for region in regions],
        "chosen": secrets.token_hex(4) if is_chosen else None,
    }
