"""Opening classifiers by URI, as output of `train-classifier` or as a file; actors get them as bytes."""

from collections.abc import Sequence

from cluster import storage
from jobs.inputs.codecs import choose_codec
from soundstorm.classification.classifier import Classifier, open_classifier
from soundstorm.classification.cnn import PACKAGED_WEIGHTS, load_classifier
from soundstorm.codec.codec import Codec
from soundstorm.codec.files import load_codec
from soundstorm.errors import SoundStormError
from soundstorm.generation.reranking import PACKAGED_RERANKER, require_known_classes
from soundstorm.schemas import CodecFingerprint
from soundstorm.serialization.bundled import bundled_file

CLASSIFIER_FILE = "classifier.safetensors"
CODEC_FILE = "codec.safetensors"
"""Beside a token classifier whose codec is neither the one in the package nor the official one."""


def classifier_files(uri: str | None, option: str = "--checkpoint") -> dict[str, bytes]:
    """CLASSIFIER_FILE and, if there is one beside it, CODEC_FILE.

    Args:
        uri: the classifier's file, or the output folder of `train-classifier`; None = the convolutional network in the
            package.
        option: that it was given by, for errors.

    Raises:
        SoundStormError: there is no classifier.
    """
    if uri is None:
        return {CLASSIFIER_FILE: bundled_file(PACKAGED_WEIGHTS).read_bytes()}
    place = classifier_place(uri, option)
    files, codec = {CLASSIFIER_FILE: storage.read_bytes(place)}, _codec_beside(place)
    return files | ({CODEC_FILE: storage.read_bytes(codec)} if storage.exists(codec) else {})


def classifier_place(uri: str | None, option: str = "--checkpoint") -> str:
    """The classifier's file: `uri`, or CLASSIFIER_FILE in the folder `uri`; None: in the package.

    Raises:
        SoundStormError: there is no classifier.
    """
    if uri is None:
        return str(bundled_file(PACKAGED_WEIGHTS))
    in_folder = storage.join(uri, CLASSIFIER_FILE)
    if storage.exists(in_folder):
        return in_folder
    if uri.endswith(".safetensors") and storage.exists(uri):
        return uri
    raise SoundStormError(
        f"{option} {uri}: no classifier there; give the --output-dir of `soundstorm train-classifier`, or its "
        f"{CLASSIFIER_FILE}"
    )


def _codec_beside(place: str) -> str:
    return storage.join(place.rpartition("/")[0] or ".", CODEC_FILE)


def open_classifier_files(
    files: dict[str, bytes], device: str = "cpu", codec_option: str | None = None, where: str = CLASSIFIER_FILE
) -> Classifier:
    """The classifier whose files are `files`, as `classifier_files` returned them.

    Args:
        files: by name.
        device: where to run.
        codec_option: the value of `--codec`; None = the codec among the files, or else the one in the package or the
            official one.
        where: the classifier's file, for errors.

    Raises:
        SoundStormError: the classifier or its codec is damaged, or there is no codec that fits.
        ClusterError: what `--codec` names cannot be read.
    """

    def find(fingerprint: CodecFingerprint) -> Codec:
        if codec_option is None and CODEC_FILE in files:
            try:
                return load_codec(files[CODEC_FILE], device)
            except SoundStormError as error:
                raise SoundStormError(f"{_codec_beside(where)}: {error}") from error
        weights, codec = choose_codec(codec_option, fingerprint, where)
        return codec if device == "cpu" else load_codec(weights, device)

    return open_classifier(files[CLASSIFIER_FILE], where, codec=find, device=device)


def open_reranker(listener: str | None, categories: Sequence[str]) -> bytes:
    """Content of the file of the reranker: a path or URI, or None for the one in the package.

    Raises:
        SoundStormError: it does not have all of `categories`.
    """
    data = bundled_file(PACKAGED_RERANKER).read_bytes() if listener is None else storage.read_bytes(listener)
    where = "the classifier in the package" if listener is None else f"--listener {listener}"
    require_known_classes(load_classifier(data, where=where), categories, where)
    return data
