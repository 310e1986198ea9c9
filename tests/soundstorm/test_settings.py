"""Settings that are made in Python: what is taken, and how a refusal reads."""

import math
from typing import Any

import numpy as np
import pytest

from soundstorm.errors import SoundStormError
from soundstorm.model.config import SamplerSettings, TrainingConfig


def test_whole_numbers_of_numpy_and_whole_fractions_are_taken() -> None:
    settings = SamplerSettings(iterations=np.int64(4), candidates=np.uint8(2), guidance=2)  # type: ignore[arg-type]
    assert (settings.iterations, settings.candidates, settings.guidance) == (4, 2, 2.0)
    assert type(settings.candidates) is int and settings == SamplerSettings(iterations=4, candidates=2, guidance=2.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lr": math.inf}, "lr is inf, expected float"),
        ({"lr": 0.0}, "lr is 0.0: it must be above 0"),
        ({"epochs": True}, "epochs is True, expected int"),
        ({"batch_size": 1.5}, "batch_size is 1.5, expected int"),
        ({"betas": (0.9, 1.0)}, r"betas is \(0.9, 1.0\): it must be two numbers, each at least 0 and below 1"),
        ({"rate": 1}, "unknown setting 'rate'; it has batch_size, epochs"),
    ],
)
def test_what_is_refused_is_named_with_its_value_and_what_is_allowed(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SoundStormError, match=f"^{message}"):
        TrainingConfig(**({"batch_size": 8, "epochs": 1, "lr": 1e-3} | changes))


def test_a_setting_that_was_added_later_is_written_only_if_it_is_not_the_default() -> None:
    usual, chosen = SamplerSettings(candidates=2), SamplerSettings(candidates=2, accept_probability=0.5)
    assert "accept_probability" not in usual.to_dict() and chosen.to_dict()["accept_probability"] == 0.5
    assert all(SamplerSettings.from_dict(settings.to_dict(), "here") == settings for settings in (usual, chosen))
