"""When two names mean the same class: datasets, folders and classifiers spell them differently."""

import re


def normalized(category: str) -> str:
    """A category as any table may spell it: `Crying Baby`, `crying-baby` and `crying_baby` are the same."""
    return re.sub(r"[\W_]+", "_", category.lower())
