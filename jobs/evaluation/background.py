"""Work of the driver while the actors measure: what a report needs that depends on no measurement."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from jobs.evaluation.bands import find_bands
from jobs.evaluation.examples import choose_examples
from jobs.evaluation.options import Options
from jobs.evaluation.resynthesis import Resynthesizer
from jobs.inputs.audio_files import load_clip
from jobs.inputs.clips import Clip
from soundstorm.audio.bands import Bands
from soundstorm.reports.listening_section import Example, Pictures, draw

Made = TypeVar("Made")


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What a report shows of single clips."""

    bands: Bands
    examples: list[Example]
    pictures: Pictures


def prepare(
    options: Options, real: Sequence[Clip], generated: Sequence[Clip], bands: Bands | None, codec: Resynthesizer
) -> Prepared:
    """Estimate the bandwidths, choose the examples and draw them.

    Args:
        options: of the command.
        real: real clips.
        generated: what they are compared with.
        bands: the bandwidths, if they are known.
        codec: takes the real examples through the codec.

    Raises:
        ClusterError: a clip's storage cannot be reached.
    """
    bands = bands or find_bands(real, generated, options.seed)
    examples = choose_examples(
        real, generated, options.examples_per_class, lambda clip: load_clip(clip.uri, dataset=clip.dataset), codec
    )
    return Prepared(bands=bands, examples=examples, pictures=draw(examples))


@contextlib.contextmanager
def in_background(work: Callable[[], Made]) -> Iterator[Callable[[], Made]]:
    """Do `work` in a thread; the function that is yielded awaits its result or raises its error. If the block is left
    by an error, nobody waits for the thread."""
    executor = ThreadPoolExecutor(1, "background")
    try:
        yield executor.submit(work).result
    finally:
        executor.shutdown(wait=False)
