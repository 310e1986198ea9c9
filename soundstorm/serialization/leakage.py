"""Data leakage: whether weights were trained on the clips of a test. What is unknown counts as leaked."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from soundstorm.serialization.provenance import OUTSIDE, Provenance, Unknown
from soundstorm.serialization.recordings import Recordings

FAMILIES = {"esc10": "ESC", "esc50": "ESC"}
"""ESC-10 is a subset of ESC-50, with the same folds."""
OF_NO_FIXED_CLIPS = ("folder", "synthetic")
"""Datasets whose name does not determine their clips."""
FREESOUND = {"ESC", "urbansound8k"}
"""Datasets of clips from freesound.org, partly from the same recordings."""


@dataclass(kw_only=True, frozen=True)
class Test:
    """A test fold of a dataset."""

    __test__ = False

    dataset: str
    fold: int
    digest: Callable[[], str]
    """Returns `soundstorm.serialization.recordings.digest_of` the whole dataset; called only if the dataset's name does
    not decide."""
    contents: Callable[[], Mapping[str, str]]
    """Returns a name for each `soundstorm.serialization.recordings.content_of` the clips of the fold; called only if
    the dataset's name does not decide."""

    def __str__(self) -> str:
        """For people."""
        return f"fold {self.fold} of {self.dataset}"


@dataclass(kw_only=True, frozen=True)
class Learned:
    """Weights that a tested network has, or was initialized or trained from."""

    name: str
    """Name for messages, such as `the codec 'block-24khz'`."""
    provenance: Provenance
    sha256: str | None = None
    """SHA-256 of the file, if known."""


@dataclass(kw_only=True, frozen=True)
class Verdict:
    """Result of a check for leakage."""

    leaks: tuple[str, ...]
    """Sentences on why the test is invalid; empty: it is valid."""
    notes: tuple[str, ...]
    """Notes about a valid test."""


def judge(learned: Sequence[Learned], test: Test) -> Verdict:
    """Check a test of a network that used all of `learned`, with their parents, for leakage."""
    leaks: dict[str, None] = {}
    notes: dict[str, None] = {}
    accounts = {part.sha256: part.provenance for part in learned if part.sha256 is not None}
    for part in learned:
        _judge(part.name, part.provenance, test, accounts, leaks, notes)
    return Verdict(leaks=tuple(leaks), notes=tuple(notes))


def may_contain(provenance: Provenance, test: Test) -> bool:
    """Whether weights, or their parents, may have been trained on the test fold."""
    return bool(judge([Learned(name="it", provenance=provenance)], test).leaks)


def _judge(
    name: str,
    provenance: Provenance,
    test: Test,
    accounts: dict[str, Provenance],
    leaks: dict[str, None],
    notes: dict[str, None],
) -> None:
    if isinstance(provenance, Unknown):
        leaks[f"what {name} was trained on is {provenance}"] = None
        return
    for recordings in provenance.recordings:
        problem = _overlap(recordings, test)
        if problem is not None:
            leaks[f"{name} was trained on {recordings}, and {test} is the test{problem}"] = None
        elif {_family(recordings.dataset), _family(test.dataset)} == FREESOUND:
            notes[
                f"{name} was trained on {recordings}; some clips of {test.dataset} are from the same recordings of "
                "freesound.org"
            ] = None
    for outside in provenance.outside:
        if outside != "synthetic sounds":
            notes[f"{name} was trained on outside data: {OUTSIDE[outside]}"] = None
    for parent in provenance.parents:
        if parent.sha256 not in accounts:
            known = (
                Unknown(reason="it was not when it was learned from")
                if parent.trained_on is None
                else parent.trained_on
            )
            _judge(f"the {parent.role} '{parent.name}' of {name}", known, test, accounts, leaks, notes)
        elif (
            parent.trained_on is not None and parent.trained_on != accounts[parent.sha256]
        ):  # otherwise its own file is checked
            leaks[
                f"{name} and the file of its {parent.role} '{parent.name}' contradict each other on what that was "
                "trained on"
            ] = None


def _overlap(recordings: Recordings, test: Test) -> str | None:
    """Why clips of the test may be in the training data, as a phrase; "" if the folds alone prove it; None: they are
    not."""
    same_family = _family(recordings.dataset) == _family(test.dataset)
    if same_family and test.dataset not in OF_NO_FIXED_CLIPS:
        return "" if test.fold in recordings.folds else None
    if recordings.contents is not None and (same_family or "folder" in (recordings.dataset, test.dataset)):
        there = test.contents()
        common = sorted(there[content] for content in recordings.contents & there.keys())
        return (
            f" ({len(common)} of its files {'is' if len(common) == 1 else 'are'} the same, such as {common[0]})"
            if common
            else None
        )
    if not same_family:
        return None
    if recordings.digest != test.digest():
        return " (these are not the same clips in the same folds, and which they have in common is not known)"
    return "" if test.fold in recordings.folds else None


def _family(dataset: str) -> str:
    return FAMILIES.get(dataset, dataset)
