"""Checks of tables that an earlier run of an evaluation wrote."""

import pyarrow as pa
import pyarrow.compute as pc

from soundstorm.errors import SoundStormError
from soundstorm.schemas import FEATURES, METRICS, Role, Source

REMEDY = "measure again with --overwrite"
OPTIONAL = ("classifier_embedding", "model_embedding")
"""Columns of embeddings that are present for all clips or for none."""


def require_measured(table: pa.Table, schema: pa.Schema, where: str) -> None:
    """Raise unless all numbers are finite, names are known ones, and all embeddings of a column have the same size.

    Args:
        table: of `schema`.
        schema: one of those in `soundstorm.schemas`.
        where: the table's place, for errors.

    Raises:
        SoundStormError: a value is of no measurement.
    """
    for name in schema.names:
        values = _flat(table[name].combine_chunks())
        if pa.types.is_floating(values.type) and not pc.all(pc.is_finite(values), min_count=0).as_py():
            raise SoundStormError(f"{where}: '{name}' has a value that is NaN or infinite: {REMEDY}")
    for column, known, expected in (("source", Source, METRICS), ("role", Role, FEATURES)):
        unknown = set(table[column].to_pylist()) - set(known) if schema is expected else set()
        if unknown:
            raise SoundStormError(f"{where}: {column} '{min(unknown)}' is not one of {', '.join(known)}: {REMEDY}")
    if schema is FEATURES:
        _require_features(table, where)


def _require_features(table: pa.Table, where: str) -> None:
    sizes = {
        "modulation_bands": {len(row) for row in table["modulation_bands"].to_pylist()},
        "codec_embedding": {len(window) for row in table["codec_embedding"].to_pylist() for window in row or [[]]},
        **{name: {0 if row is None else len(row) for row in table[name].to_pylist()} for name in OPTIONAL},
    }
    for name, found in sizes.items():
        if len(found) > 1 or (name not in OPTIONAL and 0 in found):
            raise SoundStormError(
                f"{where}: '{name}' has rows of {' and '.join(map(str, sorted(found)))} values: {REMEDY}"
            )
    named = sizes["classifier_embedding"] != {0}
    if named and (table["predicted"].null_count or table["probability"].null_count):
        raise SoundStormError(f"{where}: 'predicted' or 'probability' has no value in some rows: {REMEDY}")
    if not all(len(row) for row in table["codes"].to_pylist()):
        raise SoundStormError(f"{where}: 'codes' has an empty row: {REMEDY}")


def _flat(values: pa.Array) -> pa.Array:
    while pa.types.is_list(values.type):
        values = values.flatten()
    return values
