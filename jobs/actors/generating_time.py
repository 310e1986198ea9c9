"""How long `generate` will take, told before it begins: the time of a clip grows with the square of its length."""

import time
from dataclasses import replace

import torch

from jobs.console.progress import duration
from soundstorm.generation.decoding import generate_codes
from soundstorm.model.checkpoints import Checkpoint
from soundstorm.model.config import SamplerSettings
from soundstorm.model.soundstorm import SoundStorm
from soundstorm.optimization.precision import autocast


def seconds_a_clip(checkpoint: Checkpoint, sampler: SamplerSettings, num_frames: int) -> float:
    """Seconds in which one core of this machine draws a clip: one pass of the network is made, all others take as
    long."""
    model, threads = checkpoint.model, torch.get_num_threads()
    config = model.config
    codes_BQT = torch.full((1, config.num_levels, num_frames), model.mask_id)
    torch.set_num_threads(1)
    try:
        began_s = time.thread_time()  # not by the clock: what else the machine does now need not last
        if isinstance(model, SoundStorm):
            with torch.inference_mode(), autocast(model.device, "auto"):
                model(codes_BQT, torch.tensor([0]), torch.ones(1, num_frames, dtype=torch.bool), 0)
            guided = 1 if sampler.guidance == 1 else 2
        else:
            generate_codes(model, torch.tensor([0]), [num_frames], replace(sampler, iterations=1, candidates=1), [0])
            guided = 1  # both passes of the guidance were made
        pass_s = time.thread_time() - began_s
    finally:
        torch.set_num_threads(threads)
    return pass_s * sum(sampler.passes_of(config)) * guided * sampler.candidates


def expected_time(clip_s: float, length_s: float, num_clips: int, shard_size: int, num_actors: int) -> str:
    """A sentence on the time that a run takes.

    Args:
        clip_s: seconds in which an actor makes a clip.
        length_s: of the clip.
        num_clips: to be made.
        shard_size: clips that an actor makes before the next may have some.
        num_actors: that work side by side.
    """
    rounds = -(-num_clips // (shard_size * num_actors))
    total_s = clip_s * min(rounds * shard_size, num_clips)
    return (
        f"a clip of {length_s:g} s takes about {duration(clip_s)} of a core, {num_clips} on {num_actors} "
        f"actor{'s' if num_actors > 1 else ''} about "
        f"{duration(total_s)}; time grows with the square of --duration"
    )
