"""What a study may search, and what it refuses, before any trial runs."""

from pathlib import Path
from typing import Any

import pytest

from soundstorm.errors import SoundStormError
from soundstorm.model.config import SamplerSettings
from soundstorm.model.presets import PRESETS, preset
from tune.decoding.trial import sampler_of, setting_names
from tune.search.space import Choice, Range, Space, check_space, load_space
from tune.training.beginning import default_space
from tune.training.trial import MODEL_NAMES, TRAINING_NAMES, applied


def check(space: Space) -> None:
    base = preset("tiny")
    check_space(space, [*TRAINING_NAMES, *MODEL_NAMES], lambda point: applied(point, base.model, base.training))


@pytest.mark.parametrize("name", PRESETS)
def test_the_default_space_of_every_preset_may_be_searched(name: str) -> None:
    base = preset(name)
    for fixed in (True, False):
        space = default_space(base.training, base.model, fixed)
        check_space(space, [*TRAINING_NAMES, *MODEL_NAMES], lambda point: applied(point, base.model, base.training))
        assert {"lr", "schedule", "dropout", "span_share"} <= space.keys()
        assert fixed != ({"width", "depth"} <= space.keys())


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"learning_rate": Range(0, 1)}, "'learning_rate' is not a setting that can be searched"),
        ({"drop_out": Range(0, 0.5)}, "did you mean 'dropout'"),
        ({"epochs": Choice(1, 2)}, "'epochs' is not a setting"),
        (
            {"first_level_share": Range(0.1, 0.5)},
            "'first_level_share' is not a setting",
        ),  # by which the loss itself is weighted
        ({"lr": Range(0.0, 1.0, is_log=True)}, r"lr runs from 0\.0 to 1\.0"),
        ({"lr": Range(1.0, 0.1)}, r"lr runs from 1\.0 to 0\.1"),
        ({"lr": Range(0.1, float("nan"))}, "lr runs from 0.1 to nan"),
        ({"depth": Range(1.5, 3, is_whole=True)}, "depth runs from 1.5 to 3 in whole numbers"),
        ({"dropout": Range(0, 1.0)}, r"dropout is 1\.0"),
        ({"schedule": Choice("cosine", "linear")}, "schedule is 'linear'"),
        ({"schedule": Choice("cosine")}, "give at least two"),
        ({"kernel": Choice(31, (3, 5))}, r"has the value \(3, 5\)"),
        ({"depth": Range(1.0, 3.0)}, "depth is 1.0"),
        ({"lr": Range(1e-4, 10**400)}, "lr runs from 0.0001 to"),
        ({"lr": Choice(1e-3, 1e-3)}, "give different ones"),
        ({"kernel": Choice([31], [31])}, r"has the value \[31\]"),
        ({"schedule": Choice("cosine", "onecylce"), "warmup_share": Range(0.02, 0.4)}, "schedule is 'onecylce'"),
        ({"schedule": Choice("cosine", "onecycle"), "warmup_share": Range(0.1, 7.0)}, r"warmup_share is 7\.0"),
        ({"width": Choice(128, 121), "heads": Choice(4, 8)}, "heads is 4"),  # neither divides 121
        ({"lr": 1e-3}, r"lr is 0\.001: give Range"),
    ],
)
def test_a_space_that_cannot_be_searched_is_refused(space: dict[str, Any], message: str) -> None:
    with pytest.raises(SoundStormError, match=message):
        check(space)


def test_values_that_go_with_others_of_the_space_are_let_through() -> None:
    check({"width": Choice(128, 120), "heads": Choice(4, 12)})  # 12 heads do not divide the preset's 128


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("SPACE = {", "fails in line 1 with SyntaxError"),
        ("x = 1\nSPACE = {'lr': Rnge(1, 2)}", "fails in line 2 with NameError: name 'Rnge'"),
        ("import sys\nsys.exit(0)", "fails in line 2 with SystemExit"),
        ("SPACES = {}", "must define SPACE"),
        ("SPACE = {}", "must define SPACE"),
    ],
)
def test_a_file_without_a_space_is_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "space.py").write_text(text)
    with pytest.raises(SoundStormError, match=message):
        load_space(str(tmp_path / "space.py"), {})
    with pytest.raises(SoundStormError, match=r"--decoding-space .*other\.py: there is no such file"):
        load_space(str(tmp_path / "other.py"), {}, "--decoding-space")


def test_a_space_is_plain_python(tmp_path: Path) -> None:
    (tmp_path / "space.py").write_text(
        "from tune.space import Choice, Range\nSPACE = {f'iterations_level_{q}': Range(1, 4, is_whole=True) for q in "
        "range(3)}"
    )
    space = load_space(str(tmp_path / "space.py"), {})
    check_space(space, setting_names(8), lambda point: sampler_of(point, SamplerSettings(), 8))
    assert list(space) == ["iterations_level_0", "iterations_level_1", "iterations_level_2"]


def test_passes_of_a_point_replace_those_of_their_levels() -> None:
    sampler = sampler_of(
        {"iterations_level_1": 3, "top_p": 0.9, "seed": 5, "checkpoint": "a"}, SamplerSettings(iterations=12), 4
    )
    assert sampler.iterations == (12, 3, 1, 1) and sampler.top_p == 0.9
    with pytest.raises(SoundStormError, match="iterations"):
        sampler_of({"iterations_level_0": 0}, SamplerSettings(), 4)
