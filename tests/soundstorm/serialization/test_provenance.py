"""What files say that weights were trained on, and which tests are honest by it: nothing that is missing, malformed or
contradicts itself lets a test through, and no honest test is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

from soundstorm.classification.ast_classifier import load_ast_classifier, save_ast_classifier
from soundstorm.classification.ast_network import AstClassifier, AstConfig
from soundstorm.classification.cnn import AudioClassifier, AudioClassifierConfig, load_classifier, save_classifier
from soundstorm.classification.token_classifier import Origin, load_token_classifier, save_token_classifier
from soundstorm.classification.token_network import ReadoutConfig, TokenClassifier
from soundstorm.codec.files import load_codec, packaged_codec_bytes, provenance_of_codec
from soundstorm.data.datasets import DATASETS
from soundstorm.model.checkpoints import (
    CONFIG_FILE,
    CheckpointInfo,
    load_checkpoint,
    pack_checkpoint,
    packaged_checkpoint_files,
    parse_checkpoint,
    save_checkpoint,
)
from soundstorm.model.code_vectors import latent_dim
from soundstorm.model.config import ModelConfig
from soundstorm.model.presets import preset
from soundstorm.model.soundstorm import SoundStorm
from soundstorm.serialization.bundled import bundled_file
from soundstorm.serialization.leakage import Learned, Test, judge
from soundstorm.serialization.provenance import (
    MISSING,
    Provenance,
    Role,
    TrainedOn,
    Unknown,
    agreeing,
    as_parent,
    parse_provenance,
    provenance_of_weights,
)
from soundstorm.serialization.recordings import MAX_CONTENTS, NUM_FOLDS, content_of, digest_of, recordings_of
from tests.conftest import shape_of, write_small_codec

CLIPS_PER_FOLD = 4
A, B, C = "a" * 64, "b" * 64, "c" * 64
"""SHA-256 of weights files."""


def clips_of(owner: str, num_folds: int) -> dict[str, int]:
    """Fold of each clip of a dataset that is `owner`'s own."""
    return {f"{owner}/{fold}-{number}": fold for fold in range(1, num_folds + 1) for number in range(CLIPS_PER_FOLD)}


def contents_of(clips: list[str]) -> dict[str, str]:
    """What each clip's file is known again by; a clip's name stands for its sound."""
    return {clip: content_of(clip.encode()) for clip in clips}


def seen(dataset: str, *folds: int, owner: str = "", is_listed: bool = True) -> dict[str, Any]:
    """These folds of a dataset, as a header has it."""
    clips = clips_of(owner or dataset, NUM_FOLDS[dataset] or 5)
    trained = [clip for clip, fold in clips.items() if fold in folds]
    return recordings_of(dataset, clips, trained, contents_of(trained) if is_listed else None).to_dict()


def header(
    *recordings: dict[str, Any], outside: tuple[str, ...] = (), parents: tuple[dict[str, Any], ...] = ()
) -> dict[str, Any]:
    return {"format": 1, "recordings": list(recordings), "outside": list(outside), "parents": list(parents)}


def of(role: str, trained_on: dict[str, Any] | None, sha256: str = A) -> dict[str, Any]:
    """A parent."""
    return {"role": role, "name": "one", "sha256": sha256, "trained_on": trained_on}


def fold_of(
    dataset: str, fold: int, owner: str = "", copied: tuple[str, ...] = (), clips: dict[str, int] | None = None
) -> Test:
    """The test on a fold, in which the files of the clips `copied` lie too."""
    clips = clips or clips_of(owner or dataset, NUM_FOLDS[dataset] or 5)
    there = [clip for clip, its_fold in clips.items() if its_fold == fold]
    contents = {content: clip for clip, content in contents_of([*there, *copied]).items()}
    return Test(dataset=dataset, fold=fold, digest=lambda: digest_of(clips), contents=lambda: contents)


def without(values: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name != key}


