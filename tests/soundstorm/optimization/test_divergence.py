"""A training is lost when its loss stays far above that of guessing, and not when it only visits there."""

import math

import pytest

from soundstorm.optimization.divergence import far_above_guessing, lost

GUESS = math.log(1024)


def test_twice_the_loss_of_a_guess_is_far_above_it_and_so_is_what_is_no_number() -> None:
    assert not far_above_guessing(GUESS, 1024) and not far_above_guessing(1.99 * GUESS, 1024)
    assert (
        far_above_guessing(2.01 * GUESS, 1024)
        and far_above_guessing(math.nan, 1024)
        and far_above_guessing(math.inf, 1024)
    )


def test_among_few_choices_two_nats_above_a_guess_are_allowed() -> None:
    assert not far_above_guessing(math.log(2) + 1.9, 2) and far_above_guessing(math.log(2) + 2.1, 2)


@pytest.mark.parametrize(
    ("losses", "is_last", "stops"),
    [
        ([2290.0, 20589.0, 16240.0], False, True),  # as measured at a learning rate of 10
        ([33.7, 173.8], False, False),
        ([8.2, 9.5, 7.4, 6.9], True, False),  # at 0.1, from which it comes back
        ([6.8, 33.0, 34.0, 6.9, 33.0, 34.0], False, False),
        ([6.8, 6.7, 25.6], True, True),
    ],
)
def test_three_epochs_in_a_row_or_the_last_one_decide(losses: list[float], is_last: bool, stops: bool) -> None:
    why = lost(losses, 1024, is_last)
    assert (why is not None) == stops
    assert why is None or (f"{losses[-1]:,.4g} nats" in why and "where a guess gives 6.93" in why)
