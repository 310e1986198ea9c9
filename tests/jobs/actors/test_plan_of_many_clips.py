"""The driver of `tokenize` holds few bytes a clip: of the index, of the plan, and of what it writes at the end."""

import gc
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from cluster import tables
from jobs import tokenize
from jobs.actors import tokenizing_pool
from jobs.actors.mixing_partners import MixingPartners
from jobs.actors.tokenizer import from_ipc
from jobs.actors.tokenizing_pool import TokenizingPool
from jobs.inputs.datasets import open_dataset
from soundstorm.data.indexing import entries, listing, text_lookup
from soundstorm.data.indexing import tables as indexing_tables
from soundstorm.schemas import CLIPS
from tests.support.many_clips import CLASSES, MISSING_EVERY, end, make_recordings, make_tokens, plan

FEW, MANY = 2_000, 8_000
MAX_BYTES = 340
"""For each further clip: the peaks of Python's and of Arrow's memory together, although they are not simultaneous. It
is 150 with a table, and 250 without; with all entries as Python objects it would be 510 and 430. What resident memory
grows by is measured by bench_plan.py."""


POOLS: list[pa.MemoryPool] = []
"""Kept as long as the process lives, since arrays in them may outlive a measurement."""


class Peak:
    """The most memory that was in use at once since this was made."""

    def __init__(self) -> None:
        gc.collect()
        self._before = pa.default_memory_pool()
        self._pool = pa.proxy_memory_pool(self._before)
        POOLS.append(self._pool)
        pa.set_memory_pool(self._pool)
        tracemalloc.start()

    def stop(self) -> int:
        """Bytes in use at most."""
        _, python_bytes = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        pa.set_memory_pool(self._before)
        return python_bytes + self._pool.max_memory()


@pytest.fixture(params=[True, False], ids=["table", "folders"])
def with_table(request: pytest.FixtureRequest) -> Iterator[bool]:
    yield request.param


def options_for(folder: Path) -> tokenize.Options:
    return tokenize.Options(
        dataset="folder", data_dir=str(folder / "recordings"), output_dir=str(folder / "tokens"), overwrite=False
    )


def test_a_further_clip_costs_the_driver_few_bytes(
    tmp_path: Path, with_table: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # so that both plans have portions of one size
    monkeypatch.setattr(tokenizing_pool, "CLIPS_AT_ONCE", FEW // 2)
    for module in (entries, listing, text_lookup, indexing_tables):
        monkeypatch.setattr(module, "ROWS_AT_ONCE", FEW // 4)
    planning, ending = {}, {}
    for count in (FEW, MANY):
        folder = tmp_path / str(count)
        make_recordings(folder / "recordings", count, with_table=with_table)
        options = options_for(folder)
        peak = Peak()
        index, planned = plan(options)
        planning[count] = peak.stop()
        assert planned == count and index.rejected.num_rows == (count // MISSING_EVERY if with_table else 0)
        make_tokens(options.output_dir, count, options.shard_size)
        peak = Peak()
        rejected = end(options, index)
        ending[count] = peak.stop()
        assert rejected == index.rejected.num_rows
        clips, _ = tables.read_table(f"{options.output_dir}/clips.parquet")
        assert clips.schema.equals(CLIPS) and clips.num_rows == count
        assert clips["notes"].to_pylist() == [[]] * count and len(set(clips["category"].to_pylist())) == CLASSES
    for phase in (planning, ending):
        assert (phase[MANY] - phase[FEW]) / (MANY - FEW) < MAX_BYTES


def test_the_plan_comes_in_portions_that_hold_each_clip_once_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_recordings(tmp_path / "recordings", 300, with_table=False)
    clips = open_dataset("folder", str(tmp_path / "recordings")).clips
    pool = TokenizingPool(
        output_dir=str(tmp_path / "tokens"),
        clips=clips,
        shard_size=4,
        views=2,
        weights=b"",
        metadata={},
        max_duration_s=30.0,
        num_actors=None,
    )
    monkeypatch.setattr(tokenizing_pool, "CLIPS_AT_ONCE", 80)
    todo = [shard for shard in range(75) if shard != 1]
    portions = list(pool.plan(todo, capacity=1))
    assert [len(portion) for portion in portions] == [20, 20, 20, 14]
    assert [len(portion) for portion in pool.plan(todo, capacity=2)] == [32, 32, 10]
    shards = {row["shard"]: from_ipc(row["clips"]) for portion in portions for row in portion}
    assert list(shards) == todo
    planned = pa.concat_tables([shards[shard] for shard in todo])
    assert planned.drop_columns("partners").equals(pa.concat_tables([clips.slice(0, 4), clips.slice(8)]))
    partners = MixingPartners(clips, 2)
    assert planned["partners"].to_pylist() == [
        row for shard in todo for row in partners.planned(4 * shard, 4)["partners"].to_pylist()
    ]


def test_portions_follow_each_other_with_all_actors(
    synthetic_dataset: Path, tiny_codec: Path, tmp_path: Path, ray_session: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The actors of a portion free their CPUs for those of the next, also if no garbage is collected meanwhile."""
    monkeypatch.setattr(tokenizing_pool, "CLIPS_AT_ONCE", 1)
    monkeypatch.setattr(tokenizing_pool, "SHARDS_PER_ACTOR", 1)
    options = tokenize.Options(
        dataset="synthetic",
        data_dir=str(synthetic_dataset),
        output_dir=str(tmp_path / "out"),
        codec=str(tiny_codec),
        shard_size=5,
    )
    gc.disable()
    try:
        assert tokenize.run(options)["tokens"] == 50
    finally:
        gc.enable()
