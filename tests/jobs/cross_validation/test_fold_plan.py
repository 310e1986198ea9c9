"""What each fold of a cross-validation starts from: nothing that has seen it, and the same as the others where that can
be."""

from dataclasses import replace
from typing import Any

import pytest

from cluster import storage
from jobs.cross_validate import steps_of
from jobs.cross_validation.fold_plan import (
    FoldInputs,
    PretrainedInputs,
    Settings,
    choose_inputs,
    describe,
    synthetic_inputs,
)
from jobs.cross_validation.options import Options
from soundstorm.errors import SoundStormError
from soundstorm.serialization.leakage import Test
from soundstorm.serialization.provenance import MISSING, Provenance, TrainedOn
from soundstorm.serialization.recordings import NUM_FOLDS, recordings_of


def esc10_without(fold: int) -> TrainedOn:
    clips = {f"{number}-1-A-0": number for number in range(1, 6)}
    return TrainedOn(
        recordings=(recordings_of("esc10", clips, [clip for clip, its_fold in clips.items() if its_fold != fold]),)
    )


ENCODEC = TrainedOn(outside=("encodec",))
PACKAGE = PretrainedInputs(
    codec="codec.weights",
    codec_name="block-24khz",
    codec_trained_on=esc10_without(5),
    tokens="out/tokens/000000000000",
    generator_trained_on=esc10_without(5),
)


def on_fold(asked: Settings, fold: int) -> Test:
    """The test on a fold, of which no file needs to be read."""

    def unread() -> Any:
        raise AssertionError("the names say it all")

    return Test(dataset=asked.dataset, fold=fold, digest=unread, contents=unread)


def settings(**changes: Any) -> Settings:
    asked = Options(dataset=changes.pop("dataset", "esc10"), data_dir="/data", **({"model": "soundstorm"} | changes))
    return asked.settings


def plans(asked: Settings, folds: range, *starts: PretrainedInputs) -> dict[int, FoldInputs]:
    """Where the codec of synthetic sounds can be had, as in every run."""
    return {
        fold: choose_inputs(asked, on_fold(asked, fold), [*starts, synthetic_inputs(asked, "out")]) for fold in folds
    }


@pytest.mark.parametrize("dataset", ["esc10", "esc50"])
def test_for_a_fold_that_all_have_seen_a_codec_of_synthetic_sounds_and_a_generator_are_trained(dataset: str) -> None:
    asked = settings(dataset=dataset)
    found = plans(asked, range(1, 6), PACKAGE)
    synthetic = synthetic_inputs(asked, "out")
    assert {fold: (plan.pretrained, plan.generator) for fold, plan in found.items()} == dict.fromkeys(
        range(1, 5), (synthetic, False)
    ) | {5: (PACKAGE, True)}
    assert not any(plan.leaks for plan in found.values())
    made = [
        storage.absolute(f"out/{name}")
        for name in ("codecs/block-synthetic/codec.safetensors", "tokens/block-synthetic")
    ]
    assert [synthetic.codec, synthetic.tokens] == made
    said = [describe(asked, found[fold]) for fold in (1, 5)]
    assert said[0] == {"codec": "block-synthetic (synthetic sounds)", "start": "a generator trained without fold 1"}
    assert said[1] == {
        "codec": "block-24khz (esc10 without fold 5)",
        "start": "the generator in the package (esc10 without fold 5)",
    }


def test_a_fold_that_every_codec_has_seen_is_refused_with_their_names() -> None:
    with pytest.raises(
        SoundStormError,
        match=r"fold 1 of esc10: every available codec .*'block-24khz' \(esc10 without fold 5\); give another --codec",
    ):
        choose_inputs(settings(), on_fold(settings(), 1), [PACKAGE])


def test_what_was_trained_on_other_recordings_does_for_every_fold() -> None:
    found = plans(settings(dataset="urbansound8k"), range(1, 11), PACKAGE)
    assert all(plan.pretrained == PACKAGE and plan.generator and not plan.leaks for plan in found.values())


