"""What may be ordered, and which requests are made together."""

from typing import Any

import numpy as np
import pytest

from jobs.actors.generator import sample_seed
from jobs.generation.options import Options
from jobs.serving.limits import Limits
from jobs.serving.sound import UploadTooLargeError
from jobs.serving.sound_request import ModelInfo, RequestParser, SoundRequest
from soundstorm.audio.files import encode_audio
from soundstorm.errors import SoundStormError
from tests.jobs.conftest import noise, synthetic_clip, wav

MODEL_INFO = ModelInfo(
    categories=("rain", "sea_waves"), sample_rate=24_000, hop=1_280, num_levels=8, checkpoint_sha256="0" * 64
)
PARSER = RequestParser(model_info=MODEL_INFO, limits=Limits(longest_s=10.0, upload_bytes=300_000), options=Options())
RAIN = encode_audio(synthetic_clip("rain", 1.0), 24_000, "flac")
OTHER = encode_audio(synthetic_clip("rain", 1.0, seed=4), 24_000, "flac")


def new(**changes: Any) -> SoundRequest:
    asked = {"category": "rain", "duration_s": 1.0, "seed": 1, "loop": False, "audio_format": "flac"} | changes
    return PARSER.new(asked.pop("category"), **asked)


def continued(**changes: Any) -> SoundRequest:
    asked = {"prompt_duration_s": 0.5, "duration_s": 2.0, "seed": 1, "audio_format": "flac"} | changes
    return PARSER.continued(asked.pop("upload", RAIN), "rain", **asked)


def inpainted(**changes: Any) -> SoundRequest:
    asked = {"regions": [(0.2, 0.4)], "seed": 1, "loop": False, "audio_format": "flac"} | changes
    return PARSER.inpainted(asked.pop("upload", RAIN), "rain", **asked)


def varied(**changes: Any) -> SoundRequest:
    asked = {"strength": None, "kept_levels": None, "seed": 1, "loop": False, "audio_format": "flac"} | changes
    return PARSER.varied(asked.pop("upload", RAIN), "rain", **asked)


def test_an_order_is_of_the_class_that_its_name_means_and_of_the_first_clip_that_generate_makes() -> None:
    request = new(category="Sea waves", seed=7, duration_s=1.5)
    assert (request.label, request.options.class_name, request.num_samples) == (1, "sea_waves", 36_000)
    assert request.take_seed == sample_seed(7, 1, 0)


def test_a_recording_is_taken_as_generate_takes_it() -> None:
    request = inpainted(upload=wav(noise(1.0, 44_100, channels=2), 44_100), regions=[(0.25, 0.5), (0.4, 0.75)])
    assert request.recording_N is not None and request.recording_N.dtype == np.int16
    assert request.num_samples == len(request.recording_N) == 24_000 and request.spans == ((6_000, 18_000),)
    assert request.options.region == ("0.25-0.5", "0.4-0.75")
    prompt = continued().recording_N
    assert prompt is not None and prompt.dtype == np.float32 and len(prompt) == 12_000
    assert (varied().options.strength, varied().options.kept_levels) == (0.6, 1)


def test_a_region_is_what_the_recipe_says_of_it() -> None:
    request = inpainted(regions=[(1 / 3, 2 / 3)])
    assert request.options.region == ("0.333333-0.666667",) and request.spans == ((8_000, 16_000),)


def test_requests_of_one_kind_and_length_are_made_together_whatever_their_class_seed_and_format() -> None:
    assert len({new().group, new(category="sea_waves", seed=2, audio_format="wav").group}) == 1
    alike = [varied(), varied(seed=2, audio_format="wav"), varied(strength=0.6, kept_levels=1)]
    assert len({request.group for request in alike}) == 1
    different = [
        new(), new(duration_s=1.1), new(loop=True), continued(), continued(prompt_duration_s=0.6),
        continued(upload=OTHER), inpainted(), inpainted(regions=[(0.2, 0.5)]), inpainted(loop=True),
        inpainted(upload=OTHER), varied(), varied(strength=0.5), varied(kept_levels=2), varied(upload=OTHER),
    ]  # fmt: skip
    assert len({request.group for request in different}) == len(different)


def test_a_variation_that_keeps_all_levels_is_made_alone_as_each_draws_another_number_of_frames() -> None:
    assert varied(kept_levels=8, seed=1).group != varied(kept_levels=8, seed=2).group
    assert varied(kept_levels=7, seed=1).group == varied(kept_levels=7, seed=2).group


REFUSED: list[tuple[Any, dict[str, Any], str]] = [
    (new, {"category": "snow"}, "category is 'snow'"),
    (new, {"category": None}, "category is None"),
    (new, {"duration_s": 10.5}, "duration_s is 10.5: give 0.05 to 10 seconds"),
    (new, {"duration_s": float("nan")}, "duration_s is nan: give a number"),
    (new, {"duration_s": "5"}, "duration_s is '5': give a number"),
    (new, {"duration_s": True}, "duration_s is True: give a number"),
    (new, {"duration_s": 0.3, "loop": True}, "a loop needs at least 0.5 s"),
    (new, {"seed": -1}, "seed is -1"),
    (new, {"seed": 1.5}, "seed is 1.5: give a whole number"),
    (new, {"seed": 1 << 63}, "seed is 9223372036854775808: give 0 to 9223372036854775807"),
    (new, {"audio_format": "mp3"}, "format is 'mp3': give one of flac, wav"),
    (continued, {"prompt_duration_s": 2.0}, "prompt_duration_s is 2: give more than 0 and less than 2"),
    (continued, {"prompt_duration_s": 0.9, "duration_s": 0.905}, "leaves nothing of duration_s 0.905"),
    (continued, {"upload": b"I am a dog"}, "the recording cannot be used"),
    (inpainted, {"regions": []}, "regions is empty"),
    (inpainted, {"regions": [(0.1, 0.2)] * 65}, "regions has 65: give at most 64"),
    (inpainted, {"regions": [(0.5, 0.4)]}, "does not end after its start"),
    (inpainted, {"regions": [(0.5, 1.5)]}, "reaches beyond the end of the recording"),
    (inpainted, {"regions": [(float("inf"), 1.5)]}, "regions is inf: give a number"),
    (varied, {"strength": 1.5}, "strength is 1.5: give a fraction"),
    (varied, {"kept_levels": 9}, "kept_levels is 9: give 0 to 8"),
    (varied, {"strength": 0, "kept_levels": 8}, "leaves nothing to generate"),
    (varied, {"upload": b""}, "the recording cannot be used"),
    (
        varied,
        {"upload": encode_audio(np.zeros(44_004), 4_000, "flac")},
        "has 11.0 s: give a part of it of at most 10 s",
    ),
    (varied, {"upload": encode_audio(np.zeros(2_400), 24_000), "loop": True}, "a loop needs at least 0.5 s"),
]


@pytest.mark.parametrize(
    ("take", "asked", "sentence"), REFUSED, ids=lambda value: getattr(value, "__name__", str(value)[:40])
)
def test_what_cannot_be_made_is_refused_by_name_value_and_remedy(
    take: Any, asked: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(SoundStormError) as refused:
        take(**asked)
    assert sentence in str(refused.value) and "--" not in str(refused.value)


def test_a_recording_that_is_too_large_is_told_apart() -> None:
    with pytest.raises(UploadTooLargeError, match="has 300001 bytes: give at most 300000"):
        varied(upload=bytes(300_001))
