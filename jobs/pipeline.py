"""The whole pipeline from recordings to a report: tokenize, train, generate, evaluate, in order and restartable.

Each step writes a record of its settings in its own folder; finished steps are not repeated.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

from rich.markup import escape

from cluster import storage
from cluster.runtime.connect import connect
from jobs import evaluate, generate, tokenize, train
from jobs.console.command import console, exit_process, run_command
from jobs.console.options import OneOf
from jobs.inputs.datasets import DatasetOptions, check_not_inside_dataset, open_dataset
from jobs.inputs.synthetic_dataset import make_synthetic
from soundstorm.data.datasets import DATASETS
from soundstorm.model.presets import PRESETS, preset

CLIPS_PER_CLASS = 10
"""Clips per class of the synthetic dataset that the pipeline creates."""
SAMPLES_PER_CLASS = 2
"""Clips per class to generate, if --num-samples is not given."""


@dataclass(kw_only=True)
class Options(DatasetOptions):
    """Run every step from a dataset to a report."""

    dataset: Annotated[str, OneOf(DATASETS)] = "synthetic"
    """esc50, esc10, urbansound8k, folder or synthetic (created if --data-dir is not given)."""
    output_dir: str = "runs/pipeline"
    """Folder or s3:// prefix with a folder for each step."""
    preset: Annotated[str, OneOf(PRESETS)] = "draft"
    """Network and training settings, as in `train`; draft takes minutes, places an hour."""
    fold: int | None = None
    """Test fold: held out of training; default: the dataset's last."""
    views: int = 0
    """Number of augmented views of each clip to train on beside the original, as in `tokenize`; the checkpoint in the
    package was trained with 8."""
    epochs: int | None = None
    """Passes over the clips; default: the preset's."""
    num_workers: int | None = None
    """Number of training processes; default: one per GPU, or one."""
    num_samples: int | None = None
    """Clips to generate, all classes equally often; default: two per class."""
    duration: float = 5.0
    """Length of each generated clip in seconds."""
    clips_per_class: int = 10
    """Real clips per class to compare with."""
    seed: int = 0
    """Random seed of training, generation and the sample of real clips."""
    codec: str | None = None
    """Weights of the codec, as in `tokenize`."""
    max_rejected: float = 0.05
    """Fraction of clips that may be rejected before the job fails."""


def run(options: Options) -> dict[str, Any]:
    """Run the unfinished steps; returns the summary of the last."""
    check_not_inside_dataset(options.output_dir, options)
    storage.check_writable(options.output_dir)
    folders = {
        name: storage.join(options.output_dir, name)
        for name in ("dataset", "tokenize", "train", "generate", "evaluate")
    }
    location = _dataset(options, folders["dataset"])
    num_samples = (
        options.num_samples
        if options.num_samples is not None
        else SAMPLES_PER_CLASS
        * len(open_dataset(options.dataset, location, strict_folds=options.strict_folds).categories)
    )
    stages = _stages(options, folders, location, num_samples)
    with connect(options.address):
        for number, (name, stage) in enumerate(stages.items(), start=1):
            console.print(f"[bold]{number}/{len(stages)} {name}[/]")
            summary = stage()
            console.print(f"    {escape(summary['message'])}")
    return summary | {"output_dir": options.output_dir}


def _stages(
    options: Options, folders: dict[str, str], location: str, num_samples: int
) -> dict[str, Callable[[], dict[str, Any]]]:
    """The steps by name, in order; each is a job with its own folder. The recordings are in `location`."""
    shared: dict[str, Any] = {"overwrite": options.overwrite, "address": options.address}
    return {
        "tokenize": partial(
            tokenize.run,
            tokenize.Options(
                dataset=options.dataset,
                data_dir=location,
                output_dir=folders["tokenize"],
                codec=options.codec,
                views=options.views,
                strict_folds=options.strict_folds,
                max_rejected=options.max_rejected,
                **shared,
            ),
        ),
        "train": partial(
            train.run,
            train.Options(
                tokens=folders["tokenize"],
                output_dir=folders["train"],
                preset=options.preset,
                fold=options.fold,
                epochs=options.epochs,
                num_workers=options.num_workers,
                seed=options.seed,
                codec=options.codec if preset(options.preset).model.centroids else None,
                **shared,
            ),
        ),
        "generate": partial(
            generate.run,
            generate.Options(
                checkpoint=folders["train"],
                output_dir=folders["generate"],
                num_samples=num_samples,
                duration=options.duration,
                seed=options.seed,
                codec=options.codec,
                **shared,
            ),
        ),
        "evaluate": partial(
            evaluate.run,
            evaluate.Options(
                real_audio=folders["tokenize"],
                generated_audio=folders["generate"],
                output_dir=folders["evaluate"],
                clips_per_class=options.clips_per_class,
                held_out_fold=options.fold,
                seed=options.seed,
                codec=options.codec,
                max_rejected=options.max_rejected,
                training_log=storage.join(folders["train"], "log.csv"),
                **shared,
            ),
        ),
    }


def _dataset(options: Options, folder: str) -> str:
    """Folder of the recordings; creates the synthetic ones in `folder` if no other dataset is given."""
    if options.dataset != "synthetic" or options.data_dir is not None:
        return options.location
    return make_synthetic(folder, CLIPS_PER_CLASS, overwrite=options.overwrite)


if __name__ == "__main__":
    exit_process(run_command(Options, run))