def test_a_codec_from_outside_goes_with_a_generator_of_the_fold() -> None:
    outside = replace(PACKAGE, codec_name="encodec-24khz", codec_trained_on=ENCODEC, generator_trained_on=None)
    plan = choose_inputs(settings(), on_fold(settings(), 1), [outside])
    assert plan.pretrained == outside and not plan.generator
    assert describe(settings(), plan) == {
        "codec": "encodec-24khz (encodec)",
        "start": "a generator trained without fold 1",
    }


def test_the_first_codec_that_holds_the_fold_out_is_taken() -> None:
    given = replace(PACKAGE, codec="mine", codec_trained_on=esc10_without(2), generator_trained_on=None)
    found = plans(settings(), range(1, 6), given, PACKAGE)
    assert [found[fold].pretrained for fold in (1, 2, 5)] == [synthetic_inputs(settings(), "out"), given, PACKAGE]


def test_a_generator_that_has_seen_the_fold_is_not_used_although_its_codec_is() -> None:
    seen = replace(PACKAGE, codec_trained_on=ENCODEC)
    plan = choose_inputs(settings(), on_fold(settings(), 1), [seen])
    assert plan.pretrained == seen and not plan.generator


def test_a_leak_is_allowed_only_when_asked_for_and_named() -> None:
    plan = choose_inputs(settings(allow_leak=True), on_fold(settings(), 1), [PACKAGE])
    assert plan.pretrained == PACKAGE and plan.generator
    assert plan.leaks == (
        "fold 1: the codec 'block-24khz' was trained on esc10 without fold 5, and fold 1 of esc10 is the test",
        "fold 1: the generator in the package was trained on esc10 without fold 5, and fold 1 of esc10 is the test",
    )
    assert not choose_inputs(settings(allow_leak=True), on_fold(settings(), 5), [PACKAGE]).leaks


@pytest.mark.parametrize("unknown", [{"codec_trained_on": MISSING}, {"generator_trained_on": MISSING}])
def test_what_does_not_say_what_it_was_trained_on_is_not_used(unknown: dict[str, Provenance]) -> None:
    plan = plans(settings(), range(5, 6), replace(PACKAGE, **unknown))[5]
    assert plan.pretrained is not None and not plan.generator
    assert (plan.pretrained.codec_name == "block-24khz") is ("generator_trained_on" in unknown)


def test_the_codec_of_synthetic_sounds_does_for_every_fold_of_every_data_set() -> None:
    for dataset, num_folds in NUM_FOLDS.items():
        found = plans(settings(dataset=dataset), range(1, 1 + (num_folds or 5)))
        assert not any(plan.leaks for plan in found.values())


@pytest.mark.parametrize(
    ("changes", "mode", "start"),
    [
        ({"mode": "scratch"}, "scratch", "random weights"),
        ({"mode": "codec"}, "codec", "the codec's vectors"),
        ({"pretrain_epochs": 0}, "codec", "the codec's vectors"),
    ],
)
def test_from_random_weights_no_generator_is_used(changes: dict[str, Any], mode: str, start: str) -> None:
    asked = settings(**changes)
    assert asked.mode == mode
    plan = choose_inputs(asked, on_fold(asked, 5), [PACKAGE])
    assert plan.pretrained == PACKAGE and not plan.generator
    assert describe(asked, plan)["start"] == start
    assert "generator" not in steps_of(asked, plan, "out/fold-5")


