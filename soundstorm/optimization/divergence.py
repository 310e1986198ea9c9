"""Whether a training is lost: its loss stays far above what guessing gives, as after steps that were too large; no
later step mends that.

Measured on the preset `tiny` (1024 codes, a guess is 6.9 nats): at a learning rate of 0.1 the loss rises to 9.5 and
comes back, at 1 it goes to 240 and ends at 26, at 10 it goes to 20,000 and ends at 3,500.
"""

import math
from collections.abc import Sequence

PATIENCE = 3
"""Epochs in a row, or the last one."""
FACTOR, MARGIN_NATS = 2.0, 2.0


def far_above_guessing(loss: float, num_choices: int) -> bool:
    """Whether `loss` (nats) is over twice that of a uniform guess among `num_choices`, and over 2 nats above it; or is
    no number."""
    guess = math.log(num_choices)
    return not loss <= max(FACTOR * guess, guess + MARGIN_NATS)


def lost(losses: Sequence[float], num_choices: int, is_last: bool) -> str | None:
    """Why a training with these losses (nats), one an epoch, is to be stopped; None = it goes on.

    Args:
        losses: of all epochs so far.
        num_choices: codes or categories.
        is_last: whether the last of them is the training's last.
    """
    needed = 1 if is_last else PATIENCE
    recent = losses[-needed:]
    if len(recent) < needed or not all(far_above_guessing(loss, num_choices) for loss in recent):
        return None
    since = f"for {needed} epochs" if needed > 1 else "in the last epoch"
    return f"the loss stays at {losses[-1]:,.4g} nats {since}, where a guess gives {math.log(num_choices):.2f}"
