"""Refuses tests on data that the tested weights were, or may have been, trained on."""

from collections.abc import Sequence

from jobs.console.command import print_note, print_warning
from soundstorm.errors import SoundStormError
from soundstorm.serialization.leakage import Learned, Test, judge


def refuse_leaks(learned: Sequence[Learned], tests: Sequence[Test], *, remedy: str, allowed: bool) -> list[str]:
    """Reasons why a test is not valid, one sentence each; empty if nothing was trained on the test data.

    Args:
        learned: the tested network and what it was trained on.
        tests: the test folds.
        remedy: remedy for the error message.
        allowed: print a warning instead of an error.

    Raises:
        SoundStormError: there is a reason, and it is not allowed.
    """
    verdicts = [judge(learned, test) for test in tests]
    leaks = list(dict.fromkeys(leak for verdict in verdicts for leak in verdict.leaks))
    if leaks and not allowed:
        raise SoundStormError(f"{'; '.join(leaks)}: {remedy}, or give --allow-leak and do not trust the accuracy")
    for leak in leaks:
        print_warning(f"{leak}; it is used nevertheless (--allow-leak)")
    for note in dict.fromkeys(note for verdict in verdicts for note in verdict.notes):
        print_note(note)
    return leaks


def distrust(leaks: Sequence[str]) -> str:
    """What follows an accuracy in a message if its test leaked into the training."""
    return "; NOT TO BE TRUSTED: the test leaked into the training" if leaks else ""