def changed(values: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """The header of one dataset with other values of that."""
    return header(values | changes)


ESC50, ESC10, US8K = seen("esc50", 1, 2, 3, 4), seen("esc10", 1, 2, 3, 4), seen("urbansound8k", *range(1, 10))
MINE = seen("folder", 1, 2, 4, 5, owner="mine")
ALL_SYNTHETIC = header(seen("synthetic", 1, 2, 3, 4, 5))
REDEALT = {clip: fold % 5 + 1 for clip, fold in clips_of("mine", 5).items()}
CODEC, ENCODEC = header(ESC10, outside=("synthetic sounds",)), header(outside=("encodec",))
NESTED: dict[str, Any] = header()
for _ in range(40):
    NESTED = header(parents=(of("generator", NESTED),))


def chain(first: dict[str, Any] | None) -> dict[str, Any]:
    """A classifier whose generator started from another generator, which was trained on `first`."""
    generator = header(seen("urbansound8k", 1, 2), parents=(of("generator", first, B), of("codec", ENCODEC, C)))
    return header(seen("esc50", 1, 2, 3, 5), parents=(of("generator", generator, A), of("codec", ENCODEC, C)))


HONEST, REFUSED = True, False
HEADERS: list[tuple[str, Any, dict[str, Any], Test, bool]] = [
    # ---- right, and of one dataset: header, what the file says beside it, the test, the verdict
    ("held out", header(ESC50), {}, fold_of("esc50", 5), HONEST),
    ("trained on fold 1", header(ESC50), {}, fold_of("esc50", 1), REFUSED),
    ("trained on fold 4", header(ESC50), {}, fold_of("esc50", 4), REFUSED),
    ("two folds held out, the first", header(seen("esc50", 1, 2, 3)), {}, fold_of("esc50", 4), HONEST),
    ("two folds held out, the other", header(seen("esc50", 1, 2, 3)), {}, fold_of("esc50", 5), HONEST),
    ("ESC-10 held the fold out of ESC-50 too", header(ESC10), {}, fold_of("esc50", 5), HONEST),
    ("ESC-10 is ESC-50", header(ESC10), {}, fold_of("esc50", 3), REFUSED),
    ("ESC-50 held the fold out of ESC-10 too", header(seen("esc50", 1, 3, 4, 5)), {}, fold_of("esc10", 2), HONEST),
    ("ESC-50 has ESC-10 in it", header(seen("esc50", 1, 3, 4, 5)), {}, fold_of("esc10", 5), REFUSED),
    ("the whole of ESC-50", header(seen("esc50", 1, 2, 3, 4, 5)), {}, fold_of("esc50", 5), REFUSED),
    ("the whole of ESC-10", header(seen("esc10", 1, 2, 3, 4, 5)), {}, fold_of("esc50", 5), REFUSED),
    ("UrbanSound8K held out", header(US8K), {}, fold_of("urbansound8k", 10), HONEST),
    ("UrbanSound8K trained on", header(US8K), {}, fold_of("urbansound8k", 9), REFUSED),
    ("UrbanSound8K is not ESC-50", header(US8K), {}, fold_of("esc50", 1), HONEST),
    ("ESC-50 is not UrbanSound8K", header(ESC50), {}, fold_of("urbansound8k", 1), HONEST),
    (
        "ESC-50 without a list of its clips",
        header(seen("esc50", 1, 2, 3, 4, is_listed=False)),
        {},
        fold_of("esc50", 5),
        HONEST,
    ),
    # ---- outside data, synthetic sounds, nothing
    ("synthetic before ESC-50", ALL_SYNTHETIC, {}, fold_of("esc50", 1), HONEST),
    ("synthetic before UrbanSound8K", ALL_SYNTHETIC, {}, fold_of("urbansound8k", 3), HONEST),
    ("synthetic before one's own recordings", ALL_SYNTHETIC, {}, fold_of("folder", 1), HONEST),
    ("synthetic before the same synthetic", ALL_SYNTHETIC, {}, fold_of("synthetic", 1), REFUSED),
    (
        "synthetic before synthetic of another seed",
        ALL_SYNTHETIC,
        {},
        fold_of("synthetic", 1, owner="other seed"),
        HONEST,
    ),
    ("sounds made for the training alone", header(outside=("synthetic sounds",)), {}, fold_of("synthetic", 1), HONEST),
    ("EnCodec", ENCODEC, {}, fold_of("esc50", 1), HONEST),
    ("AudioSet", header(outside=("audioset",)), {}, fold_of("esc10", 5), HONEST),
    ("random weights", header(), {}, fold_of("esc50", 1), HONEST),
    ("ESC-10 and synthetic sounds", CODEC, {}, fold_of("esc10", 5), HONEST),
    ("two datasets, one held out", header(ESC50, US8K), {}, fold_of("esc50", 5), HONEST),
    ("two datasets, the other trained on", header(ESC50, US8K), {}, fold_of("urbansound8k", 1), REFUSED),
    # ---- one's own recordings
    ("mine, held out", header(MINE), {}, fold_of("folder", 3, owner="mine"), HONEST),
    ("mine, trained on", header(MINE), {}, fold_of("folder", 2, owner="mine"), REFUSED),
    ("someone else's", header(MINE), {}, fold_of("folder", 2, owner="yours"), HONEST),
    (
        "someone else's, one copied",
        header(MINE),
        {},
        fold_of("folder", 3, owner="yours", copied=("mine/1-0",)),
        REFUSED,
    ),
    ("mine, folds dealt anew", header(MINE), {}, fold_of("folder", 3, clips=REDEALT), REFUSED),
    ("mine under new names", header(MINE), {}, fold_of("folder", 3, owner="mine", copied=("mine/5-3",)), REFUSED),
    ("mine without a list, held out", changed(MINE, contents=None), {}, fold_of("folder", 3, owner="mine"), HONEST),
    ("mine without a list, trained on", changed(MINE, contents=None), {}, fold_of("folder", 1, owner="mine"), REFUSED),
    (
        "without a list of clips, who knows",
        changed(MINE, contents=None),
        {},
        fold_of("folder", 3, owner="yours"),
        REFUSED,
    ),
    ("mine before ESC-50", header(MINE), {}, fold_of("esc50", 5), HONEST),
    ("mine has a copy of the ESC-50 clip", header(MINE), {}, fold_of("esc50", 5, copied=("mine/2-1",)), REFUSED),
    (
        "ESC-50 before copies of it",
        header(ESC50),
        {},
        fold_of("folder", 1, owner="mine", copied=("esc50/3-2",)),
        REFUSED,
    ),
    ("ESC-50 before mine", header(ESC50), {}, fold_of("folder", 1, owner="mine"), HONEST),
    # ---- through parents
    ("codec held out too", header(ESC50, parents=(of("codec", CODEC),)), {"codec": A}, fold_of("esc50", 5), HONEST),
    (
        "codec has seen it",
        header(seen("esc50", 1, 2, 3, 5), parents=(of("codec", CODEC),)),
        {"codec": A},
        fold_of("esc50", 4),
        REFUSED,
    ),
    (
        "teacher has seen it",
        header(ESC50, parents=(of("teacher", header(seen("esc10", 5))),)),
        {},
        fold_of("esc50", 5),
        REFUSED,
    ),
    (
        "AST from AudioSet",
        header(ESC50, parents=(of("start", header(outside=("audioset",))),)),
        {},
        fold_of("esc50", 5),
        HONEST,
    ),
    (
        "AST from one that has seen it",
        header(ESC50, parents=(of("start", header(seen("esc50", 5))),)),
        {},
        fold_of("esc50", 5),
        REFUSED,
    ),
    ("through two parents, held out", chain(header(seen("esc10", 1, 2, 3, 5))), {}, fold_of("esc50", 4), HONEST),
    ("through two parents, seen", chain(header(ESC10)), {}, fold_of("esc50", 4), REFUSED),
    ("through two parents, not known", chain(None), {}, fold_of("esc50", 4), REFUSED),
    ("a parent that is not known", header(ESC50, parents=(of("codec", None),)), {}, fold_of("esc50", 5), REFUSED),
    (
        "synthetic codec, held out by the rest",
        header(ESC50, parents=(of("codec", ALL_SYNTHETIC),)),
        {},
        fold_of("esc50", 5),
        HONEST,
    ),
    # ---- missing and old
    ("nothing said", None, {}, fold_of("esc50", 5), REFUSED),
    ("an old classifier", None, {"dataset": "esc10", "held_out_fold": 5}, fold_of("esc10", 5), REFUSED),
    ("null", "null", {}, fold_of("esc50", 5), REFUSED),
    ("empty", "", {}, fold_of("esc50", 5), REFUSED),
    ("prose", "trained on esc10 without fold 5", {}, fold_of("esc10", 5), REFUSED),
    ("old notes", {"dataset": "esc10", "test_fold": 5}, {}, fold_of("esc10", 5), REFUSED),
    (
        "old notes of a parent",
        header(ESC50, parents=(of("codec", {"dataset": "esc10", "held_out_fold": 5}),)),
        {},
        fold_of("esc50", 5),
        REFUSED,
    ),
    # ---- unreadable
    ("cut off", json.dumps(header(ESC50))[:-1], {}, fold_of("esc50", 5), REFUSED),
    ("nested without end", '{"parents":' * 100_000, {}, fold_of("esc50", 5), REFUSED),
    ("forty generations", NESTED, {}, fold_of("esc50", 5), REFUSED),
    ("a list", [header(ESC50)], {}, fold_of("esc50", 5), REFUSED),
    ("an unknown key", header(ESC50) | {"but_also": "esc50"}, {}, fold_of("esc50", 5), REFUSED),
    ("an unknown key of the clips", changed(ESC50, more=1), {}, fold_of("esc50", 5), REFUSED),
    ("no parents told", without(header(ESC50), "parents"), {}, fold_of("esc50", 5), REFUSED),
    ("no folds told", header(without(ESC50, "folds")), {}, fold_of("esc50", 5), REFUSED),
    ("another format", header(ESC50) | {"format": 2}, {}, fold_of("esc50", 5), REFUSED),
    ("a format that is no number", header(ESC50) | {"format": True}, {}, fold_of("esc50", 5), REFUSED),
    ("folds as text", changed(ESC50, folds="1, 2, 3, 4"), {}, fold_of("esc50", 5), REFUSED),
    ("a fold as text", changed(ESC50, folds=["1", "2"]), {}, fold_of("esc50", 5), REFUSED),
    ("true for a fold", changed(ESC50, folds=[True]), {}, fold_of("esc50", 5), REFUSED),
    ("half a fold", changed(ESC50, folds=[1.5]), {}, fold_of("esc50", 5), REFUSED),
    ("fold 0", changed(ESC50, folds=[0, 1]), {}, fold_of("esc50", 5), REFUSED),
    ("a fold that ESC-50 has not", changed(ESC50, folds=[1, 6]), {}, fold_of("esc50", 5), REFUSED),
    ("no fold at all", changed(ESC50, folds=[]), {}, fold_of("esc50", 5), REFUSED),
    ("no clip at all", changed(ESC50, num_clips=0), {}, fold_of("esc50", 5), REFUSED),
    ("more clips listed than there were", changed(ESC50, num_clips=1), {}, fold_of("esc50", 5), REFUSED),
    ("a dataset that nobody knows", changed(ESC50, dataset="esc51"), {}, fold_of("esc50", 5), REFUSED),
    ("a dataset in capitals", changed(ESC50, dataset="ESC50"), {}, fold_of("esc50", 5), REFUSED),
    ("a digest that is none", changed(ESC50, digest="1234"), {}, fold_of("esc50", 5), REFUSED),
    (
        "contents that are none",
        changed(MINE, contents="not hexadecimal"),
        {},
        fold_of("folder", 3, owner="mine"),
        REFUSED,
    ),
    ("no contents in the list", changed(MINE, contents=""), {}, fold_of("folder", 3, owner="mine"), REFUSED),
    ("outside data that nobody knows", header(outside=("the internet",)), {}, fold_of("esc50", 1), REFUSED),
    ("ESC-50 as outside data", header(outside=("esc50",)), {}, fold_of("esc50", 1), REFUSED),
    ("a role that nobody knows", header(ESC50, parents=(of("friend", ENCODEC),)), {}, fold_of("esc50", 5), REFUSED),
    (
        "a parent without a file",
        header(ESC50, parents=(of("codec", ENCODEC, "none"),)),
        {},
        fold_of("esc50", 5),
        REFUSED,
    ),
    # ---- contradicting
    (
        "another dataset beside it",
        header(ESC50),
        {"dataset": "esc10", "held_out_fold": 5},
        fold_of("esc10", 5),
        REFUSED,
    ),
    ("the fold beside it", header(ESC50), {"dataset": "esc50", "held_out_fold": 4}, fold_of("esc50", 5), REFUSED),
    ("the same beside it", header(ESC50), {"dataset": "esc50", "held_out_fold": 5}, fold_of("esc50", 5), HONEST),
    ("one dataset twice", header(ESC50, seen("esc50", 5)), {}, fold_of("esc50", 5), REFUSED),
    (
        "another codec beside it",
        header(ESC50, parents=(of("codec", ENCODEC, A),)),
        {"codec": B},
        fold_of("esc50", 5),
        REFUSED,
    ),
    ("a codec of which it says nothing", header(ESC50), {"codec": A}, fold_of("esc50", 5), REFUSED),
    (
        "a generator that the file denies",
        header(ESC50, parents=(of("generator", header()),)),
        {"generator": None},
        fold_of("esc50", 5),
        REFUSED,
    ),
    (
        "two codecs",
        header(ESC50, parents=(of("codec", ENCODEC, A), of("codec", header(), B))),
        {},
        fold_of("esc50", 5),
        REFUSED,
    ),
    (
        "two accounts of one codec",
        header(ESC50, parents=(of("codec", ENCODEC, A), of("teacher", header(parents=(of("codec", CODEC, A),)), B))),
        {},
        fold_of("esc50", 5),
        REFUSED,
    ),
    (
        "another codec than its generator's",
        header(
            ESC50,
            parents=(of("generator", header(ESC50, parents=(of("codec", CODEC, C),)), B), of("codec", ENCODEC, A)),
        ),
        {},
        fold_of("esc50", 5),
        REFUSED,
    ),
]


def weights_file(trained_on: Any, description: str = "trained on esc10 (whole)") -> bytes:
    """A safetensors file with this in its header, and with prose that says otherwise."""
    text = trained_on if isinstance(trained_on, str) else json.dumps(trained_on)
    return save(
        {"a": torch.zeros(1)}, {"description": description} | ({} if trained_on is None else {"trained_on": text})
    )


def read(trained_on: Any, beside: dict[str, Any]) -> Provenance:
    return agreeing(
        provenance_of_weights(weights_file(trained_on)), **({"dataset": None, "held_out_fold": None} | beside)
    )


@pytest.mark.parametrize(
    ("trained_on", "beside", "test", "is_honest"), [row[1:] for row in HEADERS], ids=[row[0] for row in HEADERS]
)
def test_every_leak_is_found_and_no_honest_test_is_refused(
    trained_on: Any, beside: dict[str, Any], test: Test, is_honest: bool
) -> None:
    verdict = judge([Learned(name="it", provenance=read(trained_on, beside))], test)
    assert (not verdict.leaks) is is_honest, verdict.leaks


def test_the_table_has_sixty_headers_and_more_and_each_of_them_once() -> None:
    assert len({row[0] for row in HEADERS}) == len(HEADERS) > 60
    assert sum(row[4] for row in HEADERS) > 25


# ---- what is said


@pytest.mark.parametrize(
    ("trained_on", "test", "sentences"),
    [
        (
            header(ESC50),
            fold_of("esc10", 2),
            ["it was trained on esc50 without fold 5, and fold 2 of esc10 is the test"],
        ),
        (None, fold_of("esc10", 2), ["what it was trained on is not known: its file does not say it"]),
        (
            header(ESC50, parents=(of("codec", header(seen("esc10", 1, 5))),)),
            fold_of("esc50", 5),
            ["the codec 'one' of it was trained on esc10, folds 1, 5, and fold 5 of esc50 is the test"],
        ),
        (
            header(MINE),
            fold_of("folder", 3, owner="yours", copied=("mine/1-0", "mine/2-0")),
            [
                "it was trained on folder without fold 3, and fold 3 of folder is the test (2 of its files are the "
                "same, such as mine/1-0)"
            ],
        ),
        (
            header(ESC50) | {"more": 1},
            fold_of("esc50", 5),
            ["what it was trained on is not known: its entry in the file cannot be read ('more' is unknown)"],
        ),
    ],
)
def test_a_refusal_says_which_clips_of_which_network(trained_on: Any, test: Test, sentences: list[str]) -> None:
    assert list(judge([Learned(name="it", provenance=read(trained_on, {}))], test).leaks) == sentences


def test_outside_data_and_freesound_are_allowed_and_said() -> None:
    for trained_on, said in (
        (ENCODEC, "outside data: the recordings of the official EnCodec"),
        (header(US8K), "freesound.org"),
    ):
        verdict = judge([Learned(name="it", provenance=read(trained_on, {}))], fold_of("esc50", 1))
        assert not verdict.leaks and len(verdict.notes) == 1 and said in verdict.notes[0]


def test_a_parent_whose_own_file_says_otherwise_is_a_contradiction() -> None:
    child = read(header(ESC50, parents=(of("codec", ENCODEC, A),)), {})
    for own, is_honest in ((ENCODEC, True), (CODEC, False), (None, False)):
        learned = [Learned(name="it", provenance=child), Learned(name="its codec", provenance=read(own, {}), sha256=A)]
        leaks = judge(learned, fold_of("esc50", 5)).leaks
        assert (not leaks) is is_honest
        assert (
            is_honest or "it and the file of its codec 'one' contradict each other on what that was trained on" in leaks
        )


def test_a_parent_at_hand_is_judged_once_by_its_own_file() -> None:
    child = read(header(seen("esc50", 1), parents=(of("codec", CODEC, A),)), {})
    learned = [Learned(name="it", provenance=child), Learned(name="its codec", provenance=read(CODEC, {}), sha256=A)]
    assert judge(learned, fold_of("esc50", 4)).leaks == (
        "its codec was trained on esc10 without fold 5, and fold 4 of esc50 is the test",
    )


def test_files_are_asked_for_only_where_the_names_do_not_decide() -> None:
    def unread() -> Any:
        raise AssertionError("no file needs to be read")

    for trained_on, dataset in (
        (ESC50, "esc10"),
        (US8K, "esc50"),
        (seen("synthetic", 1), "esc50"),
        (ESC50, "urbansound8k"),
    ):
        judge(
            [Learned(name="it", provenance=read(header(trained_on), {}))],
            Test(dataset=dataset, fold=5, digest=unread, contents=unread),
        )


# ---- values


def test_the_data_sets_and_their_folds_are_those_that_can_be_opened() -> None:
    assert {name: dataset.num_folds for name, dataset in DATASETS.items() if name != "folder"} == without(
        NUM_FOLDS, "folder"
    )
    assert NUM_FOLDS.keys() == DATASETS.keys()


def test_what_is_written_is_read_again_the_same() -> None:
    for row in HEADERS:
        found = parse_provenance(row[1]) if isinstance(row[1], dict) else MISSING
        if isinstance(found, TrainedOn):
            assert TrainedOn.from_dict(json.loads(found.to_json())) == found and found.to_dict() == row[1]


def test_a_recording_is_known_again_by_its_beginning_and_a_data_set_by_its_clips_in_any_order() -> None:
    assert content_of(b"abc") == "ba7816bf8f01"  # FIPS 180-2
    assert content_of(bytes(1 << 20) + b"one") == content_of(bytes(1 << 20) + b"two") != content_of(bytes(1 << 19))
    assert digest_of({"a": 1, "b": 2}) == digest_of({"b": 2, "a": 1}) != digest_of({"a": 2, "b": 1})


def test_clips_whose_files_are_not_all_known_or_too_many_are_not_listed() -> None:
    clips = {"a": 1, "b": 2, "c": 2}
    assert recordings_of("folder", clips, ["a", "b"], {"a": "0" * 12, "b": "1" * 12}).contents == {"0" * 12, "1" * 12}
    assert recordings_of("folder", clips, ["a", "b"], {"a": "0" * 12, "b": None}).contents is None
    many = {str(number): 1 for number in range(MAX_CONTENTS + 1)}
    found = recordings_of("folder", many, many, dict.fromkeys(many, "0" * 12))
    assert (found.contents, found.num_clips, found.folds) == (None, MAX_CONTENTS + 1, (1,))


# ---- the real files


LEARNED = TrainedOn(
    recordings=(
        recordings_of("folder", clips_of("mine", 5), ["mine/1-0", "mine/2-0"], contents_of(["mine/1-0", "mine/2-0"])),
    ),
    outside=("synthetic sounds",),
    parents=(
        as_parent(Role.START, "started from", B, TrainedOn(outside=("audioset",))),
        as_parent(Role.TEACHER, "taught by", C, MISSING),
    ),
)
ABOUT: dict[str, Any] = {"categories": ["a", "b"], "dataset": "folder", "held_out_fold": 3, "trained_on": LEARNED}


def with_parents(**files: str) -> TrainedOn:
    """LEARNED from a codec, and perhaps others, with these SHA-256."""
    parents = tuple(as_parent(Role(role), "one", sha256, TrainedOn()) for role, sha256 in files.items())
    return TrainedOn(recordings=LEARNED.recordings, parents=parents)


def of_codec(folder: Path) -> tuple[Provenance, TrainedOn]:
    write_small_codec(folder / "codec", "tiny", LEARNED, num_levels=1, codebook_size=4)
    assert load_codec((folder / "codec").read_bytes()).fingerprint.name == "tiny"
    return provenance_of_codec((folder / "codec").read_bytes()), LEARNED


def of_cnn(folder: Path) -> tuple[Provenance, TrainedOn]:
    save_classifier(folder / "cnn", AudioClassifier(2, AudioClassifierConfig(widths=(4, 8), embedding=8)), **ABOUT)
    return load_classifier(folder / "cnn").provenance, LEARNED


def of_ast(folder: Path) -> tuple[Provenance, TrainedOn]:
    config = AstConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, max_length=32, num_mel_bins=16
    )
    save_ast_classifier(folder / "ast", AstClassifier(2, config), **ABOUT)
    return load_ast_classifier((folder / "ast").read_bytes(), "it").provenance, LEARNED


