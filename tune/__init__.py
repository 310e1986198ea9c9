"""Studies: the search for the best settings of training and of decoding."""

import jobs  # noqa: F401  # what `python -m tune.NAME` says while it loads
