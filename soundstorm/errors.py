"""The one exception that means "the user can mend this": it is shown as a sentence, without a traceback."""


class SoundStormError(Exception):
    """A problem with an input, a setting or the environment. The message names the thing, its value and the remedy."""
