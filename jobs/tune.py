"""`python -m jobs.tune training|decoding|joint ...`, for `ray job submit`: the same as `soundstorm tune ...`.

The studies are a floor above; they are reached by name, as every command is by the console script.
"""

import sys

from jobs.cli import main

if __name__ == "__main__":
    main(["tune", *sys.argv[1:]])