def of_token_classifier(folder: Path) -> tuple[Provenance, TrainedOn]:
    codec = load_codec()
    network = ModelConfig(width=16, depth=1, heads=2, num_classes=2, **shape_of(codec.fingerprint))
    model = TokenClassifier(2, network, ReadoutConfig(latent_dim=latent_dim(codec)))
    learned = with_parents(codec=codec.fingerprint.sha256, generator=A, teacher=B)
    origin = Origin(codec=codec.fingerprint, mode="fine-tuned", generator_sha256=A, teacher_sha256=B)
    save_token_classifier(folder / "tokens", model, origin=origin, **(ABOUT | {"trained_on": learned}))
    return load_token_classifier((folder / "tokens").read_bytes(), "it", find_codec=lambda _: codec).provenance, learned


def checkpoint(folder: Path, trained_on: TrainedOn | None, **extra: Any) -> Path:
    config, codec = preset("tiny"), load_codec().fingerprint
    model = SoundStorm(ModelConfig(width=16, depth=1, heads=2, kernel=5, num_classes=2, **shape_of(codec)))
    info = CheckpointInfo(
        training=config.training,
        sampler=config.sampler,
        step=1,
        categories=["a", "b"],
        fingerprint=codec,
        extra=extra,
    )
    save_checkpoint(folder / "checkpoint", model, info, trained_on=trained_on)
    return folder / "checkpoint"


