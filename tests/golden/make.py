"""Store the figures of this version as those that later versions are compared with: `python -m tests.golden.make`, when
they are meant to change."""

import os

os.environ["COLUMNS"] = "200"  # before anything asks how wide the terminal is

import json
import sys
from pathlib import Path

from tests.golden.figures import figures

STORED = Path(__file__).with_name("stored.json")


def main() -> None:
    """Write the file: one line for each kind of figure, and the codes of a clip on a line."""
    parts = [f"{json.dumps(name)}: {_lines(value)}" for name, value in figures().items()]
    STORED.write_text("{\n" + ",\n".join(parts) + "\n}\n")
    sys.stdout.write(f"written: {STORED}\n")


def _lines(value: object) -> str:
    if isinstance(value, list) and value and isinstance(value[0], list | dict):
        return "[\n" + ",\n".join(json.dumps(row, separators=(",", ":")) for row in value) + "\n]"
    return json.dumps(value, indent=1 if isinstance(value, dict) else None, ensure_ascii=False)


if __name__ == "__main__":
    main()
