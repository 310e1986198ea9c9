"""SoundStorm for environmental sound: audio, codec, model, decoding, metrics and report, in plain PyTorch and NumPy.

Reading order: `schemas`, `codec`, `model`, `masking`, `training`, `decoding`, `metrics`, `report`.
"""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("soundstorm-env")
except PackageNotFoundError:  # a checkout that is on the path but not installed, as on a Ray worker
    __version__ = "0+checkout"