def of_checkpoint(folder: Path) -> tuple[Provenance, TrainedOn]:
    learned = with_parents(codec=load_codec().fingerprint.sha256, generator=A)
    return load_checkpoint(checkpoint(folder, learned, dataset="folder", test_fold=3)).provenance, learned


def of_packed_checkpoint(folder: Path) -> tuple[Provenance, TrainedOn]:
    learned = with_parents(codec=load_codec().fingerprint.sha256)
    pack_checkpoint(checkpoint(folder, learned), folder / "packed")
    return load_checkpoint(folder / "packed").provenance, learned


WRITERS = [of_codec, of_cnn, of_ast, of_token_classifier, of_checkpoint, of_packed_checkpoint]


@pytest.mark.parametrize("written", WRITERS, ids=[written.__name__ for written in WRITERS])
def test_every_kind_of_file_tells_what_it_was_written_with(
    written: Callable[[Path], tuple[Provenance, TrainedOn]], tmp_path: Path
) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        found, expected = written(tmp_path)
    assert found == expected


def test_a_file_that_was_written_without_is_not_known(tmp_path: Path) -> None:
    save_classifier(tmp_path / "cnn", AudioClassifier(2), categories=["a", "b"], dataset="esc10", held_out_fold=5)
    write_small_codec(tmp_path / "codec", "tiny", num_levels=1, codebook_size=4)
    assert (
        load_classifier(tmp_path / "cnn").provenance
        == provenance_of_codec((tmp_path / "codec").read_bytes())
        == MISSING
    )
    assert load_checkpoint(checkpoint(tmp_path, None, dataset="esc10", test_fold=5)).provenance == MISSING


