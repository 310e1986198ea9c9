"""Broken versions of good files, drawn by hypothesis: cut off, damaged, of other types, or with content that runs code
when unpickled."""

import copy
import csv
import io
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import safetensors.torch
import torch
from hypothesis import strategies as st

Draw = Callable[[Any], Any]

DEEP = "<deep>"
"""Stands in JSON for lists in lists, deeper than any reader goes."""
ODD: list[Any] = [
    *(None, True, False, 0, -1, 1, 3, 2**31, 2**63, 10**400, 0.5, 1e308, float("nan"), float("inf"), -float("inf")),
    *("", "x", "1", "x" * 5000, "\x00", "\x1b[2J", "\ud800", "../../etc", "[red]", "a\nb", "NaN", DEEP),
    *([], [None], [1, "x"], [[[]]], {}, {"": None}),
]
"""Values that do not belong where they are put."""
TEXTS = [
    "",
    "x",
    "0",
    "-1",
    "1e9",
    "nan",
    "9" * 400,
    "x" * 200_000,
    "\x00",
    "\x1b[2J",
    "../../etc/passwd",
    "é\u0301",
    '"',
    "=1+1",
    "a\nb",
    "true",
]


class Payload:
    """Makes the file `marker` where it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, tuple[str, str]]:
        return open, (str(self.marker), "w")


def payloads(marker: Path) -> list[bytes]:
    """Files that make `marker` when they are unpickled, in each form that a loader might take."""
    plain = [pickle.dumps(Payload(marker), protocol) for protocol in (0, 2, 4)]
    saved = []
    for new_form in (True, False):
        file = io.BytesIO()
        torch.save({"network": Payload(marker), "epochs_done": 1}, file, _use_new_zipfile_serialization=new_form)
        saved.append(file.getvalue())
    unpickled = pa.field(
        "clip_id",
        pa.binary(),
        metadata={"ARROW:extension:name": "arrow.py_extension_type", "ARROW:extension:metadata": plain[1]},
    )
    table = io.BytesIO()
    pq.write_table(pa.table([pa.array([plain[2]])], schema=pa.schema([unpickled])), table)
    return [*plain, *saved, table.getvalue()]


@st.composite
def damaged(draw: Draw, good: bytes, marker: Path) -> bytes:
    """`good` cut off, with other bytes in it, or replaced by something else."""
    how = draw(st.sampled_from(["cut", "flip", "zeros", "insert", "double", "other"]))
    place = draw(st.one_of(st.integers(0, max(len(good) - 1, 0)), st.integers(0, min(200, max(len(good) - 1, 0)))))
    length = draw(st.integers(1, 64))
    if how == "cut":
        return good[:place]
    if how == "flip":
        return (
            good[:place]
            + bytes(byte ^ draw(st.integers(1, 255)) for byte in good[place : place + min(length, 4)])
            + good[place + min(length, 4) :]
        )
    if how == "zeros":
        return good[:place] + bytes(len(good[place : place + length])) + good[place + length :]
    if how == "insert":
        return good[:place] + draw(st.binary(min_size=1, max_size=length)) + good[place:]
    if how == "double":
        return good + good
    others = [
        *payloads(marker),
        b"",
        b"null",
        b"[]",
        b"{}",
        bytes(512),
        b"PK\x03\x04" + good[:64],
        b"PAR1PAR1",
        "\ufeffé".encode("utf-16"),
        b"\xff\xfe",
    ]
    return draw(st.sampled_from(others))


def _places(tree: Any) -> list[tuple[Any, Any]]:
    """Every place in dictionaries in lists in dictionaries: container and key."""
    items = list(tree.items()) if isinstance(tree, dict) else list(enumerate(tree)) if isinstance(tree, list) else []
    return [(tree, key) for key, _ in items] + [place for _, value in items for place in _places(value)]


def change_tree(draw: Draw, good: Any, odd: list[Any]) -> Any:
    """`good` with one value replaced, left out, added or put elsewhere."""
    tree = copy.deepcopy(good)
    places = _places(tree)
    if not places or draw(st.integers(0, 19)) == 0:
        return draw(st.sampled_from(odd))
    container, key = draw(st.sampled_from(places))
    how = draw(st.sampled_from(["replace", "replace", "replace", "leave out", "add", "wrap", "as text"]))
    if how == "replace":
        container[key] = draw(st.sampled_from(odd))
    elif how == "leave out":
        del container[key]
    elif how == "wrap":
        container[key] = [container[key]]
    elif how == "as text":
        container[key] = str(container[key])
    elif isinstance(container, dict):
        container["another"] = draw(st.sampled_from(odd))
    else:
        container.insert(key, draw(st.sampled_from(odd)))
    return tree


def to_json(tree: Any) -> bytes:
    """JSON, also of what JSON has no words for."""
    return json.dumps(tree).replace(json.dumps(DEEP), "[" * 100_000 + "]" * 100_000).encode()


@st.composite
def broken_json(draw: Draw, good: bytes, marker: Path) -> bytes:
    """A JSON file with a wrong value, or damaged."""
    how = draw(st.sampled_from(["tree", "tree", "tree", "bytes", "encoding"]))
    if how == "tree":
        return to_json(change_tree(draw, json.loads(good), ODD))
    if how == "encoding":
        return good.decode().encode(draw(st.sampled_from(["utf-16", "utf-32", "utf-8-sig", "cp037"])), "replace")
    return bytes(draw(damaged(good, marker)))


@st.composite
def broken_csv(draw: Draw, good: bytes, marker: Path) -> bytes:
    """A CSV file with a wrong cell, without a column or a header, or damaged."""
    how = draw(st.sampled_from(["cell", "cell", "header", "row", "column", "bytes", "encoding"]))
    rows = list(csv.reader(io.StringIO(good.decode())))
    number = draw(st.integers(0, len(rows) - 1))
    column = draw(st.integers(0, len(rows[0]) - 1))
    if how == "bytes":
        return bytes(draw(damaged(good, marker)))
    if how == "encoding":
        return good.decode().encode(draw(st.sampled_from(["utf-16", "utf-8-sig", "cp037"])), "replace")
    if how == "cell":
        rows[number][column] = draw(st.sampled_from(TEXTS))
    elif how == "header":
        rows = draw(st.sampled_from([rows[1:], rows[:1], [*rows, *rows]]))
    elif how == "row":
        rows[number] = draw(st.sampled_from([[], rows[number][:1], [*rows[number], "more", "more"]]))
    else:
        rows = [[*row[:column], *row[column + 1 :]] for row in rows]
    file = io.StringIO()
    csv.writer(file, quoting=draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]))).writerows(rows)
    return file.getvalue().encode("utf-8", "surrogatepass")


ODD_OF_TYPE: dict[Callable[[pa.DataType], bool], list[Any]] = {
    pa.types.is_integer: [0, -1, 1, 7, 2**31 - 1],
    pa.types.is_floating: [float("nan"), float("inf"), -1.0, 0.0, 1e300],
    pa.types.is_string: [
        "",
        "x",
        "\x00",
        "../../etc/passwd",
        "x" * 5000,
        "\x1b[2J",
        "s3://",
        "nosuch://x",
        "s3://no/\x00",
    ],
    pa.types.is_list: [[], [[]], [[1]], [[1], [1, 2]]],
}
OTHER_TYPES = [
    pa.string(),
    pa.int64(),
    pa.int8(),
    pa.float32(),
    pa.binary(),
    pa.bool_(),
    pa.list_(pa.int32()),
    pa.large_string(),
    pa.null(),
]


@st.composite
def broken_table(draw: Draw, good: bytes, marker: Path) -> bytes:
    """A Parquet file with wrong columns, cells, rows or metadata, or damaged."""
    how = draw(
        st.sampled_from(
            [
                "bytes",
                "drop",
                "rename",
                "type",
                "null",
                "cell",
                "cell",
                "rows",
                "extra",
                "twice",
                "metadata",
                "metadata",
            ]
        )
    )
    if how == "bytes":
        return bytes(draw(damaged(good, marker)))
    table = pq.read_table(io.BytesIO(good))
    metadata = {key: value for key, value in (table.schema.metadata or {}).items() if not key.startswith(b"ARROW")}
    number = draw(st.integers(0, table.num_columns - 1))
    name, kind = table.column_names[number], table.schema.types[number]
    values = table.column(number).to_pylist()
    if how == "drop":
        table = table.drop_columns([name])
    elif how == "rename":
        table = table.rename_columns([f"{old}2" if old == name else old for old in table.column_names])
    elif how == "type":
        other = draw(st.sampled_from(OTHER_TYPES))
        table = table.set_column(number, pa.field(name, other), pa.nulls(len(table), other))
    elif how in ("null", "cell") and values:
        odd = [None] if how == "null" else next((odd for fits, odd in ODD_OF_TYPE.items() if fits(kind)), [None])
        values[draw(st.integers(0, len(values) - 1))] = draw(st.sampled_from(odd))
        try:
            table = table.set_column(number, pa.field(name, kind), pa.array(values, kind))
        except (pa.ArrowException, OverflowError):  # not of this type: of no type at all
            table = table.set_column(number, pa.field(name, pa.null()), pa.nulls(len(table)))
    elif how == "rows":
        table = draw(st.sampled_from([table.slice(0, 0), pa.concat_tables([table, table]), table.slice(1)]))
    elif how == "extra":
        table = table.append_column("another", pa.nulls(len(table), pa.int32()))
    elif how == "twice":
        table = pa.Table.from_arrays([*table.columns, table.column(number)], names=[*table.column_names, name])
    elif how == "metadata" and metadata:
        key = draw(st.sampled_from(sorted(metadata)))
        changed = draw(
            st.sampled_from(
                [
                    None,
                    b"",
                    b"x",
                    b"-1",
                    b"0",
                    b"[]",
                    b"[1, 2]",
                    b"null",
                    b"9" * 400,
                    b"\xff\xfe",
                    b'["a", "a"]',
                    "٣".encode(),
                ]
            )
        )
        metadata = {} if draw(st.integers(0, 9)) == 0 else metadata | {key: changed}
    file = io.BytesIO()
    pq.write_table(
        table.replace_schema_metadata({key: value for key, value in metadata.items() if value is not None}), file
    )
    return file.getvalue()


@st.composite
def broken_safetensors(draw: Draw, good: bytes, marker: Path) -> bytes:
    """A safetensors file with a wrong header or wrong tensors, or damaged."""
    how = draw(st.sampled_from(["bytes", "header", "header", "about", "tensor", "tensor"]))
    size = int.from_bytes(good[:8], "little")
    header = json.loads(good[8 : 8 + size])
    if how == "bytes":
        return bytes(draw(damaged(good, marker)))
    if how in ("header", "about"):
        texts = {key: value for key, value in header.get("__metadata__", {}).items() if value.startswith("{")}
        if how == "about" and texts:
            key = draw(st.sampled_from(sorted(texts)))
            header["__metadata__"][key] = to_json(change_tree(draw, json.loads(texts[key]), ODD)).decode()
        else:
            header = change_tree(draw, header, ODD)
        changed = to_json(header)
        return len(changed).to_bytes(8, "little") + changed + good[8 + size :]
    tensors = safetensors.torch.load(good)
    name = draw(st.sampled_from(sorted(tensors)))
    tensor = tensors.pop(name)
    changes: dict[str, Callable[[], torch.Tensor]] = {
        "nan": lambda: torch.full_like(tensor.float(), float("nan")),
        "double": lambda: tensor.double(),
        "whole numbers": lambda: tensor.long(),
        "bool": lambda: tensor.bool(),
        "flat": lambda: tensor.flatten().clone(),
        "one more": lambda: torch.stack([tensor, tensor]),
        "empty": lambda: tensor[:0].clone(),
        "scalar": lambda: torch.tensor(1.0),
        "huge": lambda: torch.full_like(tensor.float(), 3e38),
    }
    change = draw(st.sampled_from([*changes, "missing", "renamed"]))
    if change in changes:
        tensors[name] = changes[change]()
    elif change == "renamed":
        tensors[name + "2"] = tensor
    return bytes(safetensors.torch.save(tensors, metadata=header.get("__metadata__")))


@st.composite
def broken_state(draw: Draw, good: bytes, marker: Path) -> bytes:
    """A file of `torch.save` with a wrong value, or damaged."""
    if draw(st.integers(0, 2)) == 0:
        return bytes(draw(damaged(good, marker)))
    state = torch.load(io.BytesIO(good), weights_only=True)
    odd = [*ODD, torch.zeros(3), torch.full((2, 2), float("nan")), torch.tensor(5)]
    file = io.BytesIO()
    torch.save(change_tree(draw, state, odd), file)
    return file.getvalue()
