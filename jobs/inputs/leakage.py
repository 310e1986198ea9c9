"""Stopping before a test that weights have seen, or may have seen."""

from collections.abc import Sequence

from jobs.console.command import print_note, print_warning
from soundstorm.errors import SoundStormError
from soundstorm.serialization.leakage import Learned, Test, judge


def refuse_leaks(learned: Sequence[Learned], tests: Sequence[Test], *, remedy: str, allowed: bool) -> list[str]:
    """Why a test is not to be trusted, a sentence each; none: nothing was trained on what it tests on.

    Args:
        learned: what the tested network is and learned from.
        tests: the folds that it is tested on.
        remedy: what to do instead, for the error.
        allowed: warn, and go on.

    Raises:
        SoundStormError: there is a reason, and it is not allowed.
    """
    verdicts = [judge(learned, test) for test in tests]
    leaks = list(dict.fromkeys(leak for verdict in verdicts for leak in verdict.leaks))
    if leaks and not allowed:
        raise SoundStormError(f"{'; '.join(leaks)}: {remedy}, or give --allow-leak and do not trust the accuracy")
    for leak in leaks:
        print_warning(f"{leak}; it is used all the same (--allow-leak)")
    for note in dict.fromkeys(note for verdict in verdicts for note in verdict.notes):
        print_note(note)
    return leaks
