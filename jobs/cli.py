"""The console script: `soundstorm COMMAND`, the same commands as `python -m jobs.COMMAND`.

The modules of the commands and their libraries are imported when a command is called: `--help` answers at once, and
this layer does not import the layer above it.
"""

import sys
from importlib import import_module

from soundstorm import __version__

COMMANDS = {
    "download": ("jobs.download", "fetch ESC-50 or UrbanSound8K, verify and unpack it"),
    "tokenize": ("jobs.tokenize", "turn recordings into codec tokens, with Ray Data"),
    "train-codec": ("jobs.train_codec", "fit a codec to recordings, in minutes"),
    "train": ("jobs.train", "train SoundStorm on tokens, with Ray Train"),
    "train-classifier": ("jobs.train_classifier", "train a classifier of recordings, with Ray Train"),
    "evaluate-classifier": ("jobs.evaluate_classifier", "test a classifier on recordings that it has not seen"),
    "classify": ("jobs.classify", "classify any audio files, with Ray actors"),
    "cross-validate": ("jobs.cross_validate", "test a classifier on every fold of a dataset, several at once"),
    "generate": ("jobs.generate", "generate sound from a checkpoint, with Ray actors"),
    "evaluate": ("jobs.evaluate", "compare generated with real sound, and write a report with players"),
    "tune training": ("tune.training_study", "search training settings, with Ray Tune: Optuna and ASHA"),
    "tune decoding": ("tune.decoding_study", "search decoding settings of a checkpoint: quality against cost"),
    "tune joint": ("tune.joint_study", "search both: training, then decoding of the best networks"),
    "export": ("jobs.sharing.export", "put a checkpoint, its codec and a model card in one folder, to share"),
    "serve": ("jobs.serving.serve", "sound on demand: an endpoint and a page, with Ray Serve"),
    "pipeline": ("jobs.pipeline", "run all steps from recordings to the report, restartable"),
    "doctor": ("jobs.doctor", "check what this machine and its cluster have and lack"),
}


def main(arguments: list[str] | None = None) -> None:
    """Entry point of the console script. Exit codes: 0, 1 (a problem, reported on standard error), 2 (wrong usage), 130
    (interrupted)."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        (sys.stdout if arguments else sys.stderr).write(_usage())
        sys.exit(0 if arguments else 2)
    if arguments[0] == "--version":
        sys.stdout.write(f"soundstorm {__version__}\n")
        sys.exit(0)
    from jobs.console.command import exit_process, run_command, show_every_character

    show_every_character()
    words = [word.replace("_", "-") for word in arguments[:2]]
    found = [(count, " ".join(words[:count])) for count in (2, 1)]
    count, name = next(((count, name) for count, name in found if name in COMMANDS), (0, ""))
    if not count:
        known = [name for name in COMMANDS if name.startswith(f"{words[0]} ")] or list(COMMANDS)
        sys.stderr.write(f"error: command '{words[0]}' does not exist: give one of {', '.join(known)}\n")
        sys.exit(2)
    module = import_module(COMMANDS[name][0])
    exit_process(run_command(module.Options, module.run, arguments[count:], f"soundstorm {name}"))


def _usage() -> str:
    width = max(map(len, COMMANDS)) + 2
    lines = [f"  {name:<{width}}{purpose}" for name, (_, purpose) in COMMANDS.items()]
    return "\n".join(["soundstorm COMMAND [--help]", *lines]) + "\n"


if __name__ == "__main__":
    main()
