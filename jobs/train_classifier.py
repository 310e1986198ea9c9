"""Train a classifier of recordings, with Ray Train, and report its accuracy on the test fold.

The parts that differ between the kinds of classifier are the recipes in `jobs.classification`. An interrupted run
resumes exactly.
"""

import tempfile
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

from cluster import storage
from cluster.errors import ClusterError
from cluster.runtime.connect import ClusterInfo, connect
from cluster.scheduling.sole_process import sole_process
from cluster.tables import stage_record as records
from jobs.caching.result_cache import cache_folder
from jobs.classification.ast_model import AstRecipe
from jobs.classification.cnn import CnnRecipe
from jobs.classification.code_classifier import TokenRecipe, open_token_inputs
from jobs.classification.predictions import (
    PREDICTIONS_FILE,
    clips_of_classes,
    count_correct,
    predict_clips,
    write_predictions,
)
from jobs.classification.recipe import ClassifierRun, Recipe, load_state
from jobs.console.command import console, exit_process, print_note, run_command
from jobs.console.options import CacheOptions, Count, RestartOptions, TrainingOptions
from jobs.console.progress import duration
from jobs.console.resume import Stage, run_once
from jobs.inputs.classifiers import CLASSIFIER_FILE, CODEC_FILE, open_classifier_files
from jobs.inputs.datasets import (
    DatasetOptions,
    folds_record,
    last_fold,
    only_listed,
    open_and_report,
)
from jobs.inputs.leakage import distrust
from jobs.inputs.recordings import RecordingSeconds
from jobs.training.clips_per_step import batch_of_worker
from jobs.training.fit import fit, train_on_worker
from jobs.training.ray_trainer import RUN_FOLDER, STOPPED, TrainingStoppedError, scaling_for
from jobs.training.training_log import TrainingLog
from soundstorm.classification.caveats import accuracy_caveats, with_caveats
from soundstorm.classification.training.ast_trainer import AstMode, AstTrainingConfig
from soundstorm.classification.training.cnn_trainer import AudioClassifierTrainingConfig
from soundstorm.classification.training.token_trainer import TRAINING_PRESETS, TokenClassifierTrainingConfig
from soundstorm.data.datasets import Index
from soundstorm.errors import SoundStormError

STAGE = "train_classifier"
Config = TypeVar("Config", AudioClassifierTrainingConfig, TokenClassifierTrainingConfig, AstTrainingConfig)


