"""Runs in place of Ray's `setup_worker.py`, which raylets start for a worker with a runtime environment: sets the
worker's variables and becomes the client that has the worker forked. Importing Ray for that would take most of a second
of a core.

An environment of more than variables is left to Ray's own.
"""

import argparse
import json
import os
import runpy
import sys
from pathlib import Path

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--serialized-runtime-env-context", default="{}")
    parser.add_argument("--language")
    own, others = parser.parse_known_args()
    asked = json.loads(own.serialized_runtime_env_context)
    variables = asked.pop("env_vars", {})
    python = asked.pop("py_executable", sys.executable)
    if any(asked.values()) or python != sys.executable or any("$" in value for value in variables.values()):
        worker = json.loads(os.environ["SOUNDSTORM_TESTS_FORK_SERVER"])["worker"]
        os.execv(sys.executable, [sys.executable, str(Path(worker).with_name("setup_worker.py")), *sys.argv[1:]])
    os.environ.update(variables)
    sys.argv = others
    runpy.run_path(others[0], run_name="__main__")
