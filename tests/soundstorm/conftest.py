"""Tables of features whose answers are known, for the tests of closeness and of the report."""

import zlib
from typing import Any

import numpy as np

from soundstorm.schemas import Role

CLASSES = ("clock tick", "dog", "rain")
WIDTH, FRAMES, FOLDS, HELD_OUT = 4, 50, 5, 5
REAL_PER_CLASS, GENERATED_PER_CLASS = 40, 20

Row = dict[str, Any]


def feature_row(role: Role, number: int, category: str, fold: int = 0, centre: float = 0.0) -> Row:
    """A clip with random codes, and embeddings around the centre of its class, all of its own."""
    clip_id = f"{role}-{category}-{number}"
    rng = np.random.default_rng(zlib.crc32(clip_id.encode()))
    return {
        "clip_id": clip_id,
        "role": role.value,
        "category": category,
        "fold": fold,
        "recording": clip_id,
        "flux": rng.uniform(3.9, 4.1),
        "modulation": rng.uniform(29, 31),
        "modulation_bands": [30.0 / 16] * 16,
        "onset_rate": rng.uniform(1.9, 2.1),
        "onset_rise": rng.uniform(9.5, 10.5),
        "codec_embedding": rng.normal(centre, 1, (2, WIDTH)).tolist(),
        "classifier_embedding": rng.normal(centre, 1, WIDTH).tolist(),
        "model_embedding": rng.normal(centre, 1, WIDTH).tolist(),
        "predicted": category,
        "probability": 0.9,
        "codes": rng.integers(0, 1024, FRAMES).tolist(),
    }


def feature_rows(categories: tuple[str, ...] = CLASSES) -> list[Row]:
    """Generated clips of the same distributions as the real ones, half of which are drawn for the comparison."""
    found = []
    for label, category in enumerate(categories):
        found += [
            feature_row(Role.GENERATED, number, category, centre=3 * label) for number in range(GENERATED_PER_CLASS)
        ]
    for number in range(REAL_PER_CLASS):
        role = Role.REAL if number < REAL_PER_CLASS // 2 else Role.REFERENCE
        found += [
            feature_row(role, number, category, 1 + number % FOLDS, 3 * label)
            for label, category in enumerate(categories)
        ]
    return found
