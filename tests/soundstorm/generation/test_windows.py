"""Windows: which frames are drawn in which, what each of them is told, and that seeds alone decide."""

import threading
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from soundstorm.errors import SoundStormError
from soundstorm.generation import candidates, windows
from soundstorm.generation.candidates import Candidate
from soundstorm.generation.decoding import Known, generate_codes
from soundstorm.generation.seeds import window_seed
from soundstorm.generation.windows import Choice, Window, WindowSize, generate_in_windows, plan_windows
from soundstorm.model.config import ModelConfig, SamplerSettings
from soundstorm.model.place_network import PlaceNetwork
from soundstorm.optimization.threads import on_threads

CONFIG = ModelConfig(
    width=32, depth=1, heads=2, kernel=7, ff_mult=2, num_levels=3, codebook_size=20, num_classes=3,
    order="places", centroids=True, centroid_dim=6, head_width=32, head_depth=1, timbre_dim=4, timbre_entries=2,
)  # fmt: skip
SETTINGS = SamplerSettings(iterations=5, order="even", final_temperature=1.0)
SIZE = WindowSize(20, 8)


@pytest.fixture
def model() -> PlaceNetwork:
    """A network with timbres."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = PlaceNetwork(CONFIG).eval()
    model.centroids.take(torch.randn(3, 20, 6))
    assert model.timbre is not None
    with torch.no_grad():
        model.head.project_QHL.mul_(8)
        model.timbre.entries_ES.copy_(torch.randn(2, 4))
        model.timbre.basis_FS.copy_(torch.randn(12, 4))
    return model


def unknown(total: int, *spans: tuple[int, int]) -> Tensor:
    mask_T = torch.zeros(total, dtype=torch.bool)
    for first, end in spans:
        mask_T[first:end] = True
    return mask_T


@pytest.mark.parametrize(
    ("total", "spans", "expected"),
    [
        (20, [(0, 20)], [(0, 20, 20)]),  # a clip of one window
        (21, [(0, 21)], [(0, 20, 20), (1, 21, 21)]),  # the last is whole, with more known
        (44, [(0, 44)], [(0, 20, 20), (12, 32, 32), (24, 44, 44)]),
        (44, [(10, 44)], [(2, 22, 22), (14, 34, 34), (24, 44, 44)]),  # after a prompt
        (100, [(50, 54)], [(42, 62, 62)]),  # a gap has as much known on both sides
        (100, [(0, 4)], [(0, 20, 20)]),
        (100, [(98, 100)], [(80, 100, 100)]),
        (100, [(50, 53), (60, 66)], [(42, 62, 60), (52, 72, 72)]),  # a gap that is cut waits
        (100, [(50, 90)], [(42, 62, 62), (54, 74, 74), (66, 86, 86), (78, 98, 98)]),
        (100, [], []),
    ],
)
def test_windows_overlap_and_no_gap_that_fits_is_cut(
    total: int, spans: list[tuple[int, int]], expected: list[tuple[int, int, int]]
) -> None:
    assert plan_windows(unknown(total, *spans), SIZE) == [Window(*each) for each in expected]


def test_every_unknown_frame_is_drawn_once_whatever_is_known() -> None:
    for seed in range(50):
        mask_T = torch.rand(137, generator=torch.Generator().manual_seed(seed)) < 0.1 + 0.018 * seed
        left_T = mask_T.clone()
        for window in plan_windows(mask_T, SIZE):
            assert window.end - window.first == SIZE.frames and left_T[window.first : window.until].any()
            left_T[window.first : window.until] = False
        assert not left_T.any()


def test_an_overlap_must_leave_something_to_draw() -> None:
    for frames, overlap in ((20, 20), (20, 0), (1, 1)):
        with pytest.raises(SoundStormError, match=f"windows of {frames} frames that overlap by {overlap}"):
            WindowSize(frames, overlap)
    assert WindowSize.at_rate(75.0) == WindowSize(375, 188)


def drawn(model: PlaceNetwork, total: int, seeds: list[int], timbre_BS: Tensor | None = None) -> Tensor:
    nothing = torch.zeros(len(seeds), 3, total, dtype=torch.int64)
    return generate_in_windows(
        model,
        torch.zeros(len(seeds), dtype=torch.int64),
        SETTINGS,
        seeds,
        known=Known(nothing, torch.zeros_like(nothing, dtype=torch.bool), timbre_BS),
        windows=plan_windows(torch.ones(total, dtype=torch.bool), SIZE),
    )[0]


def test_a_clip_of_one_window_is_drawn_as_without_windows(model: PlaceNetwork) -> None:
    [expected] = generate_codes(model, torch.tensor([0]), [20], SETTINGS, [7])
    assert torch.equal(drawn(model, 20, [7])[0], expected)


def test_a_window_goes_on_from_the_frames_of_the_one_before(model: PlaceNetwork) -> None:
    codes_QT = drawn(model, 44, [7])[0]
    for number, window in enumerate(plan_windows(torch.ones(44, dtype=torch.bool), SIZE)[1:], 1):
        known = slice(window.first, window.first + SIZE.overlap)
        given_BQT = torch.zeros(1, 3, 20, dtype=torch.int64)
        given_BQT[0, :, : SIZE.overlap] = codes_QT[:, known]
        is_given_BQT = (torch.arange(20) < SIZE.overlap).expand_as(given_BQT)
        timbre_BS = model.timbre_of(codes_QT[None, :, :20], torch.ones(1, 20, dtype=torch.bool))
        given = Known(given_BQT, is_given_BQT, timbre_BS)
        [expected] = generate_codes(model, torch.tensor([0]), [20], SETTINGS, [window_seed(7, number)], known=given)
        assert torch.equal(codes_QT[:, window.first : window.end], expected)


def test_a_timbre_that_is_given_is_told_to_every_window(model: PlaceNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Tensor] = []

    def watch(*arguments: object, known: Known, **others: object) -> list[Tensor]:
        assert known.timbre_BS is not None
        told.append(known.timbre_BS)
        return generate_codes(*arguments, known=known, **others)  # type: ignore[arg-type]

    monkeypatch.setattr(windows, "generate_codes", watch)
    timbre_BS = torch.randn(1, 4)
    drawn(model, 44, [7], timbre_BS)
    assert len(told) == 3 and all(torch.equal(each, timbre_BS) for each in told)


def test_takes_follow_from_their_seeds_and_not_from_each_other(model: PlaceNetwork) -> None:
    together = drawn(model, 50, [1, 2, 1])
    assert torch.equal(together[0], together[2]) and not torch.equal(together[0], together[1])
    assert torch.equal(together[1], drawn(model, 50, [2])[0])


@pytest.mark.parametrize("accept", [0.5, 1.0])
def test_draws_that_are_made_side_by_side_are_those_made_one_after_another(
    model: PlaceNetwork, accept: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if some samples need more than others, which then share their batches."""
    monkeypatch.setattr(candidates, "FEW_FRAMES", 1)
    monkeypatch.setattr(candidates, "MANY_FRAMES", 1)
    nothing = torch.zeros(3, 3, 44, dtype=torch.int64)
    scored: list[dict[tuple[int, int, int], Tensor]] = []

    def score(batch: Sequence[Candidate], codes: Sequence[Tensor], *, number: int, window: Window) -> list[float]:
        for candidate, codes_QT in zip(batch, codes, strict=True):
            key = number, candidate.sample, candidate.number
            assert torch.equal(scored[-1].setdefault(key, codes_QT), codes_QT)
        return [(0.3, 0.6, 0.4, 0.2)[(candidate.sample + candidate.number + number) % 4] for candidate in batch]

    def generated(threads: int) -> tuple[Tensor, list[int]]:
        scored.append({})
        return generate_in_windows(
            model,
            torch.zeros(3, dtype=torch.int64),
            replace(SETTINGS, candidates=3, accept_probability=accept),
            [5, 6, 7],
            known=Known(nothing, torch.zeros_like(nothing, dtype=torch.bool)),
            windows=plan_windows(torch.ones(44, dtype=torch.bool), SIZE),
            choice=Choice(score, threads),
        )

    (codes_BQT, kept), (others_BQT, others) = generated(1), generated(2)
    assert torch.equal(codes_BQT, others_BQT)
    assert kept == others == [1, 0, 0]
    one_by_one, side_by_side = scored
    both = one_by_one.keys() & side_by_side.keys()
    assert len(both) == 27 if accept == 1 else 9 < len(both) < 27
    assert all(torch.equal(one_by_one[key], side_by_side[key]) for key in both)
    for sample, number in enumerate(kept):
        assert torch.equal(codes_BQT[sample, :, :20], one_by_one[0, sample, number])


def test_threads_give_the_results_in_the_order_of_what_was_asked_and_each_has_one_core() -> None:
    together = threading.Barrier(2, timeout=30)

    def work(number: int) -> tuple[int, int]:
        together.wait()
        return number, torch.get_num_threads()

    assert on_threads(work, range(4), 2) == [(number, 1) for number in range(4)]
    assert on_threads(lambda number: number, [3, 1], 1) == [3, 1]
