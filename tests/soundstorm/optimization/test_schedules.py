"""The learning rate rises evenly and falls along a cosine; matrices of layers decay, embeddings and biases do not."""

import pytest
from torch import nn

from soundstorm.optimization.schedules import cosine_between, warm_up
from soundstorm.optimization.weight_decay import parameter_groups


def test_the_rate_rises_evenly_over_the_first_share_of_the_steps_and_then_stays() -> None:
    assert [warm_up(step, 20, 0.2) for step in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert warm_up(0, 20, 0.0) == warm_up(0, 3, 0.1) == 1.0


def test_a_cosine_is_halfway_in_the_middle_and_stays_at_its_end() -> None:
    assert cosine_between(1.0, 0.0, 0.0) == 1.0 and cosine_between(0.2, 0.6, 0.5) == pytest.approx(0.4)
    assert cosine_between(1.0, 0.25, 1.0) == cosine_between(1.0, 0.25, 7.0) == 0.25


def test_matrices_of_layers_decay_and_embeddings_biases_and_frozen_weights_do_not() -> None:
    model = nn.ModuleDict({"embedding": nn.Embedding(3, 2), "linear": nn.Linear(2, 4), "frozen": nn.Linear(2, 2)})
    model["frozen"].requires_grad_(False)
    decayed, others = parameter_groups(model, 0.1)
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.1, 0.0)
    assert [list(value.shape) for value in decayed["params"]] == [[4, 2]]
    assert [list(value.shape) for value in others["params"]] == [[3, 2], [4]]
