"""The same input gives the same figures as when they were stored (`python -m tests.golden.make` stores them anew).

The last bits of a sum follow the processor. On the machine kind of the stored figures codes and sound are compared to
the bit; elsewhere codes may differ where two were as near, and what is made from them is compared from the stored ones
on or as loudness.
"""

import json
from typing import Any

import numpy as np
import pytest

from tests.golden import figures
from tests.golden.make import STORED

EQUAL_CODES = 0.98
"""Share of a clip's codes that any processor finds alike."""


@pytest.fixture(scope="module")
def stored() -> dict[str, Any]:
    return json.loads(STORED.read_text())


@pytest.fixture(scope="module")
def is_same_machine(stored: dict[str, Any]) -> bool:
    return stored["machine"] == figures.machine()


def test_the_packaged_codec_is_the_one_of_the_stored_figures(stored: dict[str, Any]) -> None:
    assert figures.codec().fingerprint.sha256 == stored["codec"]


def test_ten_clips_have_the_stored_tokens(stored: dict[str, Any], is_same_machine: bool) -> None:
    for codes_QT, expected_QT in zip(figures.codes(), map(np.array, stored["tokens"]), strict=True):
        assert codes_QT.shape == expected_QT.shape
        assert np.mean(codes_QT == expected_QT) >= (1.0 if is_same_machine else EQUAL_CODES)


def test_ten_clips_have_the_stored_metrics(stored: dict[str, Any]) -> None:
    for clip, expected in zip(figures.clips(), stored["metrics"], strict=True):
        assert figures.clip_metrics(clip, figures.SAMPLE_RATE) == pytest.approx(expected, rel=1e-9)


def test_twenty_steps_of_training_have_the_stored_losses(stored: dict[str, Any], is_same_machine: bool) -> None:
    assert figures.trained()[0] == pytest.approx(stored["losses"], rel=1e-6 if is_same_machine else 0.01)


def test_four_generated_clips_are_the_stored_ones(stored: dict[str, Any], is_same_machine: bool) -> None:
    codes, waveforms = figures.generated()
    assert [len(codes_QT[0]) for codes_QT in codes] == [len(expected[0]) for expected in stored["generated_codes"]]
    if is_same_machine:
        assert [codes_QT.tolist() for codes_QT in codes] == stored["generated_codes"]
        assert [
            figures.digest(figures.encode_audio(waveform, figures.codec().sample_rate, "wav")) for waveform in waveforms
        ] == stored["generated_audio"]


def test_the_stored_codes_sound_as_they_did(stored: dict[str, Any]) -> None:
    with figures.one_thread():
        seeds = [figures.sample_seed(0, label, label) for label in range(figures.GENERATED)]
        waveforms = figures.codec().decode_clips([np.array(codes_QT) for codes_QT in stored["generated_codes"]], seeds)
    for index, (waveform, expected) in enumerate(zip(waveforms, stored["generated_loudness"], strict=True)):
        heard = figures.playable(waveform, round(figures.CLIP_S * figures.codec().sample_rate), index)
        assert figures.loudness(heard) == pytest.approx(expected, rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("name", figures.cli.COMMANDS)
def test_the_help_of_a_command_begins_as_stored(
    name: str, stored: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert figures.help_line(name) == stored["help"][name]


def test_the_stored_commands_are_all_there(stored: dict[str, Any]) -> None:
    assert set(stored["help"]) == set(figures.cli.COMMANDS)


def test_a_page_of_each_kind_is_the_stored_one(stored: dict[str, Any]) -> None:
    assert figures.pages() == stored["pages"]
