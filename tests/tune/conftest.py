"""What the studies of several tests start from: a small token table."""

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from cluster import storage, tables
from cluster.tables import stage_record as records
from soundstorm.schemas import TOKENS, CodecFingerprint, codes_to_lists

FINGERPRINT = CodecFingerprint(
    name="pattern", sha256="ab" * 32, sample_rate=24_000, frame_rate=75, num_levels=2, codebook_size=8
)


@pytest.fixture(scope="session")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Twelve clips of two classes in three folds, what `tokenize` would leave."""
    uri = str(tmp_path_factory.mktemp("tokens"))
    rows: list[dict[str, Any]] = [
        {
            "clip_id": f"clip-{number:02d}",
            "dataset": "folder",
            "fold": number // 4 + 1,
            "label": number % 2,
            "category": ("rain", "wind")[number % 2],
            "view": 0,
            "num_frames": 16,
            "codes": codes_to_lists((np.arange(16) * np.array([[1], [3]]) + 2 * (number % 2)) % 8),
        }
        for number in range(12)
    ]
    metadata = FINGERPRINT.to_metadata() | {"categories": json.dumps(["rain", "wind"]), "num_folds": "3"}
    tables.write_table(tables.part_uri(storage.join(uri, "tokens"), 0), pa.Table.from_pylist(rows, TOKENS), metadata)
    records.complete_stage(uri, "tokenize", {}, {})
    return uri