@pytest.mark.parametrize(
    ("extra", "codec"),
    [({"dataset": "esc50", "test_fold": 3}, None), ({"dataset": "folder", "test_fold": 1}, None), ({}, A)],
    ids=["its notes name another dataset", "its notes name a fold that it was trained on", "it is of another codec"],
)
def test_a_checkpoint_that_contradicts_itself_still_generates_and_is_not_known(
    extra: dict[str, Any], codec: str | None, tmp_path: Path
) -> None:
    learned = with_parents(codec=codec or load_codec().fingerprint.sha256)
    found = load_checkpoint(checkpoint(tmp_path, learned, **extra))
    assert found.step == 1 and isinstance(found.provenance, Unknown) and "contradicts itself" in found.provenance.reason


@pytest.mark.parametrize("text", ['{"format": 1}', "[]", "5", '"esc50"', "{}"])
def test_a_checkpoint_whose_account_is_damaged_still_generates_and_is_not_known(text: str, tmp_path: Path) -> None:
    folder = checkpoint(tmp_path, None)
    config = json.loads((folder / CONFIG_FILE).read_text())
    (folder / CONFIG_FILE).write_text(json.dumps(config | {"trained_on": json.loads(text)}))
    found = load_checkpoint(folder)
    assert found.step == 1 and isinstance(found.provenance, Unknown) and "cannot be read" in found.provenance.reason


