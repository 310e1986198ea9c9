"""The actor that finds the codec's codebooks: it holds the pool of blocks, and is asked for one level after another."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import torch

from cluster.scheduling.attempt_tracker import Heartbeat
from jobs.training.ray_trainer import use_threads
from soundstorm.codec import files
from soundstorm.codec.config import BlockCodecConfig
from soundstorm.codec.fitting import CodebookFit, FittingConfig, pool_of_simple_sounds

LEVEL_S = 3600.0
"""A level that takes longer hangs: the process ends itself."""


class CodecFitter:
    """Fits codebooks to a pool that lies in the object store, and to simple sounds.

    Args:
        parts: references to tables (schema DECODED) whose `samples` are blocks as float16.
        blocks: of a copy of each recording, at most.
        config, fitting: of the codec and of its fitting.
        state: of an earlier fitter on the same pool, as `soundstorm.codec.files.state_to_bytes` writes it.
        cpus: how many threads to use.
        tracker: of `cluster.scheduling.attempt_tracker`.
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
            rows = pa.concat_tables([ray.get(part) for part in parts]).sort_by("clip_id")["samples"]
            recorded = [np.frombuffer(samples.as_buffer(), np.float16) for samples in rows if len(samples.as_buffer())]
            simple_PV = pool_of_simple_sounds(blocks, config, fitting)
            pool_PV = np.concatenate([np.concatenate(recorded).reshape(-1, config.block_size), simple_PV])
            found = None if state is None else files.state_from_bytes(state)
            self.fit = CodebookFit(pool_PV, config, fitting, found, "cuda" if torch.cuda.is_available() else "cpu")

    def step(self) -> bytes:
        """Find the next level, if there is one; returns the state with it."""
        with Heartbeat(self.tracker, LEVEL_S):
            if not self.fit.is_finished:
                self.fit.step()
            return files.state_to_bytes(self.fit.state)
