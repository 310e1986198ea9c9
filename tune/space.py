"""The search space under the name that users' files import: `from tune.space import Choice, Range`."""

from tune.search.space import Choice, Range, check_space, describe_space, load_space

__all__ = ["Choice", "Range", "check_space", "describe_space", "load_space"]
