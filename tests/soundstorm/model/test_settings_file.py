"""Files of settings that a study writes and `train` and `generate` read."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from soundstorm.errors import SoundStormError
from soundstorm.model.presets import PRESETS, preset
from soundstorm.model.settings_file import parse_settings, to_json, to_toml


@pytest.mark.parametrize("name", PRESETS)
def test_both_formats_give_back_the_settings_of_every_preset(name: str) -> None:
    base = preset(name)
    content: dict[str, Any] = {
        "study": "training",
        "fold": 5,
        "threads": 2,
        "val_loss": 4.125,
        "checkpoint": None,
        "front": [{"quality": 0.5}],
        "model": base.model.to_dict(),
        "training": base.training.to_dict(),
        "sampler": base.sampler.to_dict(),
    }
    for data, where in ((to_json(content), "best.json"), (to_toml(content), "best.toml")):
        found = parse_settings(data, where)
        other = preset("small" if name != "small" else "tiny")
        assert found.model_over(base.model) == base.model
        assert found.training_over(base.training) == base.training
        assert found.sampler_over(other.sampler) == base.sampler
        assert (found.fold, found.threads) == (5, 2)


@given(
    st.floats(allow_nan=False, allow_infinity=False), st.text(), st.booleans(), st.lists(st.integers(-(2**62), 2**62))
)
def test_every_value_comes_back_exactly(number: float, text: str, truth: bool, numbers: list[int]) -> None:
    content = {"sampler": {"number": number, "text": text, "truth": truth, "numbers": numbers}}
    for data, where in ((to_json(content), "a.json"), (to_toml(content), "a.TOML")):
        assert parse_settings(data, where).sampler == content["sampler"]


@pytest.mark.parametrize(
    ("data", "where", "message"),
    [
        (b"{", "a.json", "no valid JSON"),
        (b"[training", "a.toml", "no valid TOML"),
        (b"\xff", "a.toml", "no valid TOML"),
        (b"3", "a.json", "holds no table"),
        (b'{"training": 3}', "a.json", "'training' is 3"),
        (b'{"fold": "last", "training": {}}', "a.json", "fold is 'last'"),
        (b"threads = 0", "a.toml", "threads is 0"),
    ],
)
def test_what_is_no_file_of_settings_is_refused(data: bytes, where: str, message: str) -> None:
    with pytest.raises(SoundStormError, match=message):
        parse_settings(data, where)


def test_unknown_and_impossible_settings_are_named_with_the_file() -> None:
    base = preset("tiny")
    with pytest.raises(SoundStormError, match=r"a\.json, table 'training': unknown setting 'learning_rate'"):
        parse_settings(b'{"training": {"learning_rate": 1}}', "a.json").training_over(base.training)
    with pytest.raises(SoundStormError, match=r"a\.json, table 'sampler': top_p is 2"):
        parse_settings(b'{"sampler": {"top_p": 2}}', "a.json").sampler_over(base.sampler)
    with pytest.raises(SoundStormError, match=r"a\.json: no table 'sampler'"):
        parse_settings(b'{"training": {"lr": 1}}', "a.json").require("sampler")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"Training": {"lr": 1e-3}}, "there is no table 'Training': settings are in model, training, sampler"),
        ({"training": {"lr": 1e-3}, "trainning": {}}, "there is no table 'trainning'"),
        ({"training": {"lr": 1e-3}, "threads": 10**30}, "threads is 1000.*a whole number, 1 to 4096"),
        ({"training": {"lr": 1e-3}, "preset": "huge"}, "preset is 'huge': it must be one of"),
    ],
)
def test_what_a_hand_may_write_wrong_is_named(content: dict[str, Any], message: str) -> None:
    with pytest.raises(SoundStormError, match=message):
        parse_settings(json.dumps(content).encode(), "best.json")


def test_what_studies_write_for_people_is_let_through() -> None:
    content = {
        "study": "training",
        "preset": "tiny",
        "searched": {"lr": 1},
        "trained": {"lr": 1},
        "training": {"lr": 1e-3},
    }
    assert parse_settings(json.dumps(content).encode(), "best.json").preset == "tiny"


def test_weights_that_are_taken_over_fit_no_other_network() -> None:
    base = preset("tiny").model
    assert parse_settings(b'{"model": {"dropout": 0.2}}', "a.json").model_over(base, is_trained=True).dropout == 0.2
    with pytest.raises(SoundStormError, match="differs from that of --checkpoint"):
        parse_settings(b'{"model": {"width": 64}}', "a.json").model_over(base, is_trained=True)
