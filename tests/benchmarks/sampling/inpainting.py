r"""What a region is worth that is generated between given sounds, beside the same part of generated clips and of the
recordings.

python tests/benchmarks/sampling/inpainting.py --data-dir PATH/esc50 --fold 4 --clip 0

Of one recording of each class, the middle half, of at most five seconds, is generated anew. The measuring classifier
of the package, which does not choose among candidates, classifies the new part alone, and the whole clip.
"""

import time
from dataclasses import dataclass

import numpy as np
import torch
import tyro

from jobs.inputs.audio_files import load_clip
from jobs.inputs.checkpoints import checkpoint_files, open_checkpoint
from jobs.inputs.codecs import choose_codec
from jobs.inputs.datasets import DatasetOptions, open_dataset, rows_of_folds
from soundstorm.audio.files import SAMPLE_RATE, to_pcm16
from soundstorm.audio.limiter import within_full_scale
from soundstorm.classification.cnn import load_classifier
from soundstorm.data.categories import normalized
from soundstorm.editing.editor import Editor
from soundstorm.generation.reranking import PACKAGED_RERANKER
from soundstorm.generation.seeds import derived_seed
from soundstorm.serialization.bundled import bundled_file

LONGEST = 5 * SAMPLE_RATE
SOUNDS = ("edited", "generated", "recording")


@dataclass(kw_only=True)
class Options(DatasetOptions):
    """Generate the middle of recordings anew, and classify it."""

    checkpoint: str | None = None
    """Output folder of `train`, or a checkpoint folder; default: the one in the package."""
    fold: int = 4
    """Recordings of this fold."""
    clip: int = 0
    """Which recording of each class, by its id."""
    second_try: bool = True
    """Whether a region in which the reranker does not recognize the class is generated once more."""
    seed: int = 0
    """Random seed."""
    threads: int = 1
    """CPU threads."""


def main() -> None:
    """Generate, classify, print."""
    options = tyro.cli(Options)
    torch.set_num_threads(options.threads)
    checkpoint = open_checkpoint(checkpoint_files(options.checkpoint), uri=options.checkpoint)
    _, codec = choose_codec(None, checkpoint.fingerprint, options.checkpoint or "the checkpoint in the package")
    editor = Editor(
        model=checkpoint.model,
        codec=codec,
        settings=checkpoint.sampler,
        reranker=load_classifier(bundled_file(PACKAGED_RERANKER).read_bytes()),
        categories=checkpoint.categories,
    )
    classifier = load_classifier()
    names = [normalized(name) for name in classifier.categories]
    rows = rows_of_folds(open_dataset(options.dataset, options.location).clips, {options.fold}).to_pylist()
    named, unchanged, seconds = [], 0, 0.0
    for label, category in enumerate(checkpoint.categories):
        uris = [row["uri"] for row in sorted(rows, key=lambda row: row["clip_id"]) if row["category"] == category]
        pcm = load_clip(uris[options.clip])[:LONGEST]
        region = slice(len(pcm) // 4, len(pcm) * 3 // 4)
        seed = derived_seed(options.seed, f"{category}/{options.clip}")
        began = time.monotonic()
        [edited_N] = editor.inpainted(
            pcm, [(region.start, region.stop)], [label], [seed], second_try=options.second_try
        )
        seconds += time.monotonic() - began
        edited = to_pcm16(edited_N)
        changed_N = edited != pcm
        changed_N[region] = False
        unchanged += not changed_N.any()
        [new_N] = editor.new([label], [seed], len(pcm))
        heard = [part for sound in (edited, to_pcm16(within_full_scale(new_N)), pcm) for part in (sound[region], sound)]
        named.append([names[best] == normalized(category) for best in classifier.predict(heard).argmax(1)])
        print(category, dict(zip(SOUNDS, named[-1][::2], strict=True)), flush=True)
    parts, wholes = np.sum(named, axis=0)[::2], np.sum(named, axis=0)[1::2]
    for kind, part, whole in zip(SOUNDS, parts, wholes, strict=True):
        print(f"{kind}: the part named rightly in {part} of {len(named)}, the whole clip in {whole}")
    print(f"{unchanged} of {len(named)} edited clips equal their recording outside of the region")
    print(f"{seconds / len(named):.1f} s an edited clip")


if __name__ == "__main__":
    main()
