"""Which clips have features, which fold is held out, and which classifier names the clips."""

from pathlib import Path
from typing import Any

import pytest

from jobs.evaluation import selection as features
from jobs.evaluation.selection import ComparisonSets, measurement_requests, recording_of, select_comparison_sets
from jobs.inputs.clips import Clip
from soundstorm.classification.cnn import AudioClassifier, AudioClassifierConfig, save_classifier
from soundstorm.errors import SoundStormError
from soundstorm.schemas import Role, Source
from soundstorm.serialization.provenance import TrainedOn
from soundstorm.serialization.recordings import NUM_FOLDS, recordings_of

FOLDS = 5


def clip(category: str, number: int, fold: int, dataset: str = "esc50") -> Clip:
    return Clip(f"{fold}-{number}-A-0", f"/data/{category}/{number}", category, fold, dataset=dataset)


DATASET = [
    clip(category, number, 1 + number % FOLDS) for category in ("dog", "rain", "sea_waves") for number in range(10)
]
GENERATED = [
    Clip(f"{category}-{number}", f"/samples/{category}/{number}", category, 0)
    for category in ("Dog", "rain")
    for number in range(4)
]


def scope(real: list[Clip], dataset: list[Clip] | None = None, **changes: Any) -> ComparisonSets:
    settings: dict[str, Any] = {
        "real_audio": "/data",
        "classifier": None,
        "held_out_fold": None,
        "fold": None,
        "seed": 0,
    }
    return select_comparison_sets(DATASET if dataset is None else dataset, real, GENERATED, **(settings | changes))


def classifier(folder: Path, **about: Any) -> str:
    path, known = folder / "classifier.safetensors", {"dataset": "esc10", "held_out_fold": 5} | about
    folds = {str(fold): fold for fold in range(1, 1 + (NUM_FOLDS[known["dataset"]] or FOLDS))}
    trained = [clip_id for clip_id, fold in folds.items() if fold != known["held_out_fold"]]
    known = {"trained_on": TrainedOn(recordings=(recordings_of(known["dataset"], folds, trained),))} | known
    model = AudioClassifier(2, AudioClassifierConfig(widths=(4, 8), embedding=8))
    save_classifier(path, model, categories=["dog", "rain"], **known)
    return str(path)


def test_the_other_clips_of_the_generated_classes_are_the_reference() -> None:
    real = [clip for clip in DATASET if clip.fold == 5]
    roles = scope(real, fold=5).roles
    assert roles[Role.REAL] == [clip for clip in real if clip.category != "sea_waves"]
    assert roles[Role.GENERATED] == GENERATED
    assert roles[Role.REFERENCE] == [clip for clip in DATASET if clip.fold != 5 and clip.category != "sea_waves"]


@pytest.mark.parametrize(
    ("changes", "fold"), [({}, 5), ({"fold": 2}, 2), ({"held_out_fold": 3}, 3), ({"fold": 2, "held_out_fold": 3}, 3)]
)
def test_the_held_out_fold_is_the_given_one_else_that_of_the_real_clips_else_the_last(
    changes: dict[str, int], fold: int
) -> None:
    assert scope(DATASET[:5], **changes).held_out_fold == fold


@pytest.mark.parametrize("fold", [0, 4])
def test_clips_of_one_fold_have_no_reference_and_no_held_out_fold(fold: int) -> None:
    dataset = [clip("dog", number, fold) for number in range(6)]
    found = scope(dataset[:3], dataset)
    assert (found.held_out_fold, found.roles[Role.REFERENCE]) == (None, [])
    assert found.no_fold == "/data is not a dataset with folds, so it is unknown what a model was trained on"
    with pytest.raises(SoundStormError, match=rf"--held-out-fold is 4: /data has fold {fold}$"):
        scope(dataset[:3], dataset, held_out_fold=4)


def test_a_fold_that_does_not_exist_is_refused_with_those_that_do() -> None:
    with pytest.raises(SoundStormError, match=r"--held-out-fold is 7: /data has folds 1, 2, 3, 4, 5$"):
        scope(DATASET, held_out_fold=7)


