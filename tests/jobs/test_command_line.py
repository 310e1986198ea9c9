"""The console script: help, spelling of options, exit codes, and errors told as one sentence."""

import ast
import inspect
import re
import resource
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from jobs import cli, evaluate, generate, pipeline, tokenize
from soundstorm import __version__
from tests.conftest import ROOT, S3Server, use_server
from tests.jobs.conftest import Command, assert_one_message

DOCUMENTED = (
    "dataset",
    "fold",
    "batch_size",
    "epochs",
    "lr",
    "checkpoint",
    "num_samples",
    "duration",
    "class",
    "real_audio",
    "generated_audio",
    "metrics",
)
"""Names that people know from the reference work; each is an option of some command."""


def soundstorm(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str
) -> tuple[int, str, str]:
    """What the console script does; returns exit code, standard output and standard error."""
    monkeypatch.setattr(sys, "argv", ["soundstorm", *arguments])
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as ended:
        cli.main()
    captured = capsys.readouterr()
    return int(ended.value.code or 0), captured.out, captured.err


def docstrings(options: type) -> dict[str, str]:
    """The text under each field of an options class, those it inherits included."""
    found: dict[str, str] = {}
    for parent in reversed(options.__mro__[:-1]):
        [definition] = ast.parse(inspect.getsource(parent)).body
        assert isinstance(definition, ast.ClassDef)
        for field, text in zip(definition.body, definition.body[1:], strict=False):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and "ClassVar" not in ast.unparse(field.annotation)
            ):
                is_text = (
                    isinstance(text, ast.Expr)
                    and isinstance(text.value, ast.Constant)
                    and isinstance(text.value.value, str)
                )
                found[field.target.id] = str(text.value.value) if is_text else ""  # type: ignore[attr-defined]
    return found


def letters(text: str) -> str:
    """Letters and digits alone: what is left of a text however it is wrapped and framed."""
    return re.sub(r"[\W_]+", "", text)


# ---- help


def test_the_script_lists_every_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, expected in (([], 2), (["--help"], 0), (["help"], 0)):
        code, out, err = soundstorm(monkeypatch, capsys, *arguments)
        shown, other = (out, err) if expected == 0 else (err, out)  # asked for, it is output; else a remark
        assert code == expected and not other
        assert all(f"{name} " in shown and purpose in shown for name, (_, purpose) in cli.COMMANDS.items())


