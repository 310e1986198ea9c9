"""The error of a recording that cannot be used."""

from soundstorm.errors import SoundStormError
from soundstorm.schemas import Reason


class RejectedAudio(SoundStormError):  # noqa: N818 - named after the table it leads to
    """A recording that cannot be used; `reason` and `detail` become a row of the `rejected` table."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason.value}: {detail}")
        self.reason = reason
        self.detail = detail

    def __reduce__(self) -> tuple[type["RejectedAudio"], tuple[Reason, str]]:
        """Keeps both fields when the error is pickled, to cross a process boundary."""
        return type(self), (self.reason, self.detail)
