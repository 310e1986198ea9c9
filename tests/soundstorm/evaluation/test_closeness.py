"""Closeness of generated to real clips, on tables whose answers are known."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from soundstorm.audio.synthesis import synthesize
from soundstorm.errors import SoundStormError
from soundstorm.evaluation.clip_sets import ClipSet
from soundstorm.evaluation.closeness import TEMPORAL_METRICS, closeness
from soundstorm.evaluation.closeness_result import Closeness, Embedding, Measure
from soundstorm.evaluation.metric_info import MEASURES
from soundstorm.evaluation.split_distances import Splits
from soundstorm.evaluation.temporal import modulation_energy, spectral_flux
from soundstorm.evaluation.transients import transients
from soundstorm.schemas import FEATURES, Role
from tests.soundstorm.conftest import CLASSES, FRAMES, HELD_OUT, WIDTH, Row, feature_row, feature_rows

ABOUT_CLASSIFIER = ("frechet_classifier", "kernel_classifier", "class_agreement", "diversity_classifier")


@pytest.fixture
def rows() -> list[Row]:
    """Generated clips of the same distributions as the real ones."""
    return feature_rows()


def of(rows: list[Row], *roles: Role) -> list[Row]:
    return [row for row in rows if row["role"] in roles]


def find(rows: list[Row], **changes: Any) -> Closeness:
    settings: dict[str, Any] = {"held_out_fold": HELD_OUT, "classifier_categories": CLASSES} | changes
    return closeness(pa.Table.from_pylist(rows, schema=FEATURES), **settings)


def measures(rows: list[Row], **changes: Any) -> dict[str, Measure]:
    return {measure.name: measure for measure in find(rows, **changes).measures}


def ratio(measure: Measure) -> float:
    assert measure.ratio is not None, measure.reason
    return measure.ratio


class Store:
    """Baselines in memory."""

    def __init__(self) -> None:
        self.splits: dict[str, list[dict[str, float]]] = {}

    def find(self, key: str) -> list[dict[str, float]] | None:
        return self.splits.get(key)

    def keep(self, key: str, splits: list[dict[str, float]]) -> None:
        assert key not in self.splits, "computed again"
        self.splits[key] = json.loads(json.dumps(splits))


# ---- what real clips say of themselves is computed once


def test_baselines_are_computed_once_for_the_same_real_clips_and_change_nothing(rows: list[Row]) -> None:
    store, plain = Store(), find(rows)
    assert find(rows, splits=Splits(store=store)).to_dict() == plain.to_dict()
    assert len(store.splits) == 4  # two distances in two embeddings
    assert find(rows, splits=Splits(store=store)).to_dict() == plain.to_dict()
    fewer = [row for number, row in enumerate(rows) if row["role"] != Role.GENERATED or number % 3]
    assert find(fewer, splits=Splits(store=store)).to_dict() == find(fewer).to_dict() != plain.to_dict()
    assert len(store.splits) == 4
    for splits in store.splits.values():
        for split in splits:
            split |= {name: 2 * split[name] for name in ("floor", "at_infinity", "plain") if name in split}
    doubled = measures(rows, splits=Splits(store=store))
    for measure in plain.measures:
        factor = 2 if measure.name.startswith(("frechet", "kernel")) else 1
        assert doubled[measure.name].floor == pytest.approx(factor * (measure.floor or 0))
        assert doubled[measure.name].generated == measure.generated


def test_other_real_clips_or_splits_have_baselines_of_their_own(rows: list[Row]) -> None:
    store = Store()
    find(rows, splits=Splits(store=store))
    for number, row in enumerate(rows):
        row["recording"] = f"{row['recording']} of {number % 2}"
    for others, seed in ((rows, 0), (rows, 7), ([row for row in rows if row["fold"] != 2], 0)):
        known = len(store.splits)
        found = find(others, splits=Splits(seed=seed, store=store))
        assert len(store.splits) == known + 4
        assert found.to_dict() == find(others, splits=Splits(seed=seed)).to_dict()


def test_baselines_of_real_clips_that_are_all_the_same_are_kept_too(rows: list[Row]) -> None:
    store = Store()
    for row in of(rows, Role.REAL):
        row["classifier_embedding"] = [1.0] * len(row["classifier_embedding"])
    for _ in range(2):
        assert find(rows, splits=Splits(store=store)).to_dict() == find(rows).to_dict()


# ---- what is as good as real, and what is not


def test_clips_of_the_same_distribution_are_as_close_as_real_ones(rows: list[Row]) -> None:
    found = measures(rows)
    assert list(found) == [measure.name for measure in MEASURES]
    assert found["class_agreement"].generated == found["class_agreement"].floor == 1
    for name in ("diversity_codec", "diversity_classifier", *TEMPORAL_METRICS):
        assert ratio(found[name]) == pytest.approx(1, abs=0.25) and found[name].met
    for name in ("frechet_codec", "frechet_classifier", "kernel_codec", "kernel_classifier"):
        assert ratio(found[name]) < 2 and found[name].met
        assert (found[name].floor or 0) > 0
    assert found["copying"].met
    assert find(rows).copies == []


def test_the_result_is_plain_json_without_nan(rows: list[Row]) -> None:
    found = find(rows)
    restored = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert [measure["name"] for measure in restored["measures"]] == [measure.name for measure in MEASURES]
    assert restored["counts"] == {"real": 60, "generated": 60, "training": 96, "held_out": 24}
    assert "shares" not in restored


@pytest.mark.parametrize("embedding", ["codec", "classifier"])
def test_clips_that_lie_elsewhere_are_far_in_that_embedding_alone(rows: list[Row], embedding: str) -> None:
    for clip in of(rows, Role.GENERATED):
        clip[f"{embedding}_embedding"] = (np.array(clip[f"{embedding}_embedding"]) + 2).tolist()
    found = measures(rows)
    other = "codec" if embedding == "classifier" else "classifier"
    for name in ("frechet", "kernel"):
        assert found[f"{name}_{embedding}"].met is False
        assert found[f"{name}_{other}"].met
    assert found[f"diversity_{embedding}"].met


def moved(rows: list[Row], embedding: str, shift: float) -> list[Row]:
    """The clips, the generated ones of them moved in an embedding."""
    name = f"{embedding}_embedding"
    return [
        clip | ({name: (np.array(clip[name]) + shift).tolist()} if clip["role"] == Role.GENERATED else {})
        for clip in rows
    ]


@pytest.mark.parametrize("embedding", ["codec", "classifier"])
def test_moving_all_clips_adds_the_square_of_the_way_to_the_frechet_distance(rows: list[Row], embedding: str) -> None:
    there, back, unmoved = (measures(moved(rows, embedding, shift))[f"frechet_{embedding}"] for shift in (2, -2, 0))
    assert all(measure.basis is not None and measure.basis.extrapolated is False for measure in (there, back, unmoved))
    values = [measure.generated or 0.0 for measure in (there, back, unmoved)]
    assert (values[0] + values[1]) / 2 - values[2] == pytest.approx(WIDTH * 2**2, rel=1e-6)
    assert there.floor == unmoved.floor


def test_a_set_beside_itself_has_no_distance_below_0_and_is_not_extrapolated(rows: list[Row]) -> None:
    real = of(rows, Role.REAL)
    copies = [clip | {"clip_id": f"copy of {clip['clip_id']}", "role": Role.GENERATED.value} for clip in real]
    found = find(real + copies, held_out_fold=None)
    for measure in found.measures:
        if measure.name.startswith("frechet"):
            assert measure.basis is not None and measure.basis.extrapolated is False
            assert "the extrapolation is below 0" in (measure.basis.note or "") or "standard error is too large" in (
                measure.basis.note or ""
            )
            assert 0 <= (measure.generated or 0) <= (measure.floor or 0)
    assert "which is rough with 60 generated and 60 real clips" in found.verdict


def test_every_distance_says_what_it_rests_on(rows: list[Row]) -> None:
    known = {"classifier": Embedding(name="a classifier of esc50", sha256="ab" * 32, sample_rate_hz=24_000)}
    found = measures(rows, embeddings=known, reference="data/esc50, all folds")
    for name in ("frechet_classifier", "kernel_classifier"):
        basis = found[name].basis
        assert basis is not None
        assert (basis.embedding, basis.embedding_sha256, basis.sample_rate_hz) == (
            "a classifier of esc50",
            "ab" * 32,
            24_000,
        )
        assert (basis.generated_rows, basis.real_rows, basis.splits, basis.reference) == (
            30,
            30,
            10,
            "data/esc50, all folds",
        )
        assert (basis.extrapolated is None) == (basis.note is None) == name.startswith("kernel")
    codec = found["frechet_codec"].basis
    assert codec is not None and (codec.embedding, codec.generated_rows, codec.real_rows) == ("codec", 60, 60)
    assert {name for name, measure in found.items() if measure.basis is None} == set(found) - {
        f"{kind}_{embedding}" for kind in ("frechet", "kernel") for embedding in ("codec", "classifier")
    }


def test_three_clips_a_side_have_defined_values_or_reasons_and_a_warning() -> None:
    few = [clip for clip in feature_rows() if clip["clip_id"].rpartition("-")[2] == "0"]
    found = find(few, held_out_fold=None)
    assert (found.counts["generated"], found.counts["real"]) == (3, 3)
    assert all((measure.ratio is None) == (measure.reason is not None) for measure in found.measures)
    json.dumps(found.to_dict(), allow_nan=False)
    assert "which is rough with 3 generated and 3 real clips" in found.verdict


def test_the_same_clip_again_and_again_has_no_diversity(rows: list[Row]) -> None:
    for clip in of(rows, Role.GENERATED):
        first = feature_row(Role.GENERATED, 0, clip["category"])
        clip["codec_embedding"], clip["classifier_embedding"] = first["codec_embedding"], first["classifier_embedding"]
    found = measures(rows)
    for name in ("diversity_codec", "diversity_classifier"):
        assert found[name].generated == pytest.approx(0, abs=1e-6) and found[name].met is False
    assert found["frechet_codec"].met is False


def test_static_sound_has_less_flux_and_modulation_than_real_sound(rows: list[Row]) -> None:
    time_s = np.arange(24_000) / 24_000
    for number, clip in enumerate(rows):
        sound = (
            synthesize("clock", number % 4, 1.0, 24_000)
            if clip["role"] != Role.GENERATED
            else 0.3 * np.sin(2 * np.pi * (400 + number) * time_s)
        )
        clip["flux"], clip["modulation"] = spectral_flux(sound, 24_000), modulation_energy(sound, 24_000)
        onsets = transients(sound, 24_000)
        clip["onset_rate"], clip["onset_rise"] = onsets.per_second, onsets.rise_db
    found = measures(rows)
    for name in TEMPORAL_METRICS:
        assert ratio(found[name]) < 0.2 and found[name].met is False


def test_classes_count_alike_whatever_their_number_of_clips(rows: list[Row]) -> None:
    kept = [
        clip
        for clip in rows
        if clip["role"] != Role.GENERATED or clip["category"] != "dog" or clip["clip_id"].endswith("-0")
    ]
    for clip in of(kept, Role.GENERATED):
        clip["flux"] = 10.0 if clip["category"] == "dog" else 1.0
        clip["predicted"] = "rain" if clip["category"] == "dog" else clip["category"]
    found = measures(kept)
    assert found["flux"].generated == pytest.approx((10 + 1 + 1) / 3)
    assert found["class_agreement"].generated == pytest.approx(2 / 3)


# ---- copies


def training_codes(rows: list[Row], category: str) -> list[int]:
    return next(
        clip["codes"] for clip in of(rows, Role.REFERENCE) if clip["category"] == category and clip["fold"] != HELD_OUT
    )


def test_copies_of_training_clips_are_found_and_named(rows: list[Row]) -> None:
    for clip in of(rows, Role.GENERATED):
        clip["codes"] = training_codes(rows, clip["category"])[10:] + clip["codes"][:10]  # as a copy that begins later
    found = find(rows)
    copying = next(measure for measure in found.measures if measure.name == "copying")
    assert copying.generated == pytest.approx((FRAMES - 10) / FRAMES, abs=0.05)
    assert copying.floor is not None and copying.floor < 0.1
    assert copying.met is False
    assert len(found.copies) == len(of(rows, Role.GENERATED))
    assert any("60 of 60 generated clips repeat a training clip" in warning for warning in found.warnings)


def test_a_single_copy_is_named_though_the_median_clip_is_none(rows: list[Row]) -> None:
    clip = of(rows, Role.GENERATED)[7]
    clip["codes"] = training_codes(rows, clip["category"])
    found = find(rows)
    assert [(copy.clip_id, copy.share) for copy in found.copies] == [(clip["clip_id"], 1.0)]
    assert any(clip["clip_id"] in warning for warning in found.warnings)
    assert next(measure.met for measure in found.measures if measure.name == "copying")


def test_likeness_to_a_held_out_clip_is_no_copy(rows: list[Row]) -> None:
    held_out = {clip["category"]: clip["codes"] for clip in of(rows, Role.REAL) if clip["fold"] == HELD_OUT}
    for clip in of(rows, Role.GENERATED):
        clip["codes"] = held_out[clip["category"]]
    assert find(rows).copies == []


def test_what_real_clips_have_in_common_by_nature_is_no_copy(rows: list[Row]) -> None:
    for clip in rows:
        if clip["category"] == "dog":
            clip["codes"] = [1] * 40 + clip["codes"][40:]  # the same silence after each bark
    found = find(rows)
    assert found.copies == []
    assert max(found.shares["held_out"]) >= 40 / FRAMES


# ---- what cannot be said


def drop_folds(rows: list[Row]) -> list[Row]:
    return [clip | {"fold": 0} for clip in of(rows, Role.GENERATED, Role.REAL)]


def test_without_folds_neither_copies_nor_the_accuracy_of_real_clips_are_said(rows: list[Row]) -> None:
    found = find(drop_folds(rows), held_out_fold=None, no_fold="a folder has no folds")
    by_name = {measure.name: measure for measure in found.measures}
    assert (by_name["copying"].generated, by_name["copying"].ratio, by_name["copying"].met) == (None, None, None)
    assert by_name["copying"].reason == by_name["class_agreement"].reason == "a folder has no folds"
    assert (by_name["class_agreement"].generated, by_name["class_agreement"].floor) == (1, None)
    assert by_name["frechet_codec"].ratio is not None
    assert (found.counts["training"], found.counts["held_out"], found.shares) == (0, 0, {})


def test_without_a_classifier_its_measures_are_left_out_with_the_reason(rows: list[Row]) -> None:
    without = [clip | {"classifier_embedding": None, "predicted": None, "probability": None} for clip in rows]
    found = find(without, classifier_categories=None, no_classifier="none in the package")
    for measure in found.measures:
        assert (measure.reason == "none in the package") == (measure.name in ABOUT_CLASSIFIER)
        assert (measure.generated is None) == (measure.name in ABOUT_CLASSIFIER)
    assert found.confusion is None


def test_a_classifier_of_other_classes_says_nothing_about_agreement(rows: list[Row]) -> None:
    for clip in rows:
        clip["predicted"] = "siren"
    found = find(rows, classifier_categories=["siren", "dog", "rain"])
    agreement = next(measure for measure in found.measures if measure.name == "class_agreement")
    assert (agreement.generated, agreement.floor, agreement.met) == (None, None, None)
    assert "'clock_tick'" in (agreement.reason or "") and "--classifier" in (agreement.reason or "")
    assert next(measure.ratio for measure in found.measures if measure.name == "frechet_classifier") is not None
    assert found.confusion is None


@pytest.mark.parametrize(
    ("keep", "names", "reason"),
    [
        (
            lambda clip: clip["role"] != Role.GENERATED or clip["clip_id"].endswith("-0"),
            ["diversity_codec"],
            "no class has two generated clips",
        ),
        (lambda clip: clip["role"] != Role.GENERATED or clip["clip_id"].endswith("-0"), ["frechet_classifier"], "rows"),
        (
            lambda clip: clip["role"] != Role.REAL or clip["clip_id"].endswith("-1"),
            ["diversity_codec"],
            "no class has two real clips",
        ),
        (
            lambda clip: clip["role"] == Role.GENERATED or clip["fold"] != HELD_OUT,
            ["copying", "class_agreement"],
            "held-out fold has no clip",
        ),
        (
            lambda clip: clip["role"] == Role.GENERATED or clip["fold"] == HELD_OUT,
            ["copying"],
            "other folds have no clip",
        ),
    ],
)
def test_too_few_clips_for_a_measure_are_a_reason_and_no_number(
    rows: list[Row], keep: Callable[[Row], bool], names: list[str], reason: str
) -> None:
    found = find([clip for clip in rows if keep(clip)])
    json.dumps(found.to_dict(), allow_nan=False)
    for measure in found.measures:
        if measure.name in names:
            assert measure.ratio is None and reason in (measure.reason or ""), measure


def test_a_single_recording_cannot_be_halved(rows: list[Row]) -> None:
    kept = [clip | {"recording": "the same"} for clip in rows if clip["category"] == "dog"]
    assert "cannot be split into halves" in (measures(kept)["frechet_codec"].reason or "")


def test_few_clips_are_said_to_be_rough(rows: list[Row]) -> None:
    assert any(
        "60 generated and 60 real clips; with fewer than 100 they are rough" in warning
        for warning in find(rows).warnings
    )


@pytest.mark.parametrize("role", [Role.REAL, Role.GENERATED])
def test_nothing_to_compare_is_an_error(rows: list[Row], role: Role) -> None:
    with pytest.raises(SoundStormError, match="at least one of each"):
        find([clip for clip in rows if clip["role"] != role])


# ---- classes


def test_only_clips_of_the_generated_classes_count(rows: list[Row]) -> None:
    dogs = [clip for clip in rows if clip["role"] != Role.GENERATED or clip["category"] == "dog"]
    found = find(dogs)
    assert found.counts == {"real": 20, "generated": 20, "training": 32, "held_out": 8}
    assert ratio(next(measure for measure in found.measures if measure.name == "frechet_codec")) < 2


def test_classes_are_the_same_however_they_are_spelt(rows: list[Row]) -> None:
    respelt = [
        clip | {"category": "Clock-Tick"}
        if clip["role"] == Role.GENERATED and clip["category"] == "clock tick"
        else clip
        for clip in rows
    ]
    assert find(respelt, classifier_categories=["CLOCK_TICK", "Dog", "rain"]) == find(rows)


def test_without_a_class_in_common_all_clips_are_compared_and_the_reader_is_told(rows: list[Row]) -> None:
    found = find([clip | {"category": "siren"} if clip["role"] == Role.GENERATED else clip for clip in rows])
    assert found.counts == {"real": 60, "generated": 60, "training": 96, "held_out": 24}
    by_name = {measure.name: measure for measure in found.measures}
    assert ratio(by_name["frechet_codec"]) < 2
    assert by_name["copying"].ratio is not None
    assert by_name["class_agreement"].reason == "the generated and the real clips have no class in common"
    assert any(
        warning.startswith("The generated and the real clips have no class in common") for warning in found.warnings
    )
    assert not any("in common" in warning for warning in find(rows).warnings)


def test_the_confusion_counts_names_by_class(rows: list[Row]) -> None:
    for clip in of(rows, Role.GENERATED)[:5]:
        clip["predicted"] = "siren"
    confusion = find(rows, classifier_categories=[*CLASSES, "siren", "wind"]).confusion
    assert confusion is not None
    assert (confusion.categories, confusion.predicted) == (
        ["clock_tick", "dog", "rain"],
        ["clock_tick", "dog", "rain", "siren"],
    )
    assert confusion.generated == [[15, 0, 0, 5], [0, 20, 0, 0], [0, 0, 20, 0]]
    assert confusion.held_out == [[8, 0, 0, 0], [0, 8, 0, 0], [0, 0, 8, 0]]


# ---- halves


def test_halves_are_disjoint_equal_in_each_class_and_keep_recordings_together(rows: list[Row]) -> None:
    real = [
        clip | {"recording": f"{clip['category']}-{number // 6}"} for number, clip in enumerate(of(rows, Role.REAL))
    ]
    clips = ClipSet.of_table(pa.Table.from_pylist(real, schema=FEATURES))
    first, second = clips.split_halves(0)
    assert sorted([*first, *second]) == list(range(len(real)))
    assert {real[i]["recording"] for i in first}.isdisjoint({real[i]["recording"] for i in second})
    for category in CLASSES:
        sizes = [sum(real[i]["category"] == category for i in half) for half in (first, second)]
        assert abs(sizes[0] - sizes[1]) <= 2  # a recording has two clips of a class
    np.testing.assert_array_equal(clips.split_halves(0)[0], first)
    assert not np.array_equal(clips.split_halves(1)[0], first)
