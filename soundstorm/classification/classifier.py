"""The common interface of all kinds of classifiers; the header of a file says which kind it contains."""

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from soundstorm.classification import ast_classifier
from soundstorm.classification import cnn as audio_classifier
from soundstorm.classification import token_classifier as token_classifier_file
from soundstorm.classification.ast_classifier import load_ast_classifier
from soundstorm.classification.cnn import load_classifier
from soundstorm.classification.files import REMEDY, read_format
from soundstorm.classification.token_classifier import load_token_classifier
from soundstorm.codec.codec import Codec
from soundstorm.codec.files import load_codec
from soundstorm.errors import SoundStormError
from soundstorm.schemas import CodecFingerprint
from soundstorm.serialization.provenance import Provenance


class Classifier(Protocol):
    """Predicts the class of recordings."""

    @property
    def kind(self) -> str:
        """cnn, soundstorm or ast."""

    @property
    def categories(self) -> list[str]:
        """Name of each column of `predict`."""

    @property
    def dataset(self) -> str:
        """Dataset that it was trained on."""

    @property
    def held_out_fold(self) -> int | None:
        """Fold of the dataset that it was not trained on."""

    @property
    def accuracy(self) -> float | None:
        """Fraction of that fold's clips that it classifies correctly."""

    @property
    def provenance(self) -> Provenance:
        """What it was trained on, according to its file."""

    @property
    def sha256(self) -> str:
        """SHA-256 of its file."""

    def predict(self, clips: Sequence[np.ndarray]) -> np.ndarray:
        """Probability of each category, float32 (clips, C), for clips int16 (N,) at 24 kHz of any lengths; a clip's row
        depends on that clip alone."""


def open_classifier(
    data: bytes, where: str, *, codec: Callable[[CodecFingerprint], Codec] | None = None, device: str = "cpu"
) -> Classifier:
    """A classifier of any kind from the content of its file.

    Args:
        data: the content.
        where: name of the file in errors.
        codec: returns the codec with a given fingerprint; called only by classifiers on codes. None: use the codec in
            the package.
        device: device to run on.

    Raises:
        SoundStormError: the file is damaged or of an unknown kind, or the codec is not the one that the classifier
            needs.
    """
    form = read_format(data)
    if form == token_classifier_file.FORMAT:
        return load_token_classifier(data, where, device, find_codec=codec or (lambda _: load_codec(device=device)))
    if form == ast_classifier.FORMAT:
        return load_ast_classifier(data, where, device)
    if form == audio_classifier.FORMAT:
        return load_classifier(data, device, where=where)
    what = "it has no header of a classifier" if form is None else f"its format is '{form}'"
    raise SoundStormError(f"{where}: not a classifier ({what}): {REMEDY}")
