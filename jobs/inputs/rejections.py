"""Counts rejected clips by reason; too many of them abort a job."""

from collections import Counter
from collections.abc import Iterable

import pyarrow as pa

from soundstorm.errors import SoundStormError


def check_rejected_fraction(
    rejected: Iterable[pa.Table], total: int, max_share: float, *, problem: str, named_by: str, remedy: str
) -> dict[str, int]:
    """Number of rejected clips for each reason.

    Args:
        rejected: tables of schema REJECTED.
        total: number of clips, including rejected ones.
        max_share: maximum fraction of rejected clips: --max-rejected.
        problem: what happened to them: `were rejected`.
        named_by: the column that names a clip.
        remedy: remedy for the error message.

    Raises:
        SoundStormError: too many clips were rejected.
    """
    reasons: Counter[str] = Counter()
    first: dict[str, str] = {}
    for table in rejected:
        reasons.update(table["reason"].to_pylist())
        first = first or next(iter(table.slice(0, 1).to_pylist()), {})
    if reasons.total() > max_share * total:
        listing = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
        raise SoundStormError(
            f"{reasons.total()} of {total} clips {problem} ({listing}; for example {first[named_by]}: "
            f"{first['detail']}), more than --max-rejected {max_share:g} allows; {remedy}"
        )
    return dict(reasons)
