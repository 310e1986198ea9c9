"""Estimates how long `generate` takes, given that the time per clip is proportional to the number of its windows."""

import time
from dataclasses import replace

import torch

from jobs.console.progress import duration
from soundstorm.generation.decoding import generate_codes
from soundstorm.generation.windows import WindowSize, plan_windows
from soundstorm.model.checkpoints import Checkpoint
from soundstorm.model.config import SamplerSettings
from soundstorm.model.soundstorm import SoundStorm
from soundstorm.optimization.precision import autocast


def seconds_per_clip(
    checkpoint: Checkpoint, sampler: SamplerSettings, num_frames: int, window: WindowSize | None = None
) -> float:
    """Seconds that one core of this machine needs to generate a clip, measured on one forward pass.

    Args:
        checkpoint: with the network.
        sampler: how codes are sampled.
        num_frames: length of the clip.
        window: size of the windows of a longer clip; None: the clip is one window.
    """
    windows = 1 if window is None else len(plan_windows(torch.ones(num_frames, dtype=torch.bool), window))
    num_frames = num_frames if window is None else min(num_frames, window.frames)
    model, threads = checkpoint.model, torch.get_num_threads()
    config = model.config
    codes_BQT = torch.full((1, config.num_levels, num_frames), model.mask_id)
    torch.set_num_threads(1)
    try:
        began_s = time.thread_time()  # CPU time: other processes do not count
        if isinstance(model, SoundStorm):
            with torch.inference_mode(), autocast(model.device, "auto"):
                model(codes_BQT, torch.tensor([0]), torch.ones(1, num_frames, dtype=torch.bool), 0)
            guided = 1 if sampler.guidance == 1 else 2
        else:
            generate_codes(model, torch.tensor([0]), [num_frames], replace(sampler, iterations=1, candidates=1), [0])
            guided = 1  # generate_codes includes both passes of the guidance
        pass_s = time.thread_time() - began_s
    finally:
        torch.set_num_threads(threads)
    return windows * pass_s * sum(sampler.iterations_for(config)) * guided * sampler.candidates


def expected_time(clip_s: float, length_s: float, num_clips: int, shard_size: int, num_actors: int) -> str:
    """A sentence with the expected duration of a run.

    Args:
        clip_s: seconds that an actor needs per clip.
        length_s: length of a clip in seconds.
        num_clips: clips to generate.
        shard_size: clips per shard.
        num_actors: number of actors.
    """
    rounds = -(-num_clips // (shard_size * num_actors))
    total_s = clip_s * min(rounds * shard_size, num_clips)
    return (
        f"a clip of {length_s:g} s takes about {duration(clip_s)} of a core, {num_clips} on {num_actors} "
        f"actor{'s' if num_actors > 1 else ''} about "
        f"{duration(total_s)}"
    )
