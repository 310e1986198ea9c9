"""Rules for prompts, loops and variations that the options of `generate` and the fields of the endpoint share."""

import math
from dataclasses import dataclass

from soundstorm.editing.editor import MIN_LOOP_S
from soundstorm.errors import SoundStormError


@dataclass(kw_only=True, frozen=True)
class EditRules:
    """Each method raises SoundStormError if its values cannot be combined. The fields are the names in errors."""

    duration: str
    prompt_duration: str
    strength: str
    kept_levels: str
    loop: str

    def check_prompt(self, prompt_s: float, duration_s: float) -> None:
        """A prompt must be shorter than the clip."""
        if not 0 < prompt_s < duration_s:
            raise SoundStormError(
                f"{self.prompt_duration} is {prompt_s:g}: give more than 0 and less than {duration_s:g} seconds, which "
                f"is {self.duration}"
            )

    def check_prompt_frames(
        self, prompt_s: float, duration_s: float, num_prompt_frames: int, hop: int, sample_rate: int
    ) -> None:
        """A prompt must leave at least one frame of the clip to generate."""
        if num_prompt_frames >= math.ceil(round(duration_s * sample_rate) / hop):
            raise SoundStormError(
                f"{self.prompt_duration} {prompt_s:g} leaves nothing of {self.duration} {duration_s:g} to generate: "
                "give less"
            )

    def check_loop(self, what: str, duration_s: float) -> None:
        """A loop has a minimum duration; `what` is the option or the recording that determines it."""
        if duration_s < MIN_LOOP_S:
            raise SoundStormError(
                f"{what} has {duration_s:g} s: a loop needs at least {MIN_LOOP_S:g} s, give more or leave out "
                f"{self.loop}"
            )

    def check_variation(self, strength: float, kept_levels: int, num_levels: int) -> None:
        """A variation must change something, and keep at most the levels of the model."""
        if not 0 <= strength <= 1:
            raise SoundStormError(f"{self.strength} is {strength:g}: give a fraction of the frames from 0 to 1")
        if not 0 <= kept_levels <= num_levels:
            raise SoundStormError(
                f"{self.kept_levels} is {kept_levels}: give 0 to {num_levels}, the number of levels of the model"
            )
        if strength == 0 and kept_levels == num_levels:
            raise SoundStormError(
                f"{self.strength} 0 with {self.kept_levels} {kept_levels} leaves nothing to generate: give a larger "
                "strength or fewer levels"
            )


OPTIONS = EditRules(
    duration="--duration",
    prompt_duration="--prompt-duration",
    strength="--strength",
    kept_levels="--kept-levels",
    loop="--loop",
)
FIELDS = EditRules(
    duration="duration_s",
    prompt_duration="prompt_duration_s",
    strength="strength",
    kept_levels="kept_levels",
    loop="loop",
)
