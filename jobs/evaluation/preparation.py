"""Work of the driver while the actors measure: what a report needs that depends on no measurement."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from jobs.evaluation.bands import find_bands
from jobs.evaluation.examples import choose_examples
from jobs.evaluation.options import Options
from jobs.evaluation.resynthesis import Resynthesizer
from jobs.inputs.audio_files import load_clip
from jobs.inputs.clips import Clip
from soundstorm.audio.bands import Bands
from soundstorm.reports.listening_section import Example, Pictures, draw


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What a report shows of single clips."""

    bands: Bands
    examples: list[Example]
    pictures: Pictures


def prepare(
    options: Options, real: Sequence[Clip], generated: Sequence[Clip], bands: Bands | None, resynthesize: Resynthesizer
) -> Prepared:
    """Estimate the bandwidths, choose the examples and draw them.

    Args:
        options: of the command.
        real: real clips.
        generated: what they are compared with.
        bands: the bandwidths, if they are known.
        resynthesize: takes the real examples through the codec.

    Raises:
        ClusterError: a clip's storage cannot be reached.
    """
    bands = bands or find_bands(real, generated, options.seed)

    def load(clip: Clip) -> np.ndarray:
        return load_clip(clip.uri, dataset=clip.dataset)

    examples = choose_examples(real, generated, options.examples_per_class, load, resynthesize)
    return Prepared(bands=bands, examples=examples, pictures=draw(examples))
