"""A second try at a region in which the reranker does not recognize the class."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from soundstorm.audio.files import to_pcm16
from soundstorm.audio.synthesis import synthesize
from soundstorm.codec.codec import Codec
from soundstorm.codec.files import load_codec
from soundstorm.editing import editor as editor_module
from soundstorm.editing.editor import Editor
from soundstorm.editing.second_try import RECOGNIZED, better, edge_mask, frame_mask
from soundstorm.generation import windows
from soundstorm.generation.decoding import Known, generate_codes
from soundstorm.generation.windows import WindowSize
from soundstorm.model.config import SamplerSettings
from tests.support.place_networks import small_network

RATE, HOP = 24_000, 1_280
SPANS = [(20 * HOP, 36 * HOP)]
INSIDE = slice(*SPANS[0])


class Loudness:
    """Gives the first class a probability that grows with the loudness of the sound."""

    categories = ("loud", "quiet")

    def __init__(self, full: float) -> None:
        self.full = full

    def predict(self, clips: Sequence[NDArray[np.int16]]) -> NDArray[np.float32]:
        loud_B = [min(1.0, float(np.sqrt(np.mean(np.square(pcm / 32768)))) / self.full) for pcm in clips]
        return np.array([(loud, 1 - loud) for loud in loud_B], np.float32)


@pytest.fixture(scope="module")
def codec() -> Codec:
    return load_codec()


@pytest.fixture(scope="module")
def recording() -> np.ndarray:
    return to_pcm16(synthesize("rain", 3, 3.0, RATE))


@pytest.fixture(scope="module")
def editor(codec: Codec) -> Editor:
    """One whose network has random weights and timbres, and whose reranker recognizes nothing."""
    return Editor(
        model=small_network(codec),
        codec=codec,
        settings=SamplerSettings(iterations=4, order="even", final_temperature=1.0, candidates=2),
        windows=WindowSize(60, 20),
        reranker=Loudness(1_000.0),
        categories=("loud", "quiet"),
    )


def heard_by(editor: Editor, full: float) -> Editor:
    return replace(editor, reranker=Loudness(full))


def watch_generation(monkeypatch: pytest.MonkeyPatch) -> list[Known]:
    """What is known in each batch that is generated from now on."""
    seen: list[Known] = []

    def watch(*arguments: object, known: Known, **others: object) -> list[Tensor]:
        seen.append(Known(known.codes_BQT.clone(), known.mask_BQT.clone(), known.timbre_BS))
        return generate_codes(*arguments, known=known, **others)  # type: ignore[arg-type]

    monkeypatch.setattr(windows, "generate_codes", watch)
    return seen


def watch_scores(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Sequence[float], Sequence[float]]]:
    """Scores of first and second tries that are compared from now on."""
    seen: list[tuple[Sequence[float], Sequence[float]]] = []

    def watch(first_BQT: Tensor, first: Sequence[float], second_BQT: Tensor, second: Sequence[float]) -> Tensor:
        seen.append((first, second))
        return better(first_BQT, first, second_BQT, second)

    monkeypatch.setattr(editor_module, "better", watch)
    return seen


def test_each_take_has_the_better_of_two_tries(
    editor: Editor, recording: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = watch_scores(monkeypatch)
    seeds = list(range(8))
    one_try = editor.inpainted(recording, SPANS, [0] * 8, seeds, second_try=False)
    assert not seen
    two_tries = editor.inpainted(recording, SPANS, [0] * 8, seeds)
    [(first, second)] = seen
    is_second = [other > one for one, other in zip(first, second, strict=True)]
    assert max(first) < RECOGNIZED and 0 < sum(is_second) < 8
    for one_N, two_N, is_other in zip(one_try, two_tries, is_second, strict=True):
        assert np.array_equal(one_N[INSIDE], two_N[INSIDE]) != is_other
        outside = np.ones(len(recording), bool)
        outside[INSIDE] = False
        np.testing.assert_array_equal(to_pcm16(two_N)[outside], recording[outside])


def test_a_take_does_not_depend_on_the_others(
    editor: Editor, recording: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of the takes is recognized, another is not."""
    spans = [(5_000, 12_345), (30_000, 52_001)]
    quiet = editor.inpainted(recording, spans, [0] * 3, [5, 6, 7], second_try=False)
    levels = [np.sqrt(np.mean(np.square(take_N[30_000:52_001]))) for take_N in quiet]
    some_recognized = heard_by(editor, float(np.median(levels)) / RECOGNIZED)
    scores, batches = watch_scores(monkeypatch), watch_generation(monkeypatch)
    together = some_recognized.inpainted(recording, spans, [0] * 3, [5, 6, 7])
    assert any(min(first) < RECOGNIZED <= max(first) for first, _ in scores)
    assert {len(known.codes_BQT) for known in batches} == {6}  # two candidates each
    for seed, take_N in zip((5, 6, 7), together, strict=True):
        [alone_N] = some_recognized.inpainted(recording, spans, [0], [seed])
        np.testing.assert_array_equal(alone_N, take_N)


