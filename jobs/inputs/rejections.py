"""Clips that cannot be used, counted by reason; too many of them end a job."""

from collections import Counter

import pyarrow as pa

from soundstorm.errors import SoundStormError


def check_rejected_fraction(
    rejected: pa.Table, total: int, max_share: float, *, problem: str, named_by: str, remedy: str
) -> dict[str, int]:
    """How many clips were rejected for each reason.

    Args:
        rejected: schema REJECTED.
        total: clips, the rejected ones too.
        max_share: of these, that may be rejected: --max-rejected.
        problem: what is said of them: `were rejected`.
        named_by: the column that names a clip.
        remedy: what can be done, or where to look.

    Raises:
        SoundStormError: more were.
    """
    reasons = Counter(rejected["reason"].to_pylist())
    if rejected.num_rows > max_share * total:
        listing = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
        first = rejected.slice(0, 1).to_pylist()[0]
        raise SoundStormError(
            f"{rejected.num_rows} of {total} clips {problem} ({listing}; for example {first[named_by]}: "
            f"{first['detail']}), more than --max-rejected {max_share:g} allows; {remedy}"
        )
    return dict(reasons)
