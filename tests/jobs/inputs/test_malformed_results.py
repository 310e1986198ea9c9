"""What a job left behind, broken: the next call names the file in one message, or makes good what is broken."""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster import tables
from cluster.errors import ClusterError
from jobs import evaluate, generate, tokenize
from jobs.inputs.tokens import open_tokens
from tests.jobs.conftest import (
    NUM_SAMPLES,
    Evaluated,
    MixedDataset,
    Tokenized,
    generate_options,
    interrupt,
    tokenize_options,
)
from tests.support.malformed import call, counted, few, message_of, tell
from tests.support.mutations import broken_json, broken_table


@dataclass(frozen=True)
class Finished:
    """The output of a job, and the same command for a copy of it."""

    output: Path
    again: Callable[[str], dict[str, Any]]
    check: Callable[[str], None]
    """What holds of an output that the next call has accepted."""


@pytest.fixture(scope="module")
def finished(
    generated: str,
    checkpoint: str,
    tokenized: Tokenized,
    mixed_dataset: MixedDataset,
    tiny_codec: Path,
    evaluated: Evaluated,
) -> dict[str, Finished]:
    """By name of the job."""

    def samples_are_whole(output: str) -> None:
        try:
            samples, _ = tables.read_table(f"{output}/samples.parquet")
        except ClusterError as error:  # of a finished run only the number of rows is looked at
            assert f"{output}/samples.parquet" in str(error)
            return
        assert len(set(samples["sample_id"].to_pylist())) == samples.num_rows == NUM_SAMPLES

    def tokens_are_whole(output: str) -> None:
        assert open_tokens(output, None).table.num_rows == len(mixed_dataset.good)

    def summary_is_whole(output: str) -> None:
        assert json.loads(Path(output, "summary.json").read_text(), parse_constant=pytest.fail)["overall"]

    return {
        "generate": Finished(
            Path(generated), lambda output: generate.run(generate_options(checkpoint, output)), samples_are_whole
        ),
        "tokenize": Finished(
            Path(tokenized.output),
            lambda output: tokenize.run(tokenize_options(mixed_dataset, tiny_codec, output)),
            tokens_are_whole,
        ),
        "evaluate": Finished(
            Path(evaluated.output),
            lambda output: evaluate.run(replace(evaluated.again, output_dir=output)),
            summary_is_whole,
        ),
    }


@pytest.fixture(scope="module", autouse=True)
def _told() -> Iterator[None]:
    yield
    tell()


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("job", "pattern"),
    [
        ("generate", "generate.json"),
        ("generate", "samples.parquet"),
        ("generate", "parts/**/*.parquet"),
        ("tokenize", "tokenize.json"),
        ("tokenize", "tokens/*.parquet"),
        ("tokenize", "rejected/part-0*.parquet"),
        ("tokenize", "notes/*.json"),
        ("evaluate", "evaluate.json"),
        ("evaluate", "parts/metrics/**/*.parquet"),
        ("evaluate", "parts/pairs/**/*.parquet"),
        ("evaluate", "parts/features/**/*.parquet"),
        ("evaluate", "parts/rejected/**/*.parquet"),
    ],
)
def test_a_broken_result_is_named_in_one_message_or_made_good(
    job: str, pattern: str, finished: dict[str, Finished], tmp_path: Path
) -> None:
    known, output, marker = finished[job], tmp_path / "out", tmp_path / "marker"
    path = sorted(known.output.glob(pattern))[0].relative_to(known.output)
    good = (known.output / path).read_bytes()
    broken = broken_table if path.suffix == ".parquet" else broken_json

    @few
    @given(st.data())
    def check(data: st.DataObject) -> None:
        shutil.rmtree(output, ignore_errors=True)
        shutil.copytree(known.output, output)
        if path.name not in (f"{job}.json", "samples.parquet"):
            interrupt(str(output), job)
        (output / path).write_bytes(data.draw(broken(good, marker)))
        result = call(lambda: known.again(str(output)))
        if result[0]:
            message = message_of(result)
            assert path.name in message or str(output) in message, message
        else:
            known.check(str(output))
        assert not marker.exists()
        counted["refused" if result[0] else "used"] += 1

    check()