def test_what_is_generated_for_itself_and_then_joined_to_the_recording(
    editor: Editor, recording: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = watch_generation(monkeypatch)
    editor.inpainted(recording, SPANS, [0], [1])
    in_context, alone, joined = seen[0], seen[1], seen[2]  # two candidates of each are one batch
    assert len(seen) == 3
    assert (~in_context.mask_BQT[0]).all(0).nonzero()[:, 0].tolist() == list(range(20, 36))
    assert alone.codes_BQT.shape[2] == 16 and not alone.mask_BQT.any() and alone.timbre_BS is None
    assert (~joined.mask_BQT[0]).all(0).nonzero()[:, 0].tolist() == [20, 21, 22, 23, 32, 33, 34, 35]
    context = frame_mask(57, range(20)) | frame_mask(57, range(36, 57))
    assert torch.equal(joined.codes_BQT[:, :, context], in_context.codes_BQT[:, :, context])
    assert not torch.equal(joined.codes_BQT[:, :, 24:32], in_context.codes_BQT[:, :, 24:32])


@pytest.mark.parametrize("is_recognized", [False, True])
def test_a_recognized_region_needs_no_second_try(
    is_recognized: bool, editor: Editor, recording: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = watch_generation(monkeypatch)
    heard_by(editor, 1e-9 if is_recognized else 1_000.0).inpainted(recording, SPANS, [0], [1])
    assert len(seen) == (1 if is_recognized else 3)


@pytest.mark.parametrize(
    ("length_s", "region", "is_tried_again"),
    [
        (3.0, (24 * HOP, 33 * HOP), False),
        (3.0, (24 * HOP, 34 * HOP), True),
        (6.0, (10 * HOP, 70 * HOP), True),
        (6.0, (10 * HOP, 71 * HOP), False),
    ],
    ids=["too short", "half a second", "a window", "longer than a window"],
)
def test_regions_of_half_a_second_to_a_window_have_a_second_try(
    length_s: float, region: tuple[int, int], is_tried_again: bool, editor: Editor, monkeypatch: pytest.MonkeyPatch
) -> None:
    recording = to_pcm16(synthesize("rain", 3, length_s, RATE))
    seen = watch_generation(monkeypatch)
    editor.inpainted(recording, [region], [0], [1])
    assert any(not known.mask_BQT.any() for known in seen) == is_tried_again


def test_a_network_of_filled_up_clips_has_a_clip_of_their_length_of_its_own(
    editor: Editor, recording: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = watch_generation(monkeypatch)
    [take_N] = replace(editor, filled_frames=30).inpainted(recording, SPANS, [0], [1])
    assert seen[1].codes_BQT.shape[2] == 30 and len(take_N) == len(recording)


def test_neither_a_loop_nor_a_wholly_new_recording_nor_one_without_a_reranker_has_a_second_try(
    editor: Editor, recording: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = watch_generation(monkeypatch)
    editor.seamless(recording, [0], [1])
    editor.inpainted(recording, [(0, len(recording))], [0], [1])
    replace(editor, reranker=None).inpainted(recording, SPANS, [0], [1])
    assert len(seen) == 3


@pytest.mark.parametrize(
    ("frames", "edges"),
    [
        (range(10, 30), [10, 11, 12, 13, 26, 27, 28, 29]),
        (range(20), [16, 17, 18, 19]),
        (range(30, 50), [30, 31, 32, 33]),
        (range(50), []),
        (range(10, 18), [10, 11, 16, 17]),
        (range(10, 13), []),
    ],
)
def test_the_edges_of_a_region_are_where_it_meets_the_recording(frames: range, edges: list[int]) -> None:
    assert edge_mask(50, frames, 4).nonzero()[:, 0].tolist() == edges


def test_the_second_try_is_kept_if_the_first_is_not_recognized_and_the_second_scores_higher() -> None:
    first_BQT, second_BQT = torch.zeros(4, 2, 3, dtype=torch.int64), torch.ones(4, 2, 3, dtype=torch.int64)
    kept_BQT = better(first_BQT, [0.1, 0.1, RECOGNIZED, 0.29], second_BQT, [0.2, 0.1, 0.9, 0.28])
    assert kept_BQT[:, 0, 0].tolist() == [1, 0, 0, 0]
    assert (kept_BQT == kept_BQT[:, :1, :1]).all()
