"""The actor that fits the codebooks of the codec: it holds the blocks of the recordings and fits one level per call."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import ray
import torch

from cluster.scheduling.attempt_tracker import Heartbeat
from jobs.inputs.recordings import in_order
from jobs.training.ray_trainer import use_threads
from soundstorm.codec import files
from soundstorm.codec.config import BlockCodecConfig
from soundstorm.codec.fitting import CodebookFit, FittingConfig, pool_of_simple_sounds

LEVEL_S = 3600.0
"""Seconds after which fitting a level hangs, and the process kills itself."""


class CodecFitter:
    """Fits codebooks to blocks of recordings and of simple sounds.

    Args:
        parts: references to tables (schema DECODED) whose `samples` are blocks as float16.
        blocks: maximum number of blocks from each simple sound.
        config, fitting: settings of the codec and of its fitting.
        state: state of an earlier fitter on the same blocks, from `soundstorm.codec.files.state_to_bytes`; None: start.
        cpus: number of threads.
        tracker: the attempt tracker.
    """

    def __init__(
        self,
        parts: Sequence[ray.ObjectRef],
        blocks: int,
        config: BlockCodecConfig,
        fitting: FittingConfig,
        state: bytes | None,
        cpus: int,
        tracker: Any,
    ) -> None:
        use_threads(cpus)
        self.tracker = tracker
        with Heartbeat(tracker, LEVEL_S):
            rows = in_order([ray.get(part) for part in parts], "samples")
            recorded = [np.frombuffer(samples, np.float16) for (samples,) in rows if samples]
            simple_PV = pool_of_simple_sounds(blocks, config, fitting)
            pool_PV = np.concatenate([np.concatenate(recorded).reshape(-1, config.block_size), simple_PV])
            found = None if state is None else files.state_from_bytes(state)
            self.fit = CodebookFit(pool_PV, config, fitting, found, "cuda" if torch.cuda.is_available() else "cpu")

    def step(self) -> bytes:
        """Fit the next level, if there is one; returns the new state."""
        with Heartbeat(self.tracker, LEVEL_S):
            if not self.fit.is_finished:
                self.fit.step()
            return files.state_to_bytes(self.fit.state)
