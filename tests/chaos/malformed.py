"""Many more broken files than the suite has time for: manifests, tables, checkpoints, settings, records, CSV files,
weights and recordings.

    python tests/chaos/malformed.py --examples 45 --seed 1

Every one of them must end in one message that names the file, or be usable; none may run code. Prints how many were
refused and used. Each of the 26 kinds of input has `--examples` broken versions, each of the 12 kinds of output that a
job goes on from a quarter as many. Half an hour is the limit of one kind.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 8 * 3600.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=45, help="broken versions of each kind of file")
    parser.add_argument("--seed", type=int, default=1, help="another seed, other versions")
    parser.add_argument("--kind", default="", help="only kinds whose name has this in it")
    options = parser.parse_args()
    drawn = {"SOUNDSTORM_MALFORMED_EXAMPLES": str(options.examples), "SOUNDSTORM_MALFORMED_SEED": str(options.seed)}
    files = ["tests/jobs/inputs/test_malformed.py", "tests/jobs/inputs/test_malformed_results.py"]
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-s",
        "--timeout",
        "1800",
        *files,
        "-k",
        f"broken and ({options.kind or 'a'})",
    ]
    return subprocess.run(command, cwd=ROOT, env=os.environ | drawn, timeout=LIMIT_S, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
