"""The five groups into which ESC-50 sorts its fifty classes (K. J. Piczak, "ESC: Dataset for Environmental Sound
Classification", ACM Multimedia 2015, table 1)."""

from collections.abc import Iterable, Mapping

from soundstorm.data.categories import normalized

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
"""Name for people -> classes as ESC-50 spells them."""
_GROUP_OF = {category: group for group, categories in GROUPS.items() for category in categories.split()}


def group_of(category: str) -> str | None:
    """The group of a class of ESC-50, however its name is spelt; None for any other class."""
    return _GROUP_OF.get(normalized(category))


def by_group(categories: Iterable[str]) -> Mapping[str, list[str]]:
    """The categories of each group that has any, in the order of GROUPS; those of no group are left out."""
    found: dict[str, list[str]] = {group: [] for group in GROUPS}
    for category in categories:
        if (group := group_of(category)) is not None:
            found[group].append(category)
    return {group: members for group, members in found.items() if members}
