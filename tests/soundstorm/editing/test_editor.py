"""Edited sound: what stays to the bit, what is new, where seams are, and that seeds alone decide."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from soundstorm.audio.files import from_pcm16, to_pcm16
from soundstorm.audio.synthesis import synthesize
from soundstorm.codec.codec import Codec
from soundstorm.codec.files import load_codec
from soundstorm.editing.editor import Editor
from soundstorm.editing.edits import Inpainting, New, Variation
from soundstorm.errors import SoundStormError
from soundstorm.evaluation.temporal import log_mel
from soundstorm.generation import windows
from soundstorm.generation.decoding import Known, generate_codes
from soundstorm.generation.windows import WindowSize
from soundstorm.model.config import SamplerSettings
from soundstorm.model.place_network import PlaceNetwork
from tests.support.place_networks import small_network

RATE, HOP = 24_000, 1_280
SETTINGS = SamplerSettings(iterations=4, order="even", final_temperature=1.0)


@pytest.fixture(scope="module")
def codec() -> Codec:
    return load_codec()


@pytest.fixture(scope="module")
def editor(codec: Codec) -> Editor:
    return Editor(model=small_network(codec), codec=codec, settings=SETTINGS, windows=WindowSize(20, 8))


@pytest.fixture(scope="module")
def rainmaker(codec: Codec) -> Editor:
    """One whose network draws each code as often as it is in rain, whatever it is told: a noise of steady level, in
    which all that changes at a seam would be the windows' doing."""
    model = small_network(codec)
    [codes_QT] = codec.encode_clips([synthesize("rain", 5, 30.0, RATE)])
    counts = [np.bincount(level_T, minlength=1024) for level_T in codes_QT[:4]]
    with torch.no_grad():
        model.head.project_QHL.zero_()
        model.head.head_bias.copy_(torch.from_numpy(np.stack(counts) / codes_QT.shape[1] + 1e-9).log())
    return Editor(model=model, codec=codec, settings=SETTINGS, windows=WindowSize(20, 8))


@pytest.fixture(scope="module")
def recording() -> np.ndarray:
    return to_pcm16(synthesize("rain", 3, 3.0, RATE))