def test_runs_may_have_codecs_tokens_teachers_and_generators_in_common() -> None:
    folders = []
    elsewhere: dict[str, Any] = {"stages_dir": "s3://lab/stages"}
    for asked in (
        settings(),
        settings(**elsewhere),
        settings(**elsewhere, epochs=3),
        settings(**elsewhere, pretrain_epochs=3),
    ):
        plan = choose_inputs(asked, on_fold(asked, 1), [synthetic_inputs(asked, "s3://lab/out")])
        assert plan.pretrained is not None
        stages = steps_of(asked, plan, "s3://lab/out/fold-1")
        assert list(stages) == ["teacher", "generator", "classifier"]
        trained, heard = stages["classifier"].args[0], stages["generator"].args[0]
        assert (
            (heard.codec, heard.tokens)
            == (trained.codec, trained.tokens)
            == (plan.pretrained.codec, plan.pretrained.tokens)
        )
        assert (trained.teacher, trained.checkpoint) == (stages["teacher"].args[0].output_dir, heard.output_dir)
        folders.append(
            [plan.pretrained.codec, plan.pretrained.tokens, trained.teacher, trained.checkpoint, trained.output_dir]
        )
    own, common, of_other_classifiers, of_other_generators = folders
    names = [
        "codecs/block-synthetic/codec.safetensors",
        "tokens/block-synthetic",
        "fold-1/teacher",
        "fold-1/generator",
        "fold-1/classifier",
    ]
    assert own == [f"s3://lab/out/{name}" for name in names]
    assert common[0] == f"s3://lab/stages/{names[0]}" and common[4] == own[4]
    assert all(
        folder.startswith(f"s3://lab/stages/{name}-") for folder, name in zip(common[1:4], names[1:4], strict=True)
    )
    assert of_other_classifiers == common
    assert [one == other for one, other in zip(of_other_generators, common, strict=True)] == [
        True,
        True,
        True,
        False,
        True,
    ]


def test_stages_in_common_are_those_of_the_same_recordings_seed_and_views() -> None:
    def stages(**changes: Any) -> list[str]:
        asked = replace(settings(stages_dir="s3://lab/stages", **changes), clips=changes.get("dataset", ""))
        plan = choose_inputs(asked, on_fold(asked, 1), [synthetic_inputs(asked, "s3://lab/out")])
        assert plan.pretrained is not None
        made = steps_of(asked, plan, "s3://lab/out/fold-1")
        return [
            plan.pretrained.codec,
            plan.pretrained.tokens,
            made["teacher"].args[0].output_dir,
            made["generator"].args[0].output_dir,
        ]

    def kept(**changes: Any) -> list[bool]:
        return [one == other for one, other in zip(stages(**changes), stages(), strict=True)]

    assert kept(mode="frozen") == [True] * 4
    assert kept(seed=7) == [False] * 4
    assert kept(num_workers=2) == [True, True, False, False]
    assert kept(views=3) == [True, False, True, False]
    assert kept(teacher_epochs=3) == [True, True, False, True]
    assert kept(dataset="esc50") == [True, False, False, False]


def test_only_a_generator_needs_views_of_the_tokens() -> None:
    views = [settings(mode=mode, views=3).token_views for mode in ("fine-tuned", "frozen", "codec", "scratch")]
    assert views == [3, 3, 0, 0]


@pytest.mark.parametrize("changes", [{"taught": False}, {"preset": "published"}])
def test_without_a_teacher_there_is_none(changes: dict[str, Any]) -> None:
    asked = settings(**changes)
    stages = steps_of(asked, choose_inputs(asked, on_fold(asked, 5), [PACKAGE]), "out/fold-5")
    assert list(stages) == ["classifier"] and stages["classifier"].args[0].teacher is None


def test_the_teacher_has_epochs_of_its_own() -> None:
    for asked, of_teacher in ((settings(), None), (settings(epochs=7, teacher_epochs=3), 3)):
        plan = choose_inputs(asked, on_fold(asked, 1), [synthetic_inputs(asked, "out")])
        stages = steps_of(asked, plan, "out/fold-1")
        assert stages["teacher"].args[0].epochs == of_teacher and stages["classifier"].args[0].epochs == asked.epochs


def test_the_seed_and_the_paths_reach_every_stage() -> None:
    asked = settings(seed=7, codec="mine", checkpoint="runs/train")
    assert (asked.codec, asked.checkpoint) == (
        storage.absolute("mine"),
        storage.absolute("runs/train"),
    )  # trials run in folders of their own
    start = synthetic_inputs(asked, "out")
    assert start.codec == storage.absolute("out/codecs/block-synthetic-7/codec.safetensors")
    assert {
        stage.args[0].seed
        for stage in steps_of(asked, choose_inputs(asked, on_fold(asked, 1), [start]), "out/fold-1").values()
    } == {7}
