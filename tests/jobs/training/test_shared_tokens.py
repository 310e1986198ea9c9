"""Workers of a node share the tokens: each reads them in the object store, and none holds a copy."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import ray

from soundstorm.training.token_set import TokenSet

LEVELS, FRAMES, CLIPS = 8, 375, 8_000


def anonymous_mb() -> float:
    """Memory of this process that no other can share."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("RssAnon:")[2].split()[0]) * 1024 / 1e6


@ray.remote(num_cpus=0.5)
class Worker:
    """Reads all tokens."""

    def read(self, tokens: list[ray.ObjectRef]) -> dict[str, Any]:
        before = anonymous_mb()
        found: TokenSet = ray.get(tokens[0])
        total = sum(int(found.recorded(index).sum(dtype=np.int64)) for index in range(len(found)))
        return {
            "process": os.getpid(),
            "total": total,
            "grown_mb": anonymous_mb() - before,
            "dtype": str(found.codes.dtype),
            "is_own": found.codes.flags.owndata or found.codes.flags.writeable,
        }


def test_two_workers_of_a_node_read_48_mb_of_tokens_and_hold_none_of_them(ray_session: None) -> None:
    size = CLIPS * LEVELS * FRAMES
    tokens = TokenSet(
        codes=np.random.default_rng(0).integers(1024, size=size, dtype=np.uint16),
        starts=np.arange(CLIPS + 1) * LEVELS * FRAMES,
        first_views=np.arange(CLIPS + 1),
        labels=[0] * CLIPS,
        num_levels=LEVELS,
    )
    assert tokens.codes.nbytes == 48_000_000
    reference = ray.put(tokens)
    workers = [Worker.remote() for _ in range(2)]
    found = ray.get([worker.read.remote([reference]) for worker in workers], timeout=300)
    assert len({one["process"] for one in found}) == 2
    for one in found:
        assert one["total"] == int(tokens.codes.sum(dtype=np.int64))
        assert (one["dtype"], one["is_own"]) == ("uint16", False)
        assert one["grown_mb"] < 12
