"""A worker's memory does not grow with the length of a recording."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

import jobs.actors.tokenizing_pool
from cluster import tables
from cluster.runtime import memory
from jobs import tokenize
from jobs.actors.tokenizer import TokenizerActor

RATE = 24_000
SHARD_SIZE = 32
WINDOW_S = 30
MOST_GROWTH_MB = 70.0
"""All windows of a shard at once are 46 MB of 16-bit samples and 92 MB of floating-point ones; two windows are 9 in
all."""


def measured_encoder(log: Path) -> type:
    """A codec actor that writes the most memory that its process has held so far, in MB, after each shard."""

    class MeasuredEncoder(TokenizerActor):
        def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
            done = super().__call__(row)
            status = Path("/proc/self/status").read_text()
            peak_mb = int(status.partition("VmHWM:")[2].split()[0]) * 1024 / 1e6
            with log.open("a") as file:
                file.write(f"{row['shard']} {peak_mb}\n")
            return done

    return MeasuredEncoder


def write_noise(path: Path, duration_s: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0).integers(-8000, 8000, round(duration_s * RATE), dtype=np.int16)
    soundfile.write(path, noise, RATE)


def test_a_worker_that_splits_a_long_recording_holds_little_more_than_one_that_reads_short_ones(
    tmp_path: Path, tiny_codec: Path, ray_session: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not Path("/proc/self/status").exists():
        pytest.skip("the system does not tell the most memory that a process has held")
    write_noise(tmp_path / "short" / "a" / "00.wav", WINDOW_S)
    for number in range(1, SHARD_SIZE):
        write_noise(tmp_path / "short" / "a" / f"{number:02d}.wav", 0.25)
    write_noise(tmp_path / "long" / "a" / "long.wav", SHARD_SIZE * WINDOW_S)
    peak_mb, frames = {}, {}
    for length in ("short", "long"):  # each in a process of its own
        log, output = tmp_path / f"{length}-peaks", str(tmp_path / f"{length}-out")
        monkeypatch.setattr(jobs.actors.tokenizing_pool, "TokenizerActor", measured_encoder(log))
        options = tokenize.Options(
            dataset="folder", data_dir=str(tmp_path / length), output_dir=output, codec=str(tiny_codec)
        )
        options.long, options.max_duration, options.shard_size, options.num_actors = "split", WINDOW_S, SHARD_SIZE, 1
        assert tokenize.run(options)["tokens"] == SHARD_SIZE
        [(_, peak_mb[length])] = (map(float, line.split()) for line in log.read_text().splitlines())
        frames[length] = tables.read_table(f"{output}/tokens")[0]["num_frames"].to_pylist()
    assert peak_mb["long"] - peak_mb["short"] < MOST_GROWTH_MB
    assert frames["long"] == [frames["short"][0]] * SHARD_SIZE


def test_freed_memory_goes_back_to_the_system_where_the_c_library_is_glibc() -> None:
    if memory._trim() is None:
        pytest.skip("the C library is another one")

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    blocks = [bytes(65_536) + b"1" for _ in range(1000)]  # too small for pages of their own
    barrier = bytes(65_536) + b"1"
    del blocks
    held = resident()
    memory.release_memory()
    assert held - resident() > 50_000_000
    assert len(barrier) == 65_537
