"""The file of a classifier: int8 weights, and a header with the kind of classifier and what is known of its training.

Every kind has its own format; what all kinds have in common is read and written here. Nothing is unpickled.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Required, TypedDict, Unpack

from safetensors.torch import save as save_safetensors
from torch import Tensor

from soundstorm.errors import SoundStormError
from soundstorm.serialization.int8 import quantize
from soundstorm.serialization.provenance import KEY, MISSING, Provenance, TrainedOn, agreeing, provenance_of_weights
from soundstorm.serialization.safetensors_header import read_metadata, with_sorted_notes

REMEDY = "give a file that `soundstorm train-classifier` wrote"


@dataclass(kw_only=True, frozen=True)
class ClassifierInfo:
    """What is known of a trained classifier of any kind."""

    categories: list[str]
    """Name of each output."""
    dataset: str
    """Dataset that it was trained on."""
    held_out_fold: int | None
    """Fold that it was not trained on."""
    accuracy: float | None
    """Fraction of that fold's clips that it classifies correctly."""
    sha256: str
    """SHA-256 of its file."""
    provenance: Provenance = MISSING
    """What it was trained on, according to its file."""


class SavedInfo(TypedDict, total=False):
    """What is stored of a classifier's training."""

    categories: Required[Sequence[str]]
    """Name of each output."""
    dataset: Required[str]
    """Dataset that it was trained on."""
    held_out_fold: int | None
    """Fold that it was not trained on."""
    accuracy: float | None
    """Fraction of that fold's clips that it classifies correctly."""
    trained_on: TrainedOn | None
    """All training data; None: unknown, and every test of the classifier is refused."""


def write_classifier(
    path: Path,
    tensors: Mapping[str, Tensor],
    form: str,
    architecture: Mapping[str, Any],
    num_outputs: int,
    extra: Mapping[str, Any] | None = None,
    **info: Unpack[SavedInfo],
) -> None:
    """Write the weights, quantized to int8, with everything else in the header.

    Args:
        path: file to write.
        tensors: weights by name.
        form: format of this kind of classifier.
        architecture: settings of the network.
        num_outputs: outputs of the network.
        extra: further plain values of this kind.
        info: as in `SavedInfo`.

    Raises:
        SoundStormError: the numbers of categories and outputs differ.
    """
    categories, trained_on = list(info["categories"]), info.get("trained_on")
    if len(categories) != num_outputs:
        raise SoundStormError(f"{path}: {len(categories)} categories, but the classifier has {num_outputs} outputs")
    about = {
        "architecture": architecture,
        "categories": categories,
        "dataset": info["dataset"],
        "held_out_fold": info.get("held_out_fold"),
        "accuracy": info.get("accuracy"),
    } | dict(extra or {})
    metadata = {"format": form, "about": json.dumps(about, ensure_ascii=False)}
    if trained_on is not None:
        metadata[KEY] = trained_on.to_json()
    kept = {name: tensor for name, tensor in tensors.items() if not name.endswith("num_batches_tracked")}
    path.write_bytes(with_sorted_notes(save_safetensors(quantize(kept), metadata=metadata)))


def read_format(data: bytes) -> str | None:
    """Format in the header of a safetensors file; None if there is no such header."""
    try:
        return read_metadata(data).get("format")
    except ValueError:
        return None


def read_classifier_metadata(data: bytes, form: str) -> dict[str, Any]:
    """The values that `write_classifier` stored, those of `SavedInfo` checked.

    Raises:
        ValueError, LookupError or TypeError: they are not valid.
    """
    header = read_metadata(data)
    if header["format"] != form:
        raise ValueError(f"its format is '{header['format']}', expected '{form}'")
    about: dict[str, Any] = json.loads(header["about"])
    categories = about["categories"]
    if not isinstance(categories, list) or not categories or not all(isinstance(name, str) for name in categories):
        raise ValueError("its categories are not a list of names")
    numbers = {"held_out_fold": int, "accuracy": float}
    if not isinstance(about["dataset"], str) or not all(
        about[name] is None or type(about[name]) is kind for name, kind in numbers.items()
    ):
        raise ValueError("its dataset is not a name, or its held_out_fold or accuracy not a number")
    return about


def info_fields(data: bytes, about: Mapping[str, Any], **parents: str | None) -> dict[str, Any]:
    """Values of the fields of `ClassifierInfo`.

    Args:
        data: content of the file.
        about: from `read_classifier_metadata`.
        parents: SHA-256 of the weights that it was trained with, as in `soundstorm.serialization.provenance.agreeing`.
    """
    known = {name: about[name] for name in ("categories", "dataset", "held_out_fold", "accuracy")}
    provenance = agreeing(
        provenance_of_weights(data), dataset=about["dataset"], held_out_fold=about["held_out_fold"], **parents
    )
    return known | {"sha256": hashlib.sha256(data).hexdigest(), "provenance": provenance}


def require_samples(clips: Sequence[Any]) -> None:
    """Raise SoundStormError for a clip without samples."""
    for position, clip in enumerate(clips):
        if not len(clip):
            raise SoundStormError(f"clip {position} has no samples: leave it out")