def flux(pcm: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Change of the spectrum in each 10 ms, and when it is, in seconds."""
    change = np.sqrt(np.mean(np.diff(log_mel(pcm, RATE), axis=0) ** 2, axis=1))
    return change, np.arange(len(change)) * 0.010 + 0.0175


# ---- in-painting


def test_every_sample_outside_the_regions_is_the_recording_s_and_inside_all_is_new(
    editor: Editor, recording: np.ndarray
) -> None:
    spans = [(12_345, 24_000), (40_000, 52_001)]
    for take_N in editor.inpainted(recording, spans, [0, 1], [1, 2]):
        inside = np.zeros(len(recording), bool)
        for first, end in spans:
            inside[first:end] = True
        changed = to_pcm16(take_N) != recording
        assert not changed[~inside].any()
        assert changed[inside].mean() > 0.99


def test_only_the_frames_that_a_region_touches_are_drawn(
    editor: Editor, recording: np.ndarray, codec: Codec, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[Tensor, Tensor]] = []

    def watch(*arguments: object, known: Known, **others: object) -> list[Tensor]:
        asked.append((known.codes_BQT.clone(), known.mask_BQT.clone()))
        return generate_codes(*arguments, known=known, **others)  # type: ignore[arg-type]

    monkeypatch.setattr(windows, "generate_codes", watch)
    editor.inpainted(recording, [(20 * HOP + 5, 23 * HOP)], [0], [1])
    [(known_BQT, is_known_BQT)] = asked
    assert is_known_BQT.shape == (1, 4, 20)
    assert (~is_known_BQT[0]).all(0).nonzero()[:, 0].tolist() == [8, 9, 10]  # of frames 12 to 32, those from 20 to 23
    assert is_known_BQT[0].sum() == 4 * 17
    [codes_QT] = codec.encode_clips([from_pcm16(recording)])
    np.testing.assert_array_equal(known_BQT[0, :, :8], codes_QT[:4, 12:20].astype(np.int64))


def test_the_timbre_that_is_told_is_that_of_what_is_known(
    editor: Editor, recording: np.ndarray, codec: Codec, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Tensor | None] = []

    def watch(*arguments: object, known: Known, **others: object) -> list[Tensor]:
        told.append(known.timbre_BS)
        return generate_codes(*arguments, known=known, **others)  # type: ignore[arg-type]

    monkeypatch.setattr(windows, "generate_codes", watch)
    editor.inpainted(recording, [(0, 30 * HOP)], [0], [1])
    codes_QT = torch.from_numpy(codec.encode_clips([from_pcm16(recording)])[0][:4, 30:].astype(np.int64))
    assert isinstance(editor.model, PlaceNetwork)
    expected = editor.model.timbre_of(codes_QT[None], torch.ones(1, codes_QT.shape[1], dtype=torch.bool))
    assert expected is not None and len(told) > 1
    for timbre_BS in told:
        torch.testing.assert_close(timbre_BS, expected)


def test_a_region_has_no_click_at_its_edges(editor: Editor) -> None:
    tone = to_pcm16(0.5 * np.sin(2 * np.pi * 440 * np.arange(3 * RATE) / RATE))
    [take_N] = editor.inpainted(tone, [(30_000, 45_000)], [0], [1])
    step = np.abs(np.diff(to_pcm16(take_N).astype(int)))
    for edge in (30_000, 45_000):
        assert step[edge - 3 : edge + 3].max() <= max(step[:29_000].max(), step[31_000:44_000].max())


def test_a_recording_that_is_made_anew_from_end_to_end_is_new_sound(editor: Editor, recording: np.ndarray) -> None:
    [take_N] = editor.inpainted(recording, [(0, len(recording))], [0], [1])
    assert len(take_N) == len(recording) and (to_pcm16(take_N) != recording).mean() > 0.99


def test_seeds_alone_decide_what_an_edit_is(editor: Editor, recording: np.ndarray) -> None:
    for edit in (
        New(loop=True),
        New(prompt_QT=np.zeros((32, 5), np.uint16)),
        Inpainting(recording_N=recording, spans=((20_000, 30_000),), loop=True),
        Inpainting(recording_N=recording, loop=True),
        Variation(recording_N=recording, strength=0.5),
    ):
        together = edit.takes(editor, [0, 1, 0], [5, 6, 5], len(recording))
        [alone] = edit.takes(editor, [1], [6], len(recording))
        assert all(take_N.dtype == np.float32 and len(take_N) == len(recording) for take_N in together)
        np.testing.assert_array_equal(together[0], together[2])
        np.testing.assert_array_equal(together[1], alone)
        assert not np.array_equal(together[0], together[1])


# ---- variations


def watch_codes(editor: Editor, monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """Codes that the codec is given to decode from now on."""
    decode, seen = editor.codec.decode_clips, []

    def watch(codes: list[np.ndarray], seeds: list[int]) -> list[np.ndarray]:
        seen.extend(codes)
        return decode(codes, seeds)

    monkeypatch.setattr(editor.codec, "decode_clips", watch)
    return seen


@pytest.mark.parametrize(("strength", "kept_levels"), [(0.5, 2), (0.25, 4), (0.0, 3), (1.0, 4)])
def test_a_variation_keeps_the_first_levels_of_the_share_of_frames_that_is_not_drawn_anew(
    strength: float, kept_levels: int, editor: Editor, recording: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = watch_codes(editor, monkeypatch)
    editor.varied(recording, strength, [0, 0], [1, 2], kept_levels=kept_levels)
    [codes_QT] = editor.codec.encode_clips([from_pcm16(recording)])
    for made_QT in seen:
        is_kept_T = (made_QT[:kept_levels] == codes_QT[:kept_levels]).all(0)
        assert abs(is_kept_T.mean() - (1 - strength)) < 0.05
        if kept_levels < 4 and strength < 1:  # above them, a code is the recording's one time in a thousand
            assert (made_QT[kept_levels:] == codes_QT[kept_levels:4]).mean() < 0.05
    is_same_BT = [(made_QT[:kept_levels] == codes_QT[:kept_levels]).all(0) for made_QT in seen]
    assert np.array_equal(*is_same_BT) == (strength in (0.0, 1.0))  # each take has frames of its own


def test_a_strength_or_levels_that_are_none_are_refused(editor: Editor, recording: np.ndarray) -> None:
    for strength in (-0.1, 1.1, float("nan")):
        with pytest.raises(SoundStormError, match=f"strength is {strength}"):
            editor.varied(recording, strength, [0], [1])
    with pytest.raises(SoundStormError, match="levels to keep are 5: give 0 to 4"):
        editor.varied(recording, 0.5, [0], [1], kept_levels=5)


# ---- clips of any length


def near(at_s: np.ndarray, places_s: np.ndarray) -> np.ndarray:
    """Which of the times lie within a hundredth of a second of some place."""
    return np.abs(at_s[:, None] - places_s).min(1) < 0.01


def test_a_clip_of_many_windows_has_no_seams(rainmaker: Editor) -> None:
    """A seam is an edge of a frame as any other: frames of this network have nothing to do with each other."""
    [take_N] = rainmaker.new([0], [1], 20 * RATE)
    pcm = to_pcm16(take_N / np.abs(take_N).max())
    level_db = 20 * np.log10([np.sqrt(np.mean(np.square(part / 32768))) for part in np.split(pcm, 20)])
    assert np.ptp(level_db) < 3
    change, at_s = flux(pcm)
    seams = np.arange(20, 375, 12)
    at_seam, at_edge = (near(at_s, edges * HOP / RATE) for edges in (seams, np.setdiff1d(np.arange(375), seams)))
    assert at_seam.sum() >= 2 * len(seams) - 4
    assert change[at_seam].mean() < 1.05 * change[at_edge].mean()
    assert change[at_seam].max() <= change[at_edge].max()


@pytest.mark.parametrize("loop", [False, True])
def test_a_clip_of_many_windows_stays_as_loud_as_the_first(rainmaker: Editor, loop: bool) -> None:
    """The prompt is quiet rain, and the network draws loud rain."""
    quiet = synthesize("rain", 5, 2.56, RATE) * 0.2
    [prompt_QT] = rainmaker.codec.encode_clips([quiet.astype(np.float32)])
    editor = replace(rainmaker, windows=WindowSize(48, 24))
    steady_N, as_drawn_N = (
        New(prompt_QT=prompt_QT, loop=loop, steady=steady).takes(editor, [0], [4], 8 * RATE)[0]
        for steady in (True, False)
    )
    loud, drawn = (10 * np.log10((x_N.reshape(8, RATE) ** 2).mean(1)) for x_N in (steady_N, as_drawn_N))
    assert np.abs(drawn[4:7] - drawn[1]).min() > 5 and np.abs(loud[4:7] - loud[1]).max() < 2.5


def test_a_long_prompt_is_unchanged_and_its_end_is_the_reference(rainmaker: Editor) -> None:
    loudness = np.repeat(np.array([1.0, 0.25]), 3 * RATE)
    [prompt_QT] = rainmaker.codec.encode_clips([(synthesize("rain", 5, 6.0, RATE) * loudness).astype(np.float32)])
    editor = replace(rainmaker, windows=WindowSize(48, 24))
    steady_N, as_drawn_N = (
        New(prompt_QT=prompt_QT, steady=steady).takes(editor, [0], [4], 12 * RATE)[0] for steady in (True, False)
    )
    assert np.array_equal(steady_N[: 4 * RATE], as_drawn_N[: 4 * RATE])
    loud = 10 * np.log10((steady_N.reshape(12, RATE) ** 2).mean(1))
    assert np.abs(loud[8:12] - loud[4]).max() < 2.5


def test_clips_of_one_window_are_not_levelled(rainmaker: Editor) -> None:
    editor = replace(rainmaker, windows=WindowSize(200, 100))
    for loop in (False, True):
        takes = [New(loop=loop, steady=steady).takes(editor, [0], [4], 8 * RATE)[0] for steady in (True, False)]
        assert np.array_equal(*takes)


def test_a_window_is_all_that_the_network_ever_sees(editor: Editor, monkeypatch: pytest.MonkeyPatch) -> None:
    lengths: list[int] = []
    hidden = PlaceNetwork.hidden

    def watch(network: PlaceNetwork, codes_BQT: Tensor, *others: Tensor) -> Tensor:
        lengths.append(codes_BQT.shape[2])
        return hidden(network, codes_BQT, *others)

    monkeypatch.setattr(PlaceNetwork, "hidden", watch)
    editor.new([0], [1], 12 * RATE)
    assert set(lengths) == {20}


def test_a_prompt_is_what_a_long_clip_begins_with(editor: Editor, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = watch_codes(editor, monkeypatch)
    prompt_QT = np.random.default_rng(0).integers(0, 1024, (32, 30)).astype(np.uint16)
    editor.new([0], [1], 4 * RATE, prompt_QT=prompt_QT)
    [made_QT] = seen
    assert made_QT.shape == (4, 75)
    np.testing.assert_array_equal(made_QT[:, :30], prompt_QT[:4])


def test_a_network_of_filled_up_clips_draws_the_filling_which_is_cut(
    editor: Editor, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = replace(editor, filled_frames=20)
    seen = watch_codes(whole, monkeypatch)
    [take_N] = whole.new([0], [1], RATE // 4)
    [expected] = generate_codes(editor.model, torch.tensor([0]), [20], SETTINGS, [1])
    np.testing.assert_array_equal(seen[0], expected[:, :5].numpy())
    assert len(take_N) == RATE // 4


# ---- loops


@pytest.mark.parametrize("num_samples", [48 * HOP, 48 * HOP + 700])
def test_a_loop_played_three_times_does_not_click(num_samples: int, rainmaker: Editor) -> None:
    at_seams, at_edges = [], []
    for take_N in rainmaker.new([0] * 10, list(range(10)), num_samples, loop=True):
        assert len(take_N) == num_samples
        pcm = np.tile(to_pcm16(take_N / np.abs(take_N).max()), 3)
        change, at_s = flux(pcm)
        at_seams.append(change[near(at_s, np.array([num_samples, 2 * num_samples]) / RATE)])
        at_edges.append(change[near(at_s, np.arange(1, 48) * HOP / RATE)])
        step = np.abs(np.diff(pcm.astype(int)))
        assert step[num_samples - 3 : num_samples + 3].max() <= step[: num_samples - 3].max()
    assert np.mean(at_seams) < 1.05 * np.mean(at_edges)
    assert np.max(at_seams) <= np.max(at_edges)


def test_what_a_loop_makes_anew_lies_around_its_seam_alone(editor: Editor, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = watch_codes(editor, monkeypatch)
    editor.new([0], [1], 60 * HOP)
    editor.new([0], [1], 60 * HOP, loop=True)
    plain_QT, around_QT = seen
    looped_QT = around_QT[:, 5:-5]
    np.testing.assert_array_equal(around_QT[:, :5], looped_QT[:, -5:])
    np.testing.assert_array_equal(around_QT[:, -5:], looped_QT[:, :5])
    is_same_T = (plain_QT == looped_QT).all(0)
    assert is_same_T[9:-9].all() and not is_same_T[:9].any() and not is_same_T[-9:].any()


def test_a_recording_becomes_a_loop_and_is_itself_but_for_half_a_second_at_both_ends(editor: Editor) -> None:
    rising = np.linspace(0.01, 0.5, 3 * RATE + 123)
    recording = to_pcm16(rising * np.sin(2 * np.pi * 300 * np.arange(len(rising)) / RATE))
    [take_N] = editor.seamless(recording, [0], [1])
    is_same_N = to_pcm16(take_N) == recording
    assert is_same_N[RATE // 2 : -RATE // 2].all()
    assert is_same_N[: RATE // 2 - 480].mean() < 0.05 and is_same_N[480 - RATE // 2 :].mean() < 0.05
    step = np.abs(np.diff(np.tile(to_pcm16(take_N), 2).astype(int)))
    assert step[len(recording) - 3 : len(recording) + 3].max() <= step.max()


def test_a_loop_that_is_too_short_is_refused(editor: Editor) -> None:
    with pytest.raises(SoundStormError, match=r"a loop of 0\.4 s is too short: give at least 0\.5 s"):
        editor.new([0], [1], round(0.4 * RATE), loop=True)
    with pytest.raises(SoundStormError, match=r"a loop of 0\.25 s is too short"):
        editor.seamless(np.zeros(6_000, np.int16), [0], [1])
    [take_N] = editor.new([0], [1], RATE // 2, loop=True)
    assert len(take_N) == RATE // 2
