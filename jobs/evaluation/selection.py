"""Selection of the clips whose features `evaluate` computes, and of the classifier: the basis of the closeness of
generated to real clips."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cluster import storage
from jobs.inputs.clips import Clip, draw_per_category, fingerprint_of_clips, pair_up
from jobs.inputs.provenance import read_contents
from soundstorm.audio.files import SAMPLE_RATE
from soundstorm.classification.cnn import PACKAGED_WEIGHTS, TrainedClassifier, load_classifier
from soundstorm.codec.codec import Codec
from soundstorm.data.categories import normalized
from soundstorm.data.datasets import source_of
from soundstorm.errors import SoundStormError
from soundstorm.evaluation.closeness_result import Embedding
from soundstorm.evaluation.embeddings import OnnxEmbedder
from soundstorm.schemas import Role, Source
from soundstorm.serialization.bundled import bundled_file
from soundstorm.serialization.leakage import Test, may_contain
from soundstorm.serialization.recordings import digest_of

CLIPS_PER_CLASS = 200
"""Maximum number of clips per class and role with features: bounds the cost of large datasets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasurementRequest:
    """One clip to measure, and what to compute."""

    clip: Clip
    source: Source | None = None
    """Its column in the metrics; None: no metrics."""
    role: Role | None = None
    """The set in which its features are compared; None: no features."""
    partner: Clip | None = None
    """The real clip of its pair."""
    through_codec: bool = False
    """Whether it is also measured through the codec."""


@dataclass(frozen=True, kw_only=True)
class Model:
    """An embedding model in ONNX format."""

    content: bytes
    sample_rate: int
    """Sample rate that it expects, in Hz."""
    name: str

    def open(self) -> OnnxEmbedder:
        """Load the model; raises SoundStormError if it is not an embedding model, or onnxruntime is not installed."""
        return OnnxEmbedder(self.content, self.sample_rate, self.name)


def choose_model(uri: str | None, sample_rate: int | None) -> Model | None:
    """Open and check the embedding model at `uri`.

    Args:
        uri: the value of `--embedding-model`.
        sample_rate: the value of `--embedding-rate`; None: 24 kHz.

    Raises:
        SoundStormError: it is not an ONNX model from waveforms to embeddings, or onnxruntime is not installed.
        ClusterError: it cannot be read.
    """
    if uri is None:
        return None
    model = Model(
        content=storage.read_bytes(uri),
        sample_rate=sample_rate or SAMPLE_RATE,
        name=uri.rstrip("/").rpartition("/")[2].removesuffix(".onnx"),
    )
    model.open()
    return model


