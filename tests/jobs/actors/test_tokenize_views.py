"""`soundstorm tokenize --views`: rows of each view of each clip, the same however the run is cut into shards or
interrupted."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import ray

from cluster import storage, tables
from cluster.errors import ClusterError
from cluster.scheduling.attempt_tracker import start_tracker
from cluster.tables import stage_record as records
from jobs import tokenize
from jobs.actors.mixing_partners import MixingPartners
from jobs.actors.tokenizer import PLANNED_CLIPS, TokenizerActor, to_ipc
from soundstorm.audio.files import RejectedAudio, encode_audio, from_pcm16, read_audio, to_pcm16
from soundstorm.codec.files import load_codec
from soundstorm.data.views import make_view
from soundstorm.schemas import CLIPS
from tests.jobs.conftest import MixedDataset, Tokenized, file_times, interrupt, synthetic_clip, tokenize_options

NUM_VIEWS = 6


def view_rows(output: str) -> dict[tuple[str, int], dict[str, Any]]:
    """Rows of tokens by clip and view."""
    table, _ = tables.read_table(storage.join(output, "tokens"))
    rows = {(row["clip_id"], row["view"]): row for row in table.to_pylist()}
    assert len(rows) == table.num_rows
    return rows


def rejected_rows(output: str) -> list[dict[str, str]]:
    return tables.read_table(storage.join(output, "rejected"))[0].to_pylist()


@pytest.fixture(scope="module")
def with_views(
    mixed_dataset: MixedDataset, tiny_codec: Path, tmp_path_factory: pytest.TempPathFactory, ray_session: None
) -> tokenize.Options:
    """Options of a finished run with views, whose shards are of another size than those of `tokenized`."""
    output = str(tmp_path_factory.mktemp("views") / "out")
    options = tokenize_options(mixed_dataset, tiny_codec, output, views=NUM_VIEWS, shard_size=5)
    tokenize.run(options)
    return options


def test_each_clip_has_its_views_beside_the_recording_or_is_rejected(
    with_views: tokenize.Options, tokenized: Tokenized, mixed_dataset: MixedDataset
) -> None:
    rows = view_rows(with_views.output_dir)
    assert rows.keys() == {(clip_id, view) for clip_id in mixed_dataset.good for view in range(NUM_VIEWS + 1)}
    assert {key: row for key, row in rows.items() if key[1] == 0} == view_rows(tokenized.output)
    by_id = [
        sorted(row["clip_id"] for row in rejected_rows(output)) for output in (with_views.output_dir, tokenized.output)
    ]
    assert by_id[0] == by_id[1]
    record = records.read(with_views.output_dir, "tokenize")
    assert record is not None
    assert (record.counts["tokens"], record.counts["views"]) == ((NUM_VIEWS + 1) * len(mixed_dataset.good), NUM_VIEWS)
    num_clips = len(mixed_dataset.good) + len(mixed_dataset.bad)
    again = tokenize.run(with_views)["message"]
    assert (
        f"already done: {len(mixed_dataset.good)} of {num_clips} clips tokenized in {NUM_VIEWS + 1} views each" in again
    )


def test_a_view_is_what_its_clip_and_its_partner_make_however_the_clips_are_dealt(
    with_views: tokenize.Options, tiny_codec: Path
) -> None:
    codec = load_codec(tiny_codec)
    clips, _ = tables.read_table(storage.join(with_views.output_dir, "clips.parquet"))
    planned = MixingPartners(clips.take(list(range(clips.num_rows))[::-1]), NUM_VIEWS).planned(0, clips.num_rows)
    mixed = {"with": 0, "without": 0}
    rows = view_rows(with_views.output_dir)
    for clip in planned.to_pylist():
        for view, uri in enumerate(clip["partners"], start=1):
            if (clip["clip_id"], view) not in rows:
                continue
            waveform = from_pcm16(to_pcm16(read_audio(Path(clip["uri"])).waveform))
            try:
                partner = None if uri is None else read_audio(Path(uri)).waveform
            except RejectedAudio:  # one of the bad recordings
                partner = None
            if uri is not None:
                mixed["without" if partner is None else "with"] += 1
            expected = codec.encode_clips([make_view(waveform, clip["clip_id"], view, partner)])[0]
            np.testing.assert_array_equal(np.array(rows[clip["clip_id"], view]["codes"]), expected)
    assert all(mixed.values())


def test_partners_are_of_the_same_class_and_fold_in_any_order_of_the_clips() -> None:
    rows = [
        {"clip_id": f"clip-{n}", "dataset": "d", "uri": f"/{n}.wav", "fold": n % 3 + 1, "label": n % 2, "category": "x"}
        for n in range(40)
    ]
    group = {row["uri"]: (row["fold"], row["label"]) for row in rows}
    partners = MixingPartners(pa.Table.from_pylist(rows, CLIPS), 8)
    planned = {row["clip_id"]: row for start in range(0, 40, 10) for row in partners.planned(start, 10).to_pylist()}
    found = [(row, partner) for row in planned.values() for partner in row["partners"] if partner is not None]
    assert 0.1 < len(found) / (40 * 8) < 0.3
    assert all(partner != row["uri"] and group[partner] == group[row["uri"]] for row, partner in found)
    for fewer, views in ((rows[::-1], 8), (rows, 5)):
        table = MixingPartners(pa.Table.from_pylist(fewer, CLIPS), views).planned(0, 40)
        assert all(row["partners"] == planned[row["clip_id"]]["partners"][:views] for row in table.to_pylist())


def test_an_interrupted_run_with_views_does_only_the_part_that_is_missing(
    with_views: tokenize.Options, tmp_path: Path
) -> None:
    output = str(shutil.copytree(with_views.output_dir, tmp_path / "interrupted"))
    missing = tables.part_uri(f"{output}/tokens", 2)
    lost = Path(missing).read_bytes()
    Path(missing).unlink()
    interrupt(output, "tokenize")
    before = file_times(f"{output}/tokens")
    tokenize.run(replace(with_views, output_dir=output))
    after = file_times(f"{output}/tokens")
    assert after.items() - before.items() == {("part-00002.parquet", after["part-00002.parquet"])}
    assert Path(missing).read_bytes() == lost


def test_another_number_of_views_is_refused(with_views: tokenize.Options) -> None:
    with pytest.raises(ClusterError, match=rf"views: then {NUM_VIEWS}, now 0.*--overwrite"):
        tokenize.run(replace(with_views, views=0))


def planned_clip(path: Path, partners: list[str | None]) -> pa.Table:
    """A shard of the one clip `a`."""
    clip = {
        "clip_id": "a",
        "dataset": "folder",
        "uri": str(path),
        "fold": 1,
        "label": 0,
        "category": "x",
        "partners": partners,
    }
    return pa.Table.from_pylist([clip], PLANNED_CLIPS)


def test_a_clip_of_which_one_view_cannot_be_encoded_is_rejected_whole(
    tiny_codec: Path, tmp_path: Path, ray_session: None
) -> None:
    (tmp_path / "a.wav").write_bytes(encode_audio(synthetic_clip("rain"), 24_000, "wav"))
    weights = tiny_codec.read_bytes()
    encoder = TokenizerActor(
        ray.put(weights),
        str(tmp_path / "out"),
        load_codec(weights).fingerprint.to_metadata(),
        30.0,
        False,
        start_tracker(),
        600.0,
    )
    row = {"shard": 0, "clips": to_ipc(planned_clip(tmp_path / "a.wav", [None, None]))}
    encoder(row)
    assert view_rows(str(tmp_path / "out")).keys() == {("a", 0), ("a", 1), ("a", 2)}

    encode = encoder.codec.encode_clips
    refused = make_view(from_pcm16(to_pcm16(synthetic_clip("rain"))), "a", 2)

    def encode_all_but_one(waveforms: list[np.ndarray]) -> list[np.ndarray]:
        if any(np.array_equal(waveform, refused) for waveform in waveforms):
            raise RuntimeError("out of memory")
        return encode(waveforms)

    encoder.codec.encode_clips = encode_all_but_one  # type: ignore[method-assign]
    encoder(row)
    assert view_rows(str(tmp_path / "out")) == {}
    assert [(found["clip_id"], found["reason"]) for found in rejected_rows(str(tmp_path / "out"))] == [
        ("a", "codec_failed")
    ]
