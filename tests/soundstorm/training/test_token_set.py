"""Codes as flat arrays: each view comes back as it was, whatever the order and the pieces of the table."""

import pickle

import numpy as np
import pyarrow as pa
import pytest

from soundstorm.errors import SoundStormError
from soundstorm.schemas import TOKENS, codes_to_lists
from soundstorm.training.batches import sample_view
from soundstorm.training.token_set import TokenSet, codes_in_order

LEVELS, CODES = 3, 50


def codes_of(clip: int, view: int) -> np.ndarray:
    """Of another length for each clip."""
    return np.random.default_rng([clip, view]).integers(CODES, size=(LEVELS, 4 + clip)).astype(np.uint16)


def table_of(clips: range, num_views: int) -> pa.Table:
    rows = [
        {
            "clip_id": f"clip-{clip:02d}",
            "dataset": "folder",
            "fold": 1,
            "label": clip % 4,
            "category": "x",
            "view": view,
            "num_frames": 4 + clip,
            "codes": codes_to_lists(codes_of(clip, view)),
        }
        for clip in clips
        for view in range(num_views)
    ]
    order = np.random.default_rng(0).permutation(len(rows))
    return pa.concat_tables([pa.Table.from_pylist([rows[place]], TOKENS) for place in order])


@pytest.mark.parametrize("num_views", [1, 3])
def test_each_view_of_each_clip_comes_back_as_it_was_in_order_of_the_names(num_views: int) -> None:
    tokens = TokenSet.from_rows(table_of(range(11), num_views), LEVELS, CODES, "tokens")
    assert (len(tokens), tokens.num_views) == (11, 11 * num_views)
    assert tokens.labels == [clip % 4 for clip in range(11)]
    assert tokens.codes.dtype == np.uint16
    for clip, views in enumerate(tokens.views):
        assert len(views) == num_views
        for view, codes_QT in enumerate(views):
            np.testing.assert_array_equal(codes_QT, codes_of(clip, view))
            assert codes_QT.base is not None  # a slice of the one array, and no copy
        np.testing.assert_array_equal(tokens.recorded(clip), codes_of(clip, 0))
        for epoch in range(4):
            drawn = sample_view(num_views, 0.3, 7, epoch, clip)
            np.testing.assert_array_equal(tokens.sample_view(clip, 0.3, 7, epoch), codes_of(clip, drawn))


def test_a_set_of_arrays_is_that_of_the_table() -> None:
    table = TokenSet.from_rows(table_of(range(5), 2), LEVELS, CODES, "tokens")
    given = TokenSet.of([[codes_of(clip, view) for view in range(2)] for clip in range(5)], table.labels)
    for name in ("codes", "starts", "first_views"):
        np.testing.assert_array_equal(getattr(given, name), getattr(table, name))
    assert given.num_levels == LEVELS
    assert len(TokenSet.of([], [])) == TokenSet.of([], []).num_views == 0


def test_a_set_of_no_rows_has_no_clips() -> None:
    empty = TokenSet.from_rows(TOKENS.empty_table(), LEVELS, CODES, "tokens")
    assert (len(empty), empty.num_views, empty.labels, list(empty.views)) == (0, 0, [], [])


def test_more_codes_than_an_array_of_arrow_can_hold_are_put_in_order_without_a_copy() -> None:
    """2^31 codes of 128 rows that share their memory, 32 MB."""
    frames = np.arange(2**24, dtype=np.uint16) % CODES
    levels = pa.ListArray.from_arrays(pa.array([0, len(frames)], pa.int32()), pa.array(frames))
    row = pa.ListArray.from_arrays(pa.array([0, 1], pa.int32()), levels)
    other = pa.array([[[7, 8]]], row.type)
    column = pa.chunked_array([other, *[row] * 128])
    with pytest.raises(pa.ArrowInvalid, match="overflow"):
        column.take(pa.array(range(len(column))))
    codes = codes_in_order(column, np.arange(len(column))[::-1], 1, CODES, "tokens")
    assert [len(each) for each in codes] == [2**24] * 128 + [2]
    assert all(np.shares_memory(each, codes[0]) for each in codes[:128])
    np.testing.assert_array_equal(codes[127], frames)
    np.testing.assert_array_equal(codes[128], [7, 8])


def test_it_is_pickled_as_few_buffers_that_need_no_copy() -> None:
    tokens = TokenSet.from_rows(table_of(range(40), 2), LEVELS, CODES, "tokens")
    buffers: list[pickle.PickleBuffer] = []
    rest = pickle.dumps(tokens, protocol=5, buffer_callback=buffers.append)
    assert len(buffers) == 3 and len(rest) < 1500
    assert sum(buffer.raw().nbytes for buffer in buffers) == tokens.codes.nbytes + 8 * (81 + 41)


@pytest.mark.parametrize(
    ("codes", "problem"),
    [
        ([[1, 2], [3, 4]], "a row of 'codes' has 2 levels, expected 3"),
        ([[1, 2], [3], [4, 5, 6]], "has levels of unequal length"),
        ([[1, 2], [3, 50], [4, 5]], "code 50 is out of range: the codebooks have 50 codes"),
        ([[1, 2], [3, None], [4, 5]], "a row of 'codes' lacks a code"),
    ],
)
def test_malformed_codes_are_named(codes: list[list[int | None]], problem: str) -> None:
    table = table_of(range(2), 1)
    bad = table.slice(0, 1).set_column(
        table.schema.get_field_index("codes"), "codes", pa.array([codes], pa.list_(pa.list_(pa.uint16())))
    )
    rows = pa.concat_tables([table.slice(1).cast(bad.schema), bad])
    with pytest.raises(SoundStormError, match=f"tokens: .*{problem}|tokens: {problem}"):
        TokenSet.from_rows(rows, LEVELS, CODES, "tokens")
