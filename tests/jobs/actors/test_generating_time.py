"""How long `generate` takes is told before it begins."""

import pytest
import torch

from jobs.actors.generating_time import expected_time, seconds_per_clip
from jobs.generate import Options
from jobs.inputs.checkpoints import checkpoint_files, open_checkpoint
from soundstorm.errors import SoundStormError
from soundstorm.generation.windows import WindowSize
from soundstorm.model.config import SamplerSettings


def test_the_time_told_is_of_one_thread_and_grows_with_the_windows() -> None:
    checkpoint, sampler = open_checkpoint(checkpoint_files(None)), SamplerSettings(iterations=6, candidates=1)
    threads = torch.get_num_threads()
    seconds_per_clip(checkpoint, sampler, 100)  # the first pass of a process takes longer
    size = WindowSize(100, 50)
    short_s, long_s = (seconds_per_clip(checkpoint, sampler, frames, size) for frames in (100, 3000))
    assert torch.get_num_threads() == threads
    assert 0 < 59 * short_s / 3 < long_s < 3 * 59 * short_s  # 59 windows; a third is left to the machine's other work


@pytest.mark.parametrize(
    ("num_clips", "shard_size", "num_actors", "told"),
    [
        (1, 8, 1, "1 on 1 actor about 1:30 min"),
        (10, 1, 2, "10 on 2 actors about 7:30 min"),
        (10, 8, 2, "10 on 2 actors about 12:00 min"),  # one of the two makes eight
    ],
)
def test_a_run_takes_as_long_as_the_actor_that_makes_most(
    num_clips: int, shard_size: int, num_actors: int, told: str
) -> None:
    sentence = expected_time(90.0, 60.0, num_clips, shard_size, num_actors)
    assert sentence.startswith("a clip of 60 s takes about 1:30 min of a core") and sentence.endswith(told)


def test_clips_of_more_than_an_hour_are_refused() -> None:
    assert Options(duration=3600.0).duration == 3600.0
    with pytest.raises(SoundStormError, match=r"--duration is 3601\.0: give 0\.05 to 3600 seconds"):
        Options(duration=3601.0)
