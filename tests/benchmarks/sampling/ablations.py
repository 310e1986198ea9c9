r"""What each departure from the reference work is worth: the same network, tokens and steps, with one fault of it at a
time put back.

python tests/benchmarks/sampling/ablations.py --tokens runs/tokens --dataset esc10 --data-dir PATH/esc50 --output
docs/ablations.csv --work-dir runs/ablations

Faults of the decoding are put back into the checkpoint in the package, with one draw of each sample. Those of the
training need networks of their own: three are trained alike and shortly but for the fault (as it should be; without
class input; clips filled up with a real code to 1,013 frames, 63% of them, as the reference work did). The test fold is
held out of the training and of the real clips that are compared with. A network that is in the work folder already is
not trained again.
"""

import csv
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import tyro
from measured_clips import figures, generate, in_words, measure, real_clips
from rich.console import Console

from jobs.inputs.checkpoints import checkpoint_files, open_checkpoint
from jobs.inputs.codecs import choose_codec
from jobs.inputs.datasets import DatasetOptions
from jobs.inputs.tokens import Tokens, open_tokens
from jobs.training.generator_trainer import TrainingRun
from soundstorm.classification.cnn import load_classifier
from soundstorm.model.config import SamplerSettings, TrainingConfig
from soundstorm.model.presets import preset
from soundstorm.model.soundstorm import SoundStorm

FILLED_FRAMES = 1013
"""375 frames are 37% of it."""


@dataclass(kw_only=True)
class Options(DatasetOptions):
    """Train, generate with each fault, and measure."""

    tokens: str
    """Output of `tokenize`."""
    output: Path
    """CSV file to write."""
    checkpoint: str | None = None
    """Decoded in other ways; default: the one in the package."""
    work_dir: Path
    """Folder for the trained networks."""
    preset: str = "small"
    """Network and training."""
    epochs: int = 10
    """Passes over the clips, of each training."""
    test_fold: int = 5
    """Held out."""
    per_class: int = 5
    """Clips of each class to generate for a line."""
    real_per_class: int = 32
    """Real clips of each class to compare with."""
    threads: int = 2
    """CPU threads."""


@dataclass(frozen=True)
class Line:
    """One line of the table."""

    name: str
    model: SoundStorm
    sampler: SamplerSettings
    with_class: bool = True
    model_frames: int = 0


def trained(options: Options, tokens: Tokens, name: str, **changes: object) -> tuple[SoundStorm, SoundStorm]:
    """The averaged network and the one without averaging."""
    base = preset(options.preset)
    config: TrainingConfig = replace(base.training, epochs=options.epochs, **changes)  # type: ignore[arg-type]
    architecture = replace(
        base.model,
        num_classes=len(tokens.categories),
        num_levels=tokens.fingerprint.num_levels,
        codebook_size=tokens.fingerprint.codebook_size,
    )
    training, validation = tokens.split()
    run = TrainingRun(architecture, config, training, validation, device=torch.device("cpu"))
    path = options.work_dir / f"{name}.pt"
    if path.exists():
        run.load_state_dict(torch.load(path, weights_only=True))
    while not run.is_finished:
        run.run_epoch()
        torch.save(run.state_dict(), path)
    return run.averaged(), run.network.eval()


def main() -> None:
    """Train what is missing, then measure every line."""
    options, console = tyro.cli(Options), Console()
    torch.set_num_threads(options.threads)
    options.work_dir.mkdir(parents=True, exist_ok=True)
    tokens = open_tokens(options.tokens, options.test_fold)
    _, codec = choose_codec(None, tokens.fingerprint, options.tokens)
    classifier = load_classifier()
    real = real_clips(options.dataset, options.location, options.test_fold, options.real_per_class, classifier)
    checkpoint = open_checkpoint(checkpoint_files(options.checkpoint))
    tokens.fingerprint.require_equal(checkpoint.fingerprint, options.tokens)
    averaged, last = trained(options, tokens, "base")
    no_class, _ = trained(options, tokens, "no-class", class_dropout=1.0)
    filled, _ = trained(options, tokens, "filled", filled_frames=FILLED_FRAMES)
    sampler = replace(checkpoint.sampler, candidates=1)
    lines = [
        Line("the checkpoint", checkpoint.model, checkpoint.sampler),
        Line("one draw of each sample", checkpoint.model, sampler),
        Line("level 0 in a single pass", checkpoint.model, replace(sampler, iterations=1)),
        Line("temperature not annealed", checkpoint.model, replace(sampler, final_temperature=sampler.temperature)),
        Line("frames ranked by confidence", checkpoint.model, replace(sampler, order="confidence")),
        Line(f"{options.epochs} epochs of training", averaged, sampler),
        Line("  no average of the weights", last, sampler),
        Line("  no class input", no_class, sampler, with_class=False),
        Line("  filled up with a real code", filled, sampler, model_frames=FILLED_FRAMES),
    ]
    with options.output.open("w", newline="") as file:
        writer = None
        for line in lines:
            pcms, labels, seconds = generate(
                line.model,
                codec,
                checkpoint.categories if line.model is checkpoint.model else tokens.categories,
                line.sampler,
                per_class=options.per_class,
                duration_s=5.0,
                seed=1,
                with_class=line.with_class,
                model_frames=line.model_frames,
            )
            found = figures(real, measure(pcms, labels, classifier))
            row = {"line": line.name.strip(), "clips": len(pcms)} | {
                key: f"{value:.3f}" for key, value in found.items()
            }
            writer = writer or csv.DictWriter(file, list(row))
            if not file.tell():
                writer.writeheader()
            writer.writerow(row)
            file.flush()
            console.print(
                f"{line.name:32}", in_words(found), f"| {seconds:.0f} s", markup=False, highlight=False, soft_wrap=True
            )


if __name__ == "__main__":
    main()
