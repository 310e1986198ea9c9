"""Stopping before a test that weights have seen."""

from collections.abc import Sequence

from rich.markup import escape

from jobs.entry import console
from soundstorm.errors import SoundStormError
from soundstorm.leakage import TrainedOn


def refuse_leaks(learned: Sequence[tuple[str, TrainedOn | None]], dataset: str, fold: int, *, remedy: str, allowed: bool) -> list[str]:
    """What of `learned` may have been trained on the fold, a sentence each.

    Args:
        learned: names of weights for people, with what they were trained on as far as that is known.
        dataset: of the test.
        fold: of the test.
        remedy: what to do instead, for the error.
        allowed: warn, and go on.

    Raises:
        SoundStormError: there is one, and it is not allowed.
    """
    leaks = [
        f"{name} was trained on {trained_on}, and fold {fold} of {dataset} is the test"
        for name, trained_on in learned
        if trained_on is not None and trained_on.has_seen(dataset, fold)
    ]
    if leaks and not allowed:
        raise SoundStormError(f"{'; '.join(leaks)}: {remedy}, or give --allow-leak and do not trust the accuracy")
    for leak in leaks:
        console.print(f"[bold yellow]warning:[/] {escape(leak)}; it is used all the same (--allow-leak)", highlight=False)
    return leaks
