"""The file of a classifier: packed weights, and a header that says which kind it is and what is known of its training.

Every kind has a format of its own; what all of them say of themselves is read here, and nothing is ever unpickled.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import save as save_safetensors
from torch import Tensor

from soundstorm.errors import SoundStormError
from soundstorm.serialization.int8 import pack
from soundstorm.serialization.provenance import KEY, Provenance, TrainedOn, agreeing, provenance_of_weights
from soundstorm.serialization.safetensors_header import read_metadata, with_sorted_notes


def classifier_metadata(
    categories: Sequence[str], dataset: str, held_out_fold: int | None, accuracy: float | None
) -> dict[str, Any]:
    """What every kind says of itself.

    Args:
        categories: name of each output.
        dataset: what it was trained on.
        held_out_fold: fold that was not trained on.
        accuracy: share of that fold's clips that it names rightly.
    """
    return {"categories": list(categories), "dataset": dataset, "held_out_fold": held_out_fold, "accuracy": accuracy}


def write_classifier(
    path: Path,
    tensors: dict[str, Tensor],
    form: str,
    about: Mapping[str, Any],
    num_outputs: int,
    trained_on: TrainedOn | None,
) -> None:
    """Write the weights, packed to 8 bits, with `about` and `trained_on` in the header.

    Args:
        path: file to write.
        tensors: by name.
        form: the kind's format.
        about: plain values; those of `classifier_metadata` are among them.
        num_outputs: of the network.
        trained_on: what it learned from; None: not known, and every test of it is refused.

    Raises:
        SoundStormError: there are more or fewer categories than outputs.
    """
    if len(about["categories"]) != num_outputs:
        raise SoundStormError(
            f"{path}: {len(about['categories'])} categories, but the classifier has {num_outputs} outputs"
        )
    metadata = {"format": form, "about": json.dumps(about, ensure_ascii=False)} | (
        {KEY: trained_on.to_json()} if trained_on else {}
    )
    path.write_bytes(with_sorted_notes(save_safetensors(pack(tensors), metadata=metadata)))


def read_format(data: bytes) -> str | None:
    """What the header of a safetensors file says its format is; None where there is no such header."""
    try:
        return read_metadata(data).get("format")
    except ValueError:
        return None


def read_classifier_metadata(data: bytes, form: str) -> dict[str, Any]:
    """What was written beside the weights, with the values of `classifier_metadata` checked.

    Raises:
        ValueError, LookupError or TypeError: it is anything else.
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
        raise ValueError("its dataset, held_out_fold or accuracy is no name or number")
    return about


def read_provenance(data: bytes, about: Mapping[str, Any], **parents: str | None) -> Provenance:
    """What the classifier was trained on; arguments as `soundstorm.serialization.provenance.agreeing`, with what
    `read_classifier_metadata` found."""
    return agreeing(
        provenance_of_weights(data), dataset=about["dataset"], held_out_fold=about["held_out_fold"], **parents
    )