def test_of_a_large_dataset_some_clips_of_each_class_are_drawn_and_the_reader_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(features, "CLIPS_PER_CLASS", 3)
    real = [clip for clip in DATASET if clip.fold == 5]
    found = scope(real, seed=4)
    assert {role: len(clips) for role, clips in found.roles.items()} == {
        Role.REAL: 4,
        Role.GENERATED: 6,
        Role.REFERENCE: 6,
    }
    assert found.roles == scope(real, seed=4).roles != scope(real, seed=5).roles
    assert [warning.split(" clips, ")[0] for warning in found.warnings] == [
        "Only real or only generated clips are there of sea_waves: the six metrics compare all",
        "Closeness rests on 6 of 8 generated",
        "Closeness rests on 6 of 16 other real",
    ]
    assert "3 a class, sampled with --seed 4" in found.warnings[1] and "are not detected" in found.warnings[2]
    assert found.settings != scope(real, seed=5).settings


@pytest.mark.parametrize(
    ("about", "dataset", "told"),
    [
        ({"held_out_fold": 5}, "esc50", False),
        ({"held_out_fold": 1}, "esc50", True),
        ({"held_out_fold": None}, "esc10", True),
        ({"held_out_fold": 1, "dataset": "urbansound8k"}, "esc50", False),
        ({"held_out_fold": 5, "trained_on": None}, "esc50", True),
    ],
)
def test_a_classifier_that_knows_the_held_out_fold_is_told_of(
    about: dict[str, Any], dataset: str, told: bool, tmp_path: Path
) -> None:
    clips = [clip("dog", number, 1 + number % FOLDS, dataset) for number in range(10)]
    found = scope(clips, clips, classifier=classifier(tmp_path, **about))
    assert any("was trained on the held-out fold 5 too" in warning for warning in found.warnings) == told


def test_without_a_classifier_in_the_package_the_reason_says_how_to_get_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "PACKAGED_WEIGHTS", "absent.safetensors")
    found = scope(DATASET)
    assert (found.weights, found.classifier, found.settings["classifier_sha256"]) == (None, None, None)
    assert "--classifier" in found.no_classifier and "train-classifier" in found.no_classifier


def test_a_classifier_that_is_none_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    path.write_bytes(b"x" * 100)
    with pytest.raises(SoundStormError, match=rf"--classifier {path}: .*not a classifier"):
        scope(DATASET, classifier=str(path))


def test_what_the_codec_made_goes_through_it_no_second_time() -> None:
    real = [clip for clip in DATASET if clip.fold == 5]
    for made_by_codec in (True, False):
        items = measurement_requests(real, GENERATED, scope(real), made_by_codec=made_by_codec)
        through = {
            source: {item.through_codec for item in items if item.source == source}
            for source in (Source.REAL, Source.GENERATED, None)
        }
        assert through == {Source.REAL: {True}, Source.GENERATED: {not made_by_codec}, None: {True}}


def test_every_compared_clip_is_measured_and_only_the_scope_has_features() -> None:
    real = [clip for clip in DATASET if clip.fold == 5]
    items = measurement_requests(real, GENERATED, scope(real), made_by_codec=True)
    assert [item.clip for item in items if item.source is not None] == [*real, *GENERATED]
    assert [item.role for item in items if item.clip.category == "sea_waves"] == [None, None]
    assert all((item.partner is not None) == (item.source == Source.GENERATED) for item in items)
    alone = measurement_requests(real, GENERATED, None, made_by_codec=True)
    assert len(alone) == len(real) + len(GENERATED)
    assert {(item.role, item.partner) for item in alone} == {(None, None)}


def test_clips_of_one_recording_are_known_by_it() -> None:
    assert recording_of(clip("dog", 17, 1)) == "17"
    assert recording_of(Clip("a-b.wav", "/x", "dog", 0)) == "a-b.wav"