def test_the_files_in_the_package_have_not_seen_fold_5() -> None:
    generator = parse_checkpoint(packaged_checkpoint_files(), "package").provenance
    codec = provenance_of_codec(packaged_codec_bytes())
    listener, classifier = (
        load_classifier(bundled_file(f"{name}.safetensors").read_bytes()).provenance
        for name in ("listener", "audio_classifier")
    )
    for found in (codec, generator, listener, classifier):
        assert isinstance(found, TrainedOn)
        [recordings] = found.recordings
        assert (recordings.dataset, recordings.folds) == ("esc50", (1, 2, 3, 4))
        for dataset in ("esc10", "esc50"):
            verdicts = [
                judge([Learned(name="it", provenance=found)], fold_of(dataset, fold)).leaks for fold in range(1, 6)
            ]
            assert [bool(leaks) for leaks in verdicts] == [fold in recordings.folds for fold in range(1, 6)]
    assert isinstance(codec, TrainedOn) and isinstance(generator, TrainedOn) and codec.parents == ()
    [parent] = generator.parents
    assert (parent.role, parent.sha256, parent.trained_on) == ("codec", load_codec().fingerprint.sha256, codec)


@pytest.mark.parametrize(
    "data", [b"", b"PK\x03\x04 something else", b"\x08\0\0\0\0\0\0\0not json", b"\xff" * 40, b"[" * 100_000]
)
def test_a_file_of_another_kind_is_not_known(data: bytes) -> None:
    assert provenance_of_codec(data) == MISSING
