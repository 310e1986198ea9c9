"""Studies: which settings train best on the data at hand, and which decoding is worth its cost."""

import jobs  # noqa: F401  # what `python -m tune.NAME` says while it loads