@dataclass(frozen=True, kw_only=True)
class ComparisonSets:
    """The sets of clips and the networks that closeness is computed with."""

    roles: dict[Role, list[Clip]]
    """The clips with features, by role."""
    held_out_fold: int | None
    no_fold: str
    """Why there is no held-out fold."""
    weights: bytes | None
    """Content of the classifier's file."""
    classifier: TrainedClassifier | None
    no_classifier: str
    """Why there is no classifier."""
    warnings: list[str]
    model: Model | None = None
    """Further embedding model, beside the codec and the classifier."""

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that features depend on, beside the compared clips, for the record."""
        return {
            "held_out_fold": self.held_out_fold,
            "classifier_sha256": self.classifier.sha256 if self.classifier else None,
            "reference_clips": fingerprint_of_clips(self.roles[Role.REFERENCE]),
            "clips_per_class_with_features": CLIPS_PER_CLASS,
            "embedding_model_sha256": hashlib.sha256(self.model.content).hexdigest() if self.model else None,
            "embedding_rate": self.model.sample_rate if self.model else None,
        }

    def embeddings(self, codec: Codec) -> dict[str, Embedding]:
        """The networks whose embeddings distances are computed in, by name."""
        known = codec.fingerprint
        found = {"codec": Embedding(name=f"codec {known.name}", sha256=known.sha256, sample_rate_hz=known.sample_rate)}
        if self.classifier is not None:
            name = f"a classifier of {self.classifier.dataset}"
            found["classifier"] = Embedding(name=name, sha256=self.classifier.sha256, sample_rate_hz=SAMPLE_RATE)
        if self.model is not None:
            sha256 = hashlib.sha256(self.model.content).hexdigest()
            found["model"] = Embedding(name=self.model.name, sha256=sha256, sample_rate_hz=self.model.sample_rate)
        return found


def select_comparison_sets(
    dataset: Sequence[Clip],
    real: Sequence[Clip],
    generated: Sequence[Clip],
    *,
    real_audio: str,
    classifier: str | None,
    held_out_fold: int | None,
    fold: int | None,
    seed: int,
) -> ComparisonSets:
    """Sample the clips with features, and open the classifier.

    Args:
        dataset: all clips at `real_audio`.
        real: those of them that are compared.
        generated: what they are compared with.
        real_audio: the value of `--real-audio`, for errors.
        classifier: the value of `--classifier`.
        held_out_fold: the value of `--held-out-fold`; None: `fold`, else the last.
        fold: the value of `--fold`.
        seed: random seed of the sample.

    Raises:
        SoundStormError: there is no such fold, or the classifier's file is damaged.
        ClusterError: the classifier's file cannot be read.
    """
    held_out, no_fold = _held_out_fold(dataset, real_audio, held_out_fold, fold)
    weights, trained, no_classifier = _choose_classifier(classifier)
    common = {normalized(clip.category) for clip in generated} & {normalized(clip.category) for clip in real}
    compared = {clip.uri for clip in real}
    pools: dict[Role, Sequence[Clip]] = {
        Role.REAL: real,
        Role.GENERATED: generated,
        Role.REFERENCE: [clip for clip in dataset if held_out is not None and clip.uri not in compared],
    }
    roles, warnings = {}, _one_sided(real, generated, common)
    for role, pool in pools.items():
        wanted = [clip for clip in pool if not common or normalized(clip.category) in common]
        roles[role] = draw_per_category(wanted, CLIPS_PER_CLASS, seed)
        if len(roles[role]) < len(wanted):
            name = "other real" if role == Role.REFERENCE else role.value
            missed = " Copies of clips outside this sample are not detected." if role == Role.REFERENCE else ""
            warnings.append(
                f"Closeness rests on {len(roles[role])} of {len(wanted)} {name} clips, {CLIPS_PER_CLASS} a class, "
                f"sampled with --seed {seed}.{missed}"
            )
    if trained is not None and held_out is not None and _may_know(trained, held_out, dataset):
        warnings.append(
            f"The classifier was trained on the held-out fold {held_out} too, or may have been "
            f"({trained.provenance}): it classifies those recordings better than new ones."
        )
    return ComparisonSets(
        roles=roles,
        held_out_fold=held_out,
        no_fold=no_fold,
        weights=weights,
        classifier=trained,
        no_classifier=no_classifier,
        warnings=warnings,
    )


def measurement_requests(
    real: Sequence[Clip], generated: Sequence[Clip], scope: ComparisonSets | None, made_by_codec: bool
) -> list[MeasurementRequest]:
    """The measurement requests: metrics of all clips and, with `scope`, pairs and features.

    Args:
        real: clips that are compared.
        generated: clips that they are compared with.
        scope: None for the metrics of single clips alone.
        made_by_codec: whether the generated clips were decoded by the codec that is used here.
    """
    partners: Sequence[Clip | None] = pair_up(generated, real) if scope else [None] * len(generated)
    roles = {(role, clip.uri): role for role, clips in scope.roles.items() for clip in clips} if scope else {}
    reals = [
        MeasurementRequest(clip=clip, source=Source.REAL, role=roles.get((Role.REAL, clip.uri)), through_codec=True)
        for clip in real
    ]
    others = [
        MeasurementRequest(clip=clip, role=Role.REFERENCE, through_codec=True)
        for clip in (scope.roles[Role.REFERENCE] if scope else [])
    ]
    rest = [
        MeasurementRequest(
            clip=clip,
            source=Source.GENERATED,
            role=roles.get((Role.GENERATED, clip.uri)),
            partner=partner,
            through_codec=not made_by_codec and (Role.GENERATED, clip.uri) in roles,
        )
        for clip, partner in zip(generated, partners, strict=True)
    ]
    return reals + rest + others


def _one_sided(real: Sequence[Clip], generated: Sequence[Clip], common: set[str]) -> list[str]:
    """A warning if real and generated clips do not have the same classes."""
    alone = ({normalized(clip.category) for clip in real} | {normalized(clip.category) for clip in generated}) - common
    if not common or not alone:
        return []
    some = ", ".join(sorted(alone)[:5]) + (" and others" if len(alone) > 5 else "")
    return [
        f"Only real or only generated clips are there of {some}: the six metrics compare all clips, closeness those "
        "of common classes."
    ]


def recording_of(clip: Clip) -> str:
    """The source recording of a clip, as far as it is known."""
    return source_of(clip.clip_id, clip.dataset) if clip.dataset else clip.clip_id


def _held_out_fold(
    dataset: Sequence[Clip], real_audio: str, requested: int | None, fold: int | None
) -> tuple[int | None, str]:
    """The held-out fold, or None and why there is none."""
    folds = sorted(Counter(clip.fold for clip in dataset))
    if requested is not None and (len(folds) < 2 or requested not in folds):
        raise SoundStormError(
            f"--held-out-fold is {requested}: {real_audio} has {'fold' if len(folds) == 1 else 'folds'} "
            f"{', '.join(map(str, folds))}"
        )
    if len(folds) < 2:
        return None, f"{real_audio} is not a dataset with folds, so it is unknown what a model was trained on"
    return next(chosen for chosen in (requested, fold, folds[-1]) if chosen is not None), ""


def _choose_classifier(option: str | None) -> tuple[bytes | None, TrainedClassifier | None, str]:
    """Content of the classifier's file and the classifier, or why there is none."""
    if option is not None:
        weights = storage.read_bytes(option)
        return weights, load_classifier(weights, where=f"--classifier {option}"), ""
    try:
        weights = bundled_file(PACKAGED_WEIGHTS).read_bytes()
    except SoundStormError as error:
        return None, None, f"{error}, or give --classifier a file that `soundstorm train-classifier` wrote"
    return weights, load_classifier(weights), ""


def _may_know(classifier: TrainedClassifier, fold: int, dataset: Sequence[Clip]) -> bool:
    """Whether the classifier may have seen clips of the fold."""
    tests = [
        _test_of([clip for clip in dataset if clip.dataset == name], fold)
        for name in sorted({clip.dataset for clip in dataset} - {""})
    ]
    return any(may_contain(classifier.provenance, test) for test in tests)


def _test_of(clips: Sequence[Clip], fold: int) -> Test:
    """The test on a fold of the dataset of which these are all clips."""
    return Test(
        dataset=clips[0].dataset,
        fold=fold,
        digest=lambda: digest_of({clip.clip_id: clip.fold for clip in clips}),
        contents=lambda: read_contents([clip.uri for clip in clips if clip.fold == fold]),
    )
