"""Tables keep their columns and codes, and refuse what does not fit together."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from soundstorm.errors import SoundStormError
from soundstorm.schemas import CLIPS, TOKENS, CodecFingerprint, check_schema, codes_from_column, codes_to_lists

FINGERPRINT = CodecFingerprint(
    name="tiny", sha256="ab" * 32, sample_rate=24_000, frame_rate=75, num_levels=8, codebook_size=1024
)


def _tokens(*codes: np.ndarray) -> pa.Table:
    fixed = {"dataset": "d", "fold": 1, "label": 0, "category": "c", "view": 0}
    return pa.Table.from_pylist(
        [
            fixed | {"clip_id": str(i), "num_frames": c.shape[1], "codes": codes_to_lists(c)}
            for i, c in enumerate(codes)
        ],
        TOKENS,
    )


def test_codes_of_any_length_survive_a_parquet_file(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    codes = [rng.integers(0, 1024, (8, frames)) for frames in (375, 1, 40, 300)]
    pq.write_table(_tokens(*codes), tmp_path / "t.parquet")
    column = pq.read_table(tmp_path / "t.parquet")["codes"]
    for before, after in zip(codes, codes_from_column(column, 8, 1024, "t"), strict=True):
        np.testing.assert_array_equal(before, after)


def test_codes_survive_slicing_of_their_table() -> None:
    codes = [np.full((8, frames), frames) for frames in (3, 5, 7)]
    [middle] = codes_from_column(_tokens(*codes).slice(1, 1)["codes"], 8, 1024, "t")
    np.testing.assert_array_equal(middle, codes[1])


def test_an_empty_table_has_no_codes() -> None:
    assert codes_from_column(TOKENS.empty_table()["codes"], 8, 1024, "t") == []


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([[[1, 2]] * 7], "7 levels, expected 8"),
        ([[[1, 2]] * 7 + [[1]]], "unequal length"),
        ([[[1]] * 7 + [[1, 2, 3, 4, 5, 6, 7, 8, 9]]], "unequal length"),
        ([[[1, 1024]] * 8], "code 1024 is out of range"),
        ([None], "0 levels"),
        ([[[1]] * 7 + [None]], "levels, expected 8"),
    ],
)
def test_malformed_codes_are_refused_with_the_table_named(rows: list[object], message: str) -> None:
    column = pa.array(rows, pa.list_(pa.list_(pa.uint16())))
    with pytest.raises(SoundStormError, match=rf"tokens.parquet.*{message}"):
        codes_from_column(column, 8, 1024, "tokens.parquet")


def test_a_fingerprint_survives_table_metadata() -> None:
    assert CodecFingerprint.from_metadata(FINGERPRINT.to_metadata(), "t") == FINGERPRINT


@pytest.mark.parametrize(
    "damage", [{"codec_sample_rate": "fast"}, {"codec_num_levels": "-8"}, {"codec_num_levels": "٨"}]
)
def test_a_malformed_fingerprint_is_refused_with_the_table_named(damage: dict[str, str]) -> None:
    with pytest.raises(SoundStormError, match=r"t.parquet.*not a whole number"):
        CodecFingerprint.from_metadata(FINGERPRINT.to_metadata() | damage, "t.parquet")


def test_a_missing_fingerprint_is_refused_with_the_remedy() -> None:
    with pytest.raises(SoundStormError, match=r"t.parquet: no codec fingerprint.*soundstorm tokenize"):
        CodecFingerprint.from_metadata({}, "t.parquet")
    with pytest.raises(
        SoundStormError, match=r"config.json: no codec fingerprint.*make it again with `soundstorm train`$"
    ):
        CodecFingerprint.from_metadata({}, "config.json", "train")


def test_a_mismatch_names_both_codecs() -> None:
    other = CodecFingerprint(
        name="big", sha256="cd" * 32, sample_rate=24_000, frame_rate=75, num_levels=8, codebook_size=1024
    )
    with pytest.raises(
        SoundStormError, match=r"runs/tokens was made with codec 'tiny' \(abab.*in use is 'big' \(cdcd.*--codec"
    ):
        FINGERPRINT.require_equal(other, "runs/tokens")


def test_a_missing_or_mistyped_column_is_named() -> None:
    with pytest.raises(SoundStormError, match=r"x.parquet: column 'fold' is missing"):
        check_schema(CLIPS.remove(CLIPS.get_field_index("fold")), CLIPS, "x.parquet")
    wrong = CLIPS.set(CLIPS.get_field_index("fold"), pa.field("fold", pa.string()))
    with pytest.raises(SoundStormError, match="column 'fold' is string, expected int32"):
        check_schema(wrong, CLIPS, "x.parquet")
