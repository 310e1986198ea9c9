"""What people read is true: every command is one that the command line takes, every file is there, every example in
Python runs."""

import io
import re
import shlex
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest
import soundfile
import tyro

from jobs.cli import COMMANDS
from soundstorm.audio.files import encode_audio
from soundstorm.audio.synthesis import synthesize
from soundstorm.errors import SoundStormError

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
PAGES = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "soundstorm" / "weights").rglob("*.md")],
    key=lambda path: path.relative_to(ROOT).as_posix(),
)
MAX_LINES, MAX_COLUMNS = 200, 120
PLACEHOLDER = re.compile(r"\b(NAME|COMMAND|ID)\b|\.\.\.")
LONG_OPTION = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`([^`\n]+)`")
OF_RAY = {"--runtime-env-json"}
EARLIER = {"--polish-steps", "--mel-bands", "--listener"}
"""Of `train-codec` in earlier versions, which the changelog tells of."""
MODULE = re.compile(r"python -m jobs\.\w+(?![\w.])")


def blocks(page: Path, *languages: str) -> Iterator[str]:
    """Contents of the code blocks of a page in one of `languages`."""
    yield from (body for language, body in FENCE.findall(page.read_text()) if language in languages)


def lines(page: Path) -> Iterator[str]:
    """Lines of a page's shell blocks, and what stands in code between words."""
    for body in blocks(page, "", "bash", "sh"):
        yield from (re.split(r"\s#\s", line)[0].strip() for line in body.splitlines())
    yield from INLINE.findall(FENCE.sub("", page.read_text()))


def commands() -> list[str]:
    """Every command line of this project's own that a page has, without those whose words stand for others."""
    found = set()
    for page in PAGES:
        for line in lines(page):
            if "-- python -m jobs." in line:
                line = line[line.index("-- python -m jobs.") + 3 :]
            is_ours = line.startswith(("soundstorm ", "make ")) or MODULE.match(line)
            if is_ours and not PLACEHOLDER.search(line):
                found.add(line)
    return sorted(found)


def split(line: str) -> tuple[str, list[str]]:
    """Name of the command in COMMANDS, and its arguments."""
    words = shlex.split(line)
    if words[0] == "python":
        words = ["soundstorm", words[2].removeprefix("jobs.").replace("_", "-"), *words[3:]]
    for count in (2, 1):
        if (name := " ".join(words[1 : 1 + count])) in COMMANDS:
            return name, words[1 + count :]
    raise AssertionError(f"there is no command '{' '.join(words[1:3])}'")


@cache
def options_of(name: str) -> frozenset[str]:
    """Long options of a command, as its help has them."""
    printed = io.StringIO()
    with redirect_stdout(printed), pytest.raises(SystemExit):
        tyro.cli(import_module(COMMANDS[name][0]).Options, args=["--help"])
    return frozenset(LONG_OPTION.findall(printed.getvalue()))


@pytest.mark.parametrize("line", commands())
def test_a_command_in_the_documentation_is_one_that_the_command_line_takes(line: str) -> None:
    if line.startswith("make "):
        [target] = [word for word in shlex.split(line)[1:] if "=" not in word]
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE), target
        return
    name, arguments = split(line)
    if not arguments:
        return  # the command as such is named
    said = io.StringIO()
    try:
        with redirect_stderr(said), redirect_stdout(said):
            tyro.cli(import_module(COMMANDS[name][0]).Options, args=arguments)
    except SystemExit as ended:
        assert "--help" in arguments and ended.code == 0, said.getvalue()
    except SoundStormError as error:
        pytest.fail(f"{line}: {error}")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_an_option_between_words_belongs_to_the_command_before_it_or_to_some_command(page: Path) -> None:
    every = frozenset().union(*(options_of(name) for name in COMMANDS))
    rooms = (ROOT / "tests" / "benchmarks", ROOT / "tests" / "chaos")
    scripts = " ".join(path.read_text() for room in rooms for path in room.rglob("*.py"))
    elsewhere = OF_RAY | (EARLIER if page.name == "CHANGELOG.md" else set())
    for code in INLINE.findall(FENCE.sub("", page.read_text())):
        known = next((options_of(name) for name in COMMANDS if code.startswith(f"{name} ")), None)
        if known is None and not code.startswith("--"):
            continue
        for option in LONG_OPTION.findall(code):
            of_a_script = known is None and (option in scripts or f"{option[2:].replace('-', '_')}:" in scripts)
            assert option in (known or every) | elsewhere or of_a_script, f"{code}: no such option"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_a_file_that_is_named_or_linked_is_there(page: Path) -> None:
    text = page.read_text()
    for target in re.findall(r"\]\(([^)#\s:]+)(?:#[^)]*)?\)", FENCE.sub("", text)):
        made = {"docs/commands.md", "commands.md"}  # as the site is built
        assert target in made or (page.parent / target).exists(), target
    for path in re.findall(r"(?<![\w/.])((?:soundstorm|cluster|jobs|tune|tests|docs)/[\w/.-]+\.\w+)", text):
        assert (ROOT / path).exists(), path
    for module in re.findall(r"python -m ([\w.]+)", text):
        assert module == "jobs.NAME" or module.endswith(".") or find_spec(module) is not None, module


def test_the_readme_is_read_in_one_go() -> None:
    text = README.read_text().splitlines()
    assert len(text) <= MAX_LINES
    assert [line for line in text if len(line) > MAX_COLUMNS] == []


def test_the_table_of_jobs_has_every_command() -> None:
    rows = re.findall(r"^\| `soundstorm ([^`]+)` \|", README.read_text(), re.MULTILINE)
    assert sorted(split(f"soundstorm {row}")[0] for row in rows) == sorted(COMMANDS)


def test_every_figure_of_the_headline_stands_in_the_measured_results() -> None:
    headline = README.read_text().split("## Headline results")[1].split("\n## ")[0]
    number = r"(?<![\w.-])\d+(?:\.\d+)?"
    measured = {float(found) for found in re.findall(r"\d+(?:\.\d+)?", (ROOT / "docs" / "results.md").read_text())}
    known = measured | {float(round(100 * value)) for value in measured if value < 1}
    figures = {float(found) for found in re.findall(number, re.sub(r"ESC-\d+", "", headline))}
    assert len(figures) > 8 and figures <= known, figures - known


def test_the_examples_in_python_run() -> None:
    [example] = blocks(README, "python")
    assert "round(5 *" in example
    names: dict[str, object] = {}
    exec(example.replace("round(5 *", "round(1 *"), names)
    waveform = names["waveform"]
    assert abs(len(waveform) - 24_000) < 1_280 and waveform.abs().max() > 0.001  # type: ignore[arg-type,attr-defined]
    [space] = blocks(ROOT / "docs" / "studies.md", "python")
    exec(space, names)
    assert set(names["SPACE"]) == {"lr", "schedule", "depth"}  # type: ignore[call-overload]


def test_the_example_of_editing_mends_a_recording(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dog.wav").write_bytes(encode_audio(synthesize("rain", 1, 2.5, 24_000), 24_000, "wav"))
    [example] = blocks(ROOT / "docs" / "editing.md", "python")
    few = example.replace("settings=checkpoint.sampler", "settings=replace(checkpoint.sampler, iterations=2)")
    exec(few, {"replace": replace})
    before, after = (soundfile.read(tmp_path / name, dtype="int16")[0] for name in ("dog.wav", "inpainted.wav"))
    assert (before[:28_800] == after[:28_800]).all() and (before[48_000:] == after[48_000:]).all()
    assert (before != after).mean() > 0.2
