"""SoundStorm for environmental sound: audio, codec, model, decoding, metrics and report, in plain PyTorch and NumPy.

Reading order: `schemas`, then the rooms, each of which imports only those before it: `serialization`, `optimization`
and `audio`, `data`, `codec`, `model`, `training` and `generation`, `classification` and `evaluation`, `reports`.
"""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("soundstorm-env")
except PackageNotFoundError:  # a checkout that is on the path but not installed, as on a Ray worker
    __version__ = "0+checkout"
