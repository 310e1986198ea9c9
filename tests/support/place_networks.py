"""Small networks that decide all levels of a place at once."""

import torch

from soundstorm.codec.codec import Codec
from soundstorm.model.config import ModelConfig
from soundstorm.model.place_network import PlaceNetwork


def small_network(codec: Codec) -> PlaceNetwork:
    """A network with random weights and timbres, to which all codes are about as likely. It has two classes and the
    first four levels of the codec."""
    settings = {"width": 32, "depth": 1, "heads": 2, "kernel": 7, "ff_mult": 2, "head_width": 32, "head_depth": 1}
    torch.set_num_threads(1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = PlaceNetwork(
            ModelConfig(
                num_levels=4,
                codebook_size=1024,
                num_classes=2,
                order="places",
                centroids=True,
                centroid_dim=codec.network.codebooks.shape[2],
                timbre_dim=4,
                timbre_entries=2,
                **settings,
            )
        )
    model.centroids.take(codec.network.codebooks[:4])
    return model.eval()
