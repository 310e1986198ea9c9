"""Both orders of generation as one type: creating the network of a config, and initializing a network from another one,
also with different classes."""

from collections.abc import Sequence

from torch import Tensor

from soundstorm.data.categories import normalized
from soundstorm.model.config import ModelConfig
from soundstorm.model.place_network import PlaceNetwork
from soundstorm.model.soundstorm import SoundStorm

GeneratorNetwork = SoundStorm | PlaceNetwork
CLASS_EMBEDDING = "class_embedding.weight"


def make_generator(config: ModelConfig) -> GeneratorNetwork:
    """The network for `config.order`, with random weights."""
    return PlaceNetwork(config) if config.order == "places" else SoundStorm(config)


def weights_for_categories(
    model: GeneratorNetwork, categories: Sequence[str], new_categories: Sequence[str]
) -> dict[str, Tensor]:
    """Weights of `model` for a network with other classes and otherwise the same architecture.

    A class of the same name, ignoring spelling, keeps its embedding whatever its label; a new class is initialized with
    that of "no class".

    Args:
        model: trained on `categories`.
        categories: name of each of its classes, by label.
        new_categories: name of each class of the new network, by label.
    """
    weights = {name: value.detach().clone() for name, value in model.state_dict().items()}
    embedding_CD = weights[CLASS_EMBEDDING]
    known = {normalized(category): label for label, category in enumerate(categories)}
    exactly = {category: label for label, category in enumerate(categories)}
    rows = [exactly.get(category, known.get(normalized(category), model.no_class)) for category in new_categories] + [
        model.no_class
    ]
    weights[CLASS_EMBEDDING] = embedding_CD[rows]
    return weights