def test_the_list_of_commands_loads_none_of_their_libraries() -> None:
    check = (
        "import sys; from jobs.cli import main\ntry: main(['--help'])\nfinally: "
        "assert not {'ray', 'torch', 'numpy', 'pyarrow', 'tyro', 'rich'} & sys.modules.keys()"
    )
    ended = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=False, timeout=120)
    assert (ended.returncode, ended.stderr) == (0, "") and "generate" in ended.stdout


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_option_of_a_command_is_in_its_help_with_its_text(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = soundstorm(monkeypatch, capsys, name, "--help")
    assert code == 0 and f"soundstorm {name}" in out
    options = import_module(cli.COMMANDS[name][0]).Options
    assert letters(options.__doc__) in letters(out)
    for field, text in docstrings(options).items():
        if field not in ("training", "network", "fitting"):  # groups of options
            assert text, f"{field} has no text under it"
            assert f"--{field.removesuffix('_name').replace('_', '-')}" in out or f"{field.upper()}_OR_URIS " in out
            assert letters(text) in letters(out)


def test_the_options_that_people_know_are_there() -> None:
    fields = {field for module, _ in cli.COMMANDS.values() for field in docstrings(import_module(module).Options)}
    assert set(DOCUMENTED) - {"class"} <= fields and "class_name" in fields


def test_the_version_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert soundstorm(monkeypatch, capsys, "--version") == (0, f"soundstorm {__version__}\n", "")


# ---- usage


def test_underscores_are_as_good_as_hyphens_in_options_and_commands(
    checkpoint: str,
    tmp_path: Path,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for spelling in ("--num_samples", "--num-samples"):
        result = command(generate, "--checkpoint", checkpoint, "--output_dir", str(tmp_path / "out"), spelling, "0")
        assert_one_message(result, "--num-samples is 0")
    assert soundstorm(monkeypatch, capsys, "train_codec", "--help")[0] == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ["compose"],
        ["[/red]"],
        ["generate", "--no-such-option"],
        ["evaluate"],
        ["evaluate", "--metrics", "loudness"],
        ["tokenize", "--max-rejected", "x"],
    ],
)
def test_wrong_usage_ends_with_exit_code_2_and_says_what_is_allowed(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = soundstorm(monkeypatch, capsys, *arguments)
    assert code == 2 and out == ""
    assert "Traceback" not in err
    text = " ".join(err.split())
    assert {"compose": "give one of download, tokenize", "[/red]": "command '[/red]'"}.get(
        arguments[0], arguments[-1]
    ) in text


@pytest.mark.parametrize("rest", [[], ["--help"], ["traning", "--tokens", "x"]])
def test_a_command_of_two_words_says_which_second_ones_there_are(
    rest: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = soundstorm(monkeypatch, capsys, "tune", *rest)
    assert (
        code == 2
        and "command 'tune' does not exist: give one of tune training, tune decoding, tune joint"
        in " ".join(err.split())
    )


def test_an_interruption_is_no_error_of_the_program(
    monkeypatch: pytest.MonkeyPatch, command: Command, tmp_path: Path
) -> None:
    def interrupt(uri: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("cluster.storage.check_writable", interrupt)
    code, out, err = command(tokenize, "--output-dir", str(tmp_path))
    assert code == 130 and out == ""
    assert "run the same command again" in " ".join(err.split())


def test_a_module_run_by_itself_tells_a_problem_as_one_sentence(tmp_path: Path) -> None:
    arguments = ["--checkpoint", str(tmp_path / "no[thing]"), "--output-dir", str(tmp_path / "out")]
    ended = subprocess.run(
        [sys.executable, "-m", "jobs.generate", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert_one_message(
        (ended.returncode, ended.stdout, ended.stderr), f"--checkpoint {tmp_path}/no[thing]: no config.json there"
    )


# ---- what cannot work


@pytest.mark.parametrize(
    ("module", "arguments", "parts"),
    [
        (tokenize, ["--dataset", "esc51"], ["--dataset is 'esc51': give one of esc50, esc10"]),
        (
            pipeline,
            ["--preset", "huge"],
            ["--preset is 'huge': give one of reference, small, faults, hearing, places, draft, tiny"],
        ),
        (
            tokenize,
            ["--dataset", "synthetic", "--data-dir", "/nowhere"],
            ["--data-dir /nowhere: there is nothing there"],
        ),
        (tokenize, ["--dataset", "esc50", "--data-dir", "/nowhere"], ["soundstorm download --dataset esc50"]),
        (evaluate, ["--real-audio", "ftp://host/x", "--generated-audio", "x"], ["'ftp:' is not supported"]),
    ],
)
def test_unknown_names_and_places_are_one_clear_message(
    module: Any, arguments: list[str], parts: list[str], tmp_path: Path, command: Command
) -> None:
    assert_one_message(command(module, *arguments, "--output-dir", str(tmp_path / "out")), *parts)
    assert finished(tmp_path / "out") == []


def finished(output: Path) -> list[str]:
    """What looks like the result of a job."""
    return [path.name for path in output.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("table", "parts"),
    [
        (None, ["meta/esc50.csv is missing"]),
        ("filename,fold,target\nx.wav,1,0\n", ["column 'category' is missing; it has filename, fold, target"]),
        ("filename,fold,target,category\n", ["no rows"]),
        ("filename,fold,target,category\nx.wav,1,0,clock\n", ["no clip that can be used", "1 missing_file"]),
        ("filename,fold,target,category\n\x00\xff", ["meta/esc50.csv"]),
    ],
)
def test_a_dataset_without_table_column_or_clip_is_one_clear_message(
    table: str | None, parts: list[str], tmp_path: Path, command: Command
) -> None:
    data, output = tmp_path / "data", tmp_path / "out"
    (data / "audio").mkdir(parents=True)
    (data / "meta").mkdir()
    if table is not None:
        (data / "meta" / "esc50.csv").write_bytes(table.encode("latin-1"))
    result = command(tokenize, "--dataset", "synthetic", "--data-dir", str(data), "--output-dir", str(output))
    assert_one_message(result, *parts)
    assert finished(output) == []


def commands_with_output(dataset: Path, checkpoint: str, codec: Path) -> Iterator[tuple[Any, list[str]]]:
    """A command line of each job that could run, but for its --output-dir."""
    yield tokenize, ["--dataset", "synthetic", "--data-dir", str(dataset), "--codec", str(codec)]
    yield generate, ["--checkpoint", checkpoint]
    yield evaluate, ["--real-audio", str(dataset), "--generated-audio", str(dataset), "--codec", str(codec)]
    yield pipeline, ["--dataset", "synthetic", "--data-dir", str(dataset), "--codec", str(codec)]


def test_a_missing_bucket_is_one_clear_message(
    synthetic_dataset: Path, checkpoint: str, tiny_codec: Path, s3: Any, command: Command
) -> None:
    for module, arguments in commands_with_output(synthetic_dataset, checkpoint, tiny_codec):
        result = command(module, *arguments, "--output-dir", "s3://no-such-bucket-here/prefix")
        assert_one_message(result, "there is no bucket 'no-such-bucket-here'", "create it first")
    result = command(tokenize, "--dataset", "synthetic", "--data-dir", "s3://no-such-bucket-here/prefix")
    assert_one_message(result, "there is no bucket 'no-such-bucket-here'")


def test_wrong_credentials_are_one_clear_message_without_the_secret(
    synthetic_dataset: Path,
    checkpoint: str,
    tiny_codec: Path,
    rclone_s3: S3Server,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    use_server(monkeypatch, rclone_s3)
    bucket = rclone_s3.make_bucket()
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-the-right-secret")
    for module, arguments in commands_with_output(synthetic_dataset, checkpoint, tiny_codec):
        result = command(module, *arguments, "--output-dir", f"{bucket}/prefix")
        assert_one_message(result, "credentials", "AWS_SECRET_ACCESS_KEY")
        assert "not-the-right-secret" not in result[2]


def test_a_place_that_cannot_be_written_is_one_clear_message(
    synthetic_dataset: Path, checkpoint: str, tiny_codec: Path, tmp_path: Path, command: Command
) -> None:
    (tmp_path / "file").write_text("no folder")
    for module, arguments in commands_with_output(synthetic_dataset, checkpoint, tiny_codec):
        result = command(module, *arguments, "--output-dir", str(tmp_path / "file" / "out"))
        assert_one_message(result, "exists and is a file, not a folder", str(tmp_path / "file" / "out"))


@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="the limit on the size of files acts like a full disk on Linux"
)
def test_a_full_disk_is_one_clear_message_and_leaves_nothing(
    synthetic_dataset: Path, checkpoint: str, tiny_codec: Path, tmp_path: Path, command: Command
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for module, arguments in commands_with_output(synthetic_dataset, checkpoint, tiny_codec):
        resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, hard))
        try:
            result = command(module, *arguments, "--output-dir", str(tmp_path / "out"))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert_one_message(result, "the disk is full", str(tmp_path / "out"))
        assert finished(tmp_path / "out") == []
