"""Networks without memory: their names and shapes, at no cost."""

import subprocess
import sys

import torch

from soundstorm.classification.cnn import AudioClassifier
from soundstorm.model.generators import make_generator
from soundstorm.model.presets import preset
from soundstorm.serialization.without_memory import without_memory


def test_a_network_without_memory_has_the_names_and_shapes_of_one_with_it() -> None:
    for make in (lambda: make_generator(preset("tiny").model), lambda: AudioClassifier(5)):
        with without_memory():
            tensors = make().state_dict()
        expected = make().state_dict()
        assert {name: value.shape for name, value in tensors.items()} == {
            name: value.shape for name, value in expected.items()
        }
        assert any(value.is_meta for value in tensors.values())


def test_what_is_made_afterwards_has_random_weights_again() -> None:
    with without_memory():
        torch.nn.Linear(3, 4)
    assert float(torch.nn.Linear(300, 4).weight.detach().std()) > 0


def test_reading_the_packaged_model_does_not_load_the_compiler_of_torch() -> None:
    program = (
        "import sys; from pathlib import Path; from soundstorm.model.checkpoints import load_checkpoint; "
        "from soundstorm.serialization.bundled import bundled_file; load_checkpoint(Path(str(bundled_file('esc50')))); "
        "assert 'torch._dynamo' not in sys.modules and 'sympy' not in sys.modules"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=240, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