@dataclass(kw_only=True)
class Options(DatasetOptions, TrainingOptions, RestartOptions, CacheOptions):
    """Train a classifier of recordings, with Ray Train."""

    output_dir: str = "runs/classifier"
    """Folder for the classifier, its predictions and its log, path or s3:// URI."""
    model: Literal["cnn", "soundstorm", "ast"] = "cnn"
    """Kind of classifier: cnn: a small convolutional network on log-mel spectrograms; soundstorm: the generator's
    network on codes; ast: the Audio Spectrogram Transformer (needs the extra `ast`)."""
    mode: Literal["fine-tuned", "frozen", "codec", "scratch"] | None = None
    """How soundstorm or ast is initialized. fine-tuned (the default): from trained weights; frozen: the same, but only
    the last layers are trained; scratch: from random weights; codec (soundstorm only): from random weights, with the
    codebook embeddings of the codec. The cnn is always trained from scratch."""
    clips: str | None = None
    """Text file, path or URI, with one clip id or file name per line: cnn and ast use only these. Default: all."""
    tokens: str | None = None
    """Output folder of `tokenize`, path or URI, for soundstorm. It replaces --dataset and --data-dir: the recordings
    are read from where they were tokenized."""
    checkpoint: str | None = None
    """Generator that initializes soundstorm: the --output-dir of `train` or its checkpoint, path or URI; default: the
    one in the package."""
    codec: str | None = None
    """Weights of the codec of --tokens, path or URI; default: the one in the package or official EnCodec, whichever
    encoded the tokens."""
    teacher: str | None = None
    """Teacher for distillation: a classifier of `train-classifier --model cnn` with the same --fold, path or URI.
    soundstorm learns its predictions beside the labels."""
    weights: str | None = None
    """Folder of the weights that initialize ast, path or URI; default: the published ones. The config.json of others
    must state what they were trained on: see docs/provenance.md."""
    preset: str | None = None
    """Training settings: ours (the default) or, for soundstorm, published (those of the published system)."""
    fold: int | None = None
    """Test fold: held out of training and evaluated; default: the last that has clips."""
    max_duration: RecordingSeconds = 30.0
    """Seconds of a recording that are used."""
    test_views: Count = 1
    """Test-time augmentation: number of views of each test recording whose probabilities are averaged, the original and
    views with another start, speed, pitch and loudness."""
    checkpoint_every: Count = 10
    """Epochs between checkpoints and between updates of the log."""
    allow_leak: bool = False
    """Train although the codec, generator, teacher or --weights was, or may have been, trained on the test fold. The
    accuracy is then not to be trusted; the record says so."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.model == "cnn" and self.mode not in (None, "scratch"):
            raise SoundStormError(f"--mode is {self.mode}: the cnn is always trained from scratch; leave it out")
        if self.model == "ast" and self.mode == "codec":
            raise SoundStormError("--mode is codec: ast does not work on codes; give fine-tuned, frozen or scratch")
        if self.preset not in (None, "ours", *(TRAINING_PRESETS if self.model == "soundstorm" else ())):
            raise SoundStormError(
                f"--preset is '{self.preset}': give "
                f"{' or '.join(TRAINING_PRESETS) if self.model == 'soundstorm' else 'ours'} for {self.model}"
            )
        if (self.model == "soundstorm") != (self.tokens is not None):
            remedy = (
                "give the --output-dir of `soundstorm tokenize`"
                if self.tokens is None
                else "only --model soundstorm works on tokens; leave it out"
            )
            raise SoundStormError(f"--tokens is {self.tokens} for --model {self.model}: {remedy}")
        for option, model in (
            ("checkpoint", "soundstorm"),
            ("codec", "soundstorm"),
            ("teacher", "soundstorm"),
            ("weights", "ast"),
            ("cache_dir", "soundstorm"),
        ):
            if getattr(self, option) is not None and self.model != model:
                raise SoundStormError(
                    f"--{option.replace('_', '-')} is {getattr(self, option)}: only --model {model} uses it; leave it "
                    f"out for {self.model}"
                )
        if self.model == "soundstorm" and (self.strict_folds or self.clips is not None):
            option = "--strict-folds" if self.strict_folds else "--clips"
            raise SoundStormError(
                f"{option} with --tokens: `tokenize` decides which clips are used; give the option to `tokenize`"
            )
        if self.model == "soundstorm" and self.batch_size == 1:
            raise SoundStormError("--batch-size is 1: soundstorm uses batch normalization; give at least 2")

    def changed(self, config: Config) -> Config:
        """`config`, overridden by single options."""
        return replace(config, **self.given)


def run(options: Options) -> dict[str, Any]:
    """Train the classifier, or resume an interrupted run; returns its accuracy on the test fold."""
    index = None if options.model == "soundstorm" else only_listed(open_and_report(options), options.clips)
    recipe = _recipe(options, index)
    settings = {
        "dataset": recipe.dataset,
        "fold": recipe.fold,
        "model": options.model,
        "max_duration_s": options.max_duration,
        "num_workers": options.num_workers,
        "test_views": options.test_views,
        "leaks": recipe.leaks,
    } | recipe.settings
    storage.check_writable(options.output_dir)
    outputs = (CLASSIFIER_FILE, CODEC_FILE, PREDICTIONS_FILE, "log.csv", "tensorboard", RUN_FOLDER)
    stage = Stage(
        STAGE,
        options,
        settings,
        outputs,
        free=("num_workers",),
        required=(CLASSIFIER_FILE, PREDICTIONS_FILE, *recipe.files()),
        temporary=(RUN_FOLDER,),
    )

    def work() -> dict[str, Any]:
        with connect(options.address, await_gpu=options.device != "cpu") as info:
            return _train(options, recipe, info) | ({} if index is None else folds_record(index, options))

    with sole_process(options.output_dir, STAGE):
        if options.overwrite or records.read(options.output_dir, STAGE) is None:
            recipe.open_weights()  # what is wrong with them is told before anything is overwritten
        return run_once(stage, work, partial(_summary, options), done="already trained, nothing to do; ")


def _recipe(options: Options, index: Index | None) -> Recipe:
    """The recipe: what is trained and how. Without an index, it trains on tokens."""
    if index is None:
        assert options.tokens is not None  # as `Options` checked
        mode, config = options.mode or "fine-tuned", options.changed(TRAINING_PRESETS[options.preset or "ours"])
        chosen: dict[str, Any] = {
            name: getattr(options, name) for name in ("checkpoint", "codec", "teacher", "allow_leak")
        }
        inputs = open_token_inputs(options.tokens, options.fold, mode, **chosen)
        return TokenRecipe(inputs, config, options.max_duration, cache_of(options))
    fold = last_fold(index.clips) if options.fold is None else options.fold
    if not 1 <= fold <= index.num_folds:
        raise SoundStormError(f"--fold is {fold}: the dataset has folds 1 to {index.num_folds}")
    shared: dict[str, Any] = {"dataset": options.dataset, "location": storage.absolute(options.location), "fold": fold}
    shared["max_duration_s"] = options.max_duration
    if options.model == "ast":
        ast = AstTrainingConfig(mode=cast(AstMode, options.mode or "fine-tuned"))
        return AstRecipe(
            index, config=options.changed(ast), weights=options.weights, allow_leak=options.allow_leak, **shared
        )
    return CnnRecipe(index, config=options.changed(AudioClassifierTrainingConfig()), **shared)


def cache_of(options: Options) -> str | None:
    """Folder of the cached variations; None if the cache is off, or the default folder cannot be written to."""
    folder = cache_folder("variations", options.cache, options.cache_dir)
    if folder is not None:
        try:
            storage.check_writable(folder)
        except ClusterError as error:
            if options.cache_dir is not None:
                raise
            print_note(f"variations of recordings are not cached: {error}")
            return None
    return folder


def _train(options: Options, recipe: Recipe, info: ClusterInfo) -> dict[str, Any]:
    scaling = scaling_for(options.num_workers, options.device, info)
    recipe.config = replace(
        recipe.config, batch_size=batch_of_worker(options.output_dir, recipe.config.batch_size, scaling.num_workers)
    )
    datasets, usable = recipe.data()
    console.print(
        f"train-classifier: {usable} recordings of {len(recipe.categories)} categories, {recipe.describe()}; {scaling}"
    )
    try:
        rows, checkpoint = fit(
            partial(
                train_on_worker,
                partial(ClassifierRun, recipe.for_workers()),
                cpus=scaling.cpus_per_worker,
                checkpoint_every=options.checkpoint_every,
                report_every=options.checkpoint_every,
            ),
            datasets,
            TrainingLog(options.output_dir, "epoch", STAGE, usable),
            scaling=scaling,
            max_failures=options.max_failures,
            epochs=recipe.config.epochs,
            figures="loss {loss:.3f}  accuracy {accuracy:.3f}",
            recent=20,
        )
    except TrainingStoppedError as stopped:
        raise SoundStormError(f"{STOPPED}{stopped}. Start again with --overwrite") from stopped
    with tempfile.TemporaryDirectory(prefix="soundstorm-classifier-") as scratch:
        state = load_state(Path(checkpoint.to_directory(scratch)))
        path, files = Path(scratch) / CLASSIFIER_FILE, recipe.files()
        recipe.save(path, state["trainer"], None)
        classifier = open_classifier_files(files | {CLASSIFIER_FILE: path.read_bytes()})
        predictions = predict_clips(classifier, recipe.test_clips(), options.max_duration, options.test_views)
        test = count_correct(predictions, recipe.categories)
        recordings = datasets["recordings"].select_columns(["label", "reason"]).iter_rows()
        trained = clips_of_classes((row["label"] for row in recordings if not row["reason"]), recipe.categories)
        tested = clips_of_classes(predictions["label"].to_pylist(), recipe.categories)
        caveats = accuracy_caveats(recipe.categories, test["right"], tested, trained)
        write_predictions(
            storage.join(options.output_dir, PREDICTIONS_FILE), predictions, recipe.categories, recipe.dataset
        )
        recipe.save(path, state["trainer"], test["accuracy"])
        for name, data in files.items():
            storage.write_bytes(storage.join(options.output_dir, name), data)
        storage.write_file(storage.join(options.output_dir, CLASSIFIER_FILE), path)
    return {
        "epochs": recipe.config.epochs,
        "recordings": usable,
        "fold": recipe.fold,
        "loss": rows[-1]["loss"],
        "seconds": sum(row["seconds"] for row in rows),
        "num_workers": scaling.num_workers,
        "leaks": recipe.leaks,
        "network": recipe.settings["network"],
        "test": test,
        "caveats": caveats,
    }


def _summary(options: Options, counts: dict[str, Any], prefix: str) -> dict[str, Any]:
    where, test = storage.join(options.output_dir, CLASSIFIER_FILE), counts["test"]
    correct = f"{test['right']} of {test['clips']} recordings of fold {counts['fold']} correct"
    shown = with_caveats(f"{correct} ({test['accuracy'] or 0:.1%})", counts.get("caveats", []))
    figures = "" if test["accuracy"] is None else f"; {shown}{distrust(counts['leaks'])}"
    trained = f"{counts['epochs']} epochs of {counts['recordings']} recordings in {duration(counts['seconds'])}"
    return {
        "message": f"{prefix}{where}: {trained}{figures}",
        "output_dir": options.output_dir,
        "classifier": where,
        **counts,
    }


if __name__ == "__main__":
    exit_process(run_command(Options, run))
