"""How long `generate` takes is told before it begins."""

import pytest
import torch

from jobs.actors.generating_time import expected_time, seconds_per_clip
from jobs.generate import Options
from jobs.inputs.checkpoints import checkpoint_files, open_checkpoint
from soundstorm.errors import SoundStormError
from soundstorm.model.config import SamplerSettings


def test_the_time_told_is_of_one_thread_and_grows_faster_than_the_clip() -> None:
    checkpoint, sampler = open_checkpoint(checkpoint_files(None)), SamplerSettings(iterations=6, candidates=1)
    threads = torch.get_num_threads()
    seconds_per_clip(checkpoint, sampler, 100)  # the first pass of a process takes longer
    short_s, long_s = seconds_per_clip(checkpoint, sampler, 100), seconds_per_clip(checkpoint, sampler, 3000)
    assert torch.get_num_threads() == threads
    assert 0 < 30 * short_s / 3 < long_s  # 30 times as long; a third is left to the machine's other work


@pytest.mark.parametrize(
    ("num_clips", "shard_size", "num_actors", "told"),
    [
        (1, 8, 1, "1 on 1 actor about 1:30 min;"),
        (10, 1, 2, "10 on 2 actors about 7:30 min;"),
        (10, 8, 2, "10 on 2 actors about 12:00 min;"),  # one of the two makes eight
    ],
)
def test_a_run_takes_as_long_as_the_actor_that_makes_most(
    num_clips: int, shard_size: int, num_actors: int, told: str
) -> None:
    sentence = expected_time(90.0, 60.0, num_clips, shard_size, num_actors)
    assert sentence.startswith("a clip of 60 s takes about 1:30 min of a core") and told in sentence


def test_clips_that_would_take_hours_are_refused() -> None:
    with pytest.raises(SoundStormError, match=r"--duration is 600.0: give 0.05 to 120 seconds .*square of its length"):
        Options(duration=600.0)
