"""Pictures of closeness: the shares of a confusion as colours, the curves of two sources apart, and names of any
kind."""

import io

import numpy as np
import pytest
from PIL import Image

from soundstorm.evaluation.closeness_result import Confusion
from soundstorm.reports.closeness_figures import confusion_matrix, modulation_curves
from soundstorm.reports.style import DARK, LIGHT, Theme
from soundstorm.schemas import Source


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGBA")).astype(int)


def confusion(num_classes: int, held_out: bool = True, extra: tuple[str, ...] = ()) -> Confusion:
    names = [f"class number {number}" for number in range(num_classes)]
    counts = [[8 * (row == column) for column in range(num_classes + len(extra))] for row in range(num_classes)]
    return Confusion(
        categories=names, predicted=[*names, *extra], generated=counts, held_out=counts if held_out else None
    )


def solid(image: np.ndarray, color: str) -> int:
    """Pixels of nearly this colour and hardly transparent: cells of a large share, and lines."""
    rgb = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)])
    return int(((np.abs(image[..., :3] - rgb).max(axis=2) < 24) & (image[..., 3] > 190)).sum())


@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_right_names_have_one_colour_and_wrong_ones_another(theme: Theme) -> None:
    right, wrong = theme.sources[Source.GENERATED], theme.sources[Source.RESYNTHESIZED]
    good = pixels(confusion_matrix(confusion(4), theme))
    counts = [[8 * (column == (row + 1) % 4) for column in range(4)] for row in range(4)]
    names = confusion(4).categories
    bad = pixels(
        confusion_matrix(Confusion(categories=names, predicted=names, generated=counts, held_out=counts), theme)
    )
    assert solid(good, right) > 2 * solid(bad, right)
    assert solid(bad, wrong) > 2 * solid(good, wrong)


def test_real_clips_stand_beside_the_generated_where_there_are_any() -> None:
    both, alone = (pixels(confusion_matrix(confusion(5, held_out), LIGHT)).shape for held_out in (True, False))
    assert both[0] == alone[0] and both[1] > 1.3 * alone[1]


@pytest.mark.parametrize("num_classes", [1, 12, 50])
def test_any_number_of_classes_fits(num_classes: int) -> None:
    image = pixels(confusion_matrix(confusion(num_classes, extra=("siren",)), LIGHT))
    assert image.shape[0] < 1400 and image.shape[1] < 2400
    assert (image[..., 3] > 0).any()


def test_a_class_without_clips_and_names_with_signs_are_drawn() -> None:
    names = ["$\\frac$ & 猫 <b>", "a" * 90]
    empty = Confusion(categories=names, predicted=names, generated=[[0, 0], [1, 0]], held_out=None)
    assert pixels(confusion_matrix(empty, DARK)).size


def test_two_sources_are_two_curves() -> None:
    low, high = np.linspace(1, 2, 16), np.linspace(5, 9, 16)
    image = pixels(modulation_curves({Source.REAL: low, Source.GENERATED: high}, LIGHT))
    for source in (Source.REAL, Source.GENERATED):
        assert solid(image, LIGHT.sources[source]) > 100
    assert solid(pixels(modulation_curves({Source.REAL: low}, LIGHT)), LIGHT.sources[Source.GENERATED]) < 20


def test_no_curves_are_refused() -> None:
    with pytest.raises(ValueError, match="no modulation spectra"):
        modulation_curves({}, LIGHT)
