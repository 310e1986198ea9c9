"""Pages of the site that are made from what is elsewhere in the checkout: the README as home, the model cards, the
pages about contributing, and the command reference from the commands themselves.

mkdocs calls the functions whose names begin with `on_`.
"""

import contextlib
import io
import os
import posixpath
import re
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pyarrow
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
WEIGHTS = "soundstorm/weights"
MADE_FROM = {
    "index.md": "README.md",
    "contributing.md": "CONTRIBUTING.md",
    "security.md": "SECURITY.md",
    "changelog.md": "CHANGELOG.md",
}
"""Page of the site -> file of the checkout."""
HELP_COLUMNS = "80"
_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)#\s]*)(#[^)\s]*)?\)")


def made_from() -> dict[str, str]:
    """MADE_FROM and a page for each model card."""
    cards = sorted(path.relative_to(ROOT / WEIGHTS).as_posix() for path in (ROOT / WEIGHTS).rglob("*.md"))
    return MADE_FROM | {f"cards/{card}": f"{WEIGHTS}/{card}" for card in cards}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made here."""
    for page, source in made_from().items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text()))
    files.append(File.generated(config, "commands.md", content=command_reference()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links lead to where their file is on the site; a link to a file that is not on it becomes its text."""
    for name, table in {"schemas": schemas, "measures": measures}.items():
        markdown = re.sub(rf"<!-- {name}: .*? -->", lambda _, table=table: table(), markdown)
    source = made_from().get(page.file.src_uri, f"docs/{page.file.src_uri}")
    pages = {file: name for name, file in made_from().items()}

    def on_site(match: re.Match[str]) -> str:
        sign, text, target, anchor = match[1], match[2], match[3], match[4] or ""
        if not target or "://" in target or target.startswith("mailto:"):
            return match[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        if not (ROOT / path).exists():
            return match[0]  # mkdocs says that it is broken
        here = pages.get(path) or (path.removeprefix("docs/") if path.startswith("docs/") else None)
        if here is None or files.get_file_from_path(here) is None:
            return text
        return f"{sign}[{text}]({posixpath.relpath(here, posixpath.dirname(page.file.src_uri) or '.')}{anchor})"

    return _LINK.sub(on_site, markdown)


def schemas() -> str:
    """The columns of every table."""
    module = _project("soundstorm.schemas")
    lines = ["## Columns", "", "| table | columns |", "|---|---|"]
    for name, value in vars(module).items():
        if isinstance(value, pyarrow.Schema):
            columns = ", ".join(f"`{field.name}` {field.type}{' or null' * field.nullable}" for field in value)
            lines.append(f"| `{name.lower()}` | {columns.replace('<', '&lt;')} |")
    return "\n".join(lines)


def measures() -> str:
    """Each measure of closeness with what stands beside it and its bar."""
    lines = ["| measure | says | beside it | bar |", "|---|---|---|---|"]
    for info in _project("soundstorm.evaluation.metric_info").MEASURES:
        unit = f" ({info.unit})" if info.unit else ""
        lines.append(f"| {info.title}{unit} | {info.meaning} | {info.floor} | {info.bar} |")
    return "\n".join(lines)


def _project(module: str) -> ModuleType:
    """A module of this checkout."""
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    return import_module(module)


def command_reference() -> str:
    """A page with what `--help` of each command prints."""
    os.environ["COLUMNS"], os.environ["NO_COLOR"] = HELP_COLUMNS, "1"
    commands = _project("jobs.cli").COMMANDS
    parts = [
        "# Commands\n\nWhat `soundstorm COMMAND --help` prints, made when this site was built. Every path option takes "
        "a local path or `s3://bucket/prefix`; underscores in names are as good as hyphens."
    ]
    for name, (module, purpose) in commands.items():
        parts.append(f"## {name}\n\n{purpose[0].upper()}{purpose[1:]}.\n\n```text\n{help_of(name, module)}\n```")
    return "\n\n".join(parts) + "\n"


def help_of(name: str, module: str) -> str:
    """What `soundstorm NAME --help` prints."""
    run_command, options = _project("jobs.console.command").run_command, _project(module)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        run_command(options.Options, options.run, ["--help"], f"soundstorm {name}")
    text = printed.getvalue().strip()
    if "usage:" not in text:
        raise RuntimeError(f"`soundstorm {name} --help` printed no usage: {text[:200]!r}")
    return text
