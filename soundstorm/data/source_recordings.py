"""Source recordings with clips in two folds: a model trained on one of these folds knows the test clips of the
other."""

from collections.abc import Iterable

import numpy as np

SplitSources = dict[str, dict[int, list[str]]]
"""Source recording -> fold -> clip_ids that were cut from it and lie in that fold."""
MAX_NAMED = 20
"""Maximum number of recordings listed in a message."""


def split_sources(clips: Iterable[tuple[str, int, str]]) -> SplitSources:
    """The sources with clips in more than one fold.

    Args:
        clips: clip_id, fold and source of each clip; a clip with source "" does not share it with others.
    """
    found: SplitSources = {}
    for clip_id, fold, source in clips:
        if source:
            found.setdefault(source, {}).setdefault(fold, []).append(clip_id)
    return {source: folds for source, folds in sorted(found.items()) if len(folds) > 1}


def in_two_folds(sources: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """Places of the clips whose source has clips in more than one fold, in rising order.

    Args:
        sources: a number for the source of each clip; 0 if the clip does not share it with others.
        folds: fold of each clip.
    """
    order = np.argsort(sources, kind="stable")
    order = order[sources[order] != 0]
    if not len(order):
        return order
    sorted_sources, sorted_folds = sources[order], folds[order]
    starts = np.flatnonzero(np.append(True, sorted_sources[1:] != sorted_sources[:-1]))
    differ = np.minimum.reduceat(sorted_folds, starts) != np.maximum.reduceat(sorted_folds, starts)
    return np.sort(order[np.repeat(differ, np.diff(starts, append=len(order)))])


def smaller_sides(split: SplitSources) -> list[str]:
    """The clips to leave out so that every source lies in one fold: for each source all but those in the fold with most
    of its clips; ties go to the lower fold."""
    left_out = []
    for folds in split.values():
        kept = min(folds, key=lambda fold: (-len(folds[fold]), fold))
        left_out += [clip_id for fold, clip_ids in sorted(folds.items()) if fold != kept for clip_id in clip_ids]
    return left_out


def split_phrase(split: SplitSources) -> str:
    """For messages: `131943 (folds 2 and 3), 134049 (folds 2 and 3)`."""
    shown = [
        f"{source} (folds {' and '.join(map(str, sorted(folds)))})" for source, folds in list(split.items())[:MAX_NAMED]
    ]
    return ", ".join(shown) + (f" and {len(split) - MAX_NAMED} others" if len(split) > MAX_NAMED else "")
