"""The two orders of generation as one type, and which network a config asks for."""

from soundstorm.model.place_network import PlaceNetwork
from soundstorm.model.presets import ModelConfig
from soundstorm.model.soundstorm import SoundStorm

GeneratorNetwork = SoundStorm | PlaceNetwork


def make_generator(config: ModelConfig) -> GeneratorNetwork:
    """The network of `config`, with random weights: `order` says which."""
    return PlaceNetwork(config) if config.order == "places" else SoundStorm(config)
